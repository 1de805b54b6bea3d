"""Channel pruning: the smaller graph answers as the large one does whose readers see nothing of what went."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lepton.ir import ops
from lepton.ir.core import Graph, Value, clone
from lepton.ir.evaluate import evaluate
from lepton.ir.rewrite import tensor_of
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from lepton.ir.verify import verify
from lepton.passes.common import elements
from lepton.passes.compress.axes import Units, reshape_groups
from lepton.passes.compress.channels import DropDeadChannels, PruneChannels, families, remove
from lepton.passes.compress.layers import layers

RNG = np.random.default_rng(0)
ONE: dict[str, Any] = {"strides": (1, 1), "pads_begin": (0, 0), "pads_end": (0, 0), "dilations": (1, 1)}
THREE = ONE | {"pads_begin": (1, 1), "pads_end": (1, 1)}


def weight(*shape: int) -> Value:
    return ops.constant(value=Tensor.of(RNG.standard_normal(shape).astype(np.float32)))


def image(channels: int = 3, size: int = 6) -> Value:
    return Value(TensorType(DType.F32, (2, channels, size, size)), name="x")


def residual() -> Graph:
    """A stem, a bottleneck with a squeeze-and-excite gate around a grouped convolution, a shortcut, a classifier."""
    x = image()
    stem = ops.relu(ops.conv(x, weight(8, 3, 3, 3), weight(8), **THREE))
    inner = ops.relu(ops.conv(stem, weight(12, 8, 1, 1), weight(12), **ONE))
    inner = ops.conv(inner, weight(12, 3, 3, 3), weight(12), **THREE, group=4)
    squeezed = ops.reduce_mean(inner, axes=(2, 3), keepdims=True)
    gate = ops.sigmoid(ops.conv(ops.relu(ops.conv(squeezed, weight(4, 12, 1, 1), **ONE)), weight(12, 4, 1, 1), **ONE))
    inner = ops.mul(inner, gate)
    y = ops.relu(ops.add(stem, ops.conv(inner, weight(8, 12, 1, 1), **ONE)))
    y = ops.max_pool(y, kernel=(2, 2), strides=(2, 2), pads_begin=(0, 0), pads_end=(0, 0), dilations=(1, 1))
    y = ops.matmul(ops.reshape(y, shape=(2, 8 * 9)), weight(72, 5))
    return Graph.of("residual", (x,), (y,))


def dense_block() -> Graph:
    """Concats of concats, batch norms, depthwise with two filters each, a transposed convolution."""
    x = image()
    a = ops.conv(x, weight(6, 3, 1, 1), **ONE)
    b = ops.conv(ops.relu(a), weight(4, 6, 3, 3), **THREE)
    c = ops.concat(a, b, axis=1)
    c = ops.batch_norm(c, weight(10), weight(10), weight(10), ops.abs_(weight(10)), epsilon=1e-3)
    d = ops.conv(c, weight(20, 1, 3, 3), **THREE, group=10)
    e = ops.concat(d, a, axis=1)
    f = ops.conv_transpose(e, weight(26, 6, 2, 2), **(ONE | {"strides": (2, 2)}), output_padding=(0, 0))
    y = ops.conv(ops.leaky_relu(f, alpha=0.1), weight(3, 6, 1, 1), **ONE)
    return Graph.of("dense", (x,), (y,))


def transformer() -> Graph:
    """Heads split from one product of 3 * 4 * 5 columns, and a feed-forward part."""
    x = Value(TensorType(DType.F32, (2, 7, 20)), name="x")
    qkv = ops.reshape(ops.add(ops.matmul(x, weight(20, 60)), weight(60)), shape=(2, 7, 3, 4, 5))
    qkv = ops.transpose(qkv, perm=(2, 0, 3, 1, 4))
    q, k, v = (ops.gather(qkv, ops.constant(value=Tensor.of(np.int64(i))), axis=0) for i in range(3))
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, perm=(0, 1, 3, 2))), axis=3)
    mixed = ops.reshape(ops.transpose(ops.matmul(scores, v), perm=(0, 2, 1, 3)), shape=(2, 7, 20))
    y = ops.add(x, ops.matmul(mixed, weight(20, 20)))
    y = ops.layer_norm(y, weight(20), weight(20), axis=2, epsilon=1e-5)
    y = ops.add(y, ops.matmul(ops.gelu(ops.add(ops.matmul(y, weight(20, 32)), weight(32))), weight(32, 20)))
    return Graph.of("transformer", (x,), (y,))


def unseen(graph: Graph, units: Units, doomed: set[int]) -> None:
    """Zeros where a product's weight reads doomed channels."""
    for node in graph.nodes:
        if node.op in (ops.conv, ops.conv_transpose, ops.matmul) and tensor_of(w := node.inputs[1]) is not None:
            assert w is not None
            axis = 1 if node.op is ops.conv else 0
            labels = units.axes[w][axis]
            if labels is not None:
                gone = np.array([root in doomed for root in units.roots(labels)])
                masked = np.moveaxis(elements(w).copy(), axis, 0)
                masked[gone] = 0
                made = np.ascontiguousarray(np.moveaxis(masked, 0, axis))
                node.set_input(1, ops.constant(value=Tensor.of(made)))


def answers(graph: Graph) -> Array:
    shape = [n for n in graph.inputs[0].tensor.shape if isinstance(n, int)]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return evaluate(graph, x)[0]


def elements_of(graph: Graph) -> int:
    return sum(elements(n.result).size for n in graph.nodes if n.op is ops.constant)


@pytest.mark.parametrize(("make", "most"), [(residual, 0.55), (dense_block, 0.45), (transformer, 0.55)])
def test_smaller_graph_is_the_large_one_without(make: Callable[[], Graph], most: float) -> None:
    graph = make()
    small = clone(graph)
    units = Units(small)
    found = families(small, units, layers(small))
    assert len(found) >= 2
    doomed = {u for f in found for u in f.units[::2]}
    twin = Units(graph)   # clones number their labels alike
    assert remove(small, units, doomed)
    verify(small)
    unseen(graph, twin, doomed)
    np.testing.assert_allclose(answers(small), answers(graph), rtol=1e-4, atol=1e-4)
    assert elements_of(small) < most * elements_of(graph)


def test_grouped_convolutions_lose_whole_groups() -> None:
    graph = residual()
    PruneChannels(rate=0.5).run(graph)
    group = [n.attrs["group"] for n in graph.nodes if n.op is ops.conv]
    assert sorted(group)[-1] == 2


def test_rates_multiples_and_scopes() -> None:
    for multiple, kept in ((1, 8), (3, 9), (64, 32)):
        graph = transformer()
        PruneChannels(rate=0.75, multiple=multiple).run(graph)
        widths = [n.inputs[1].tensor.shape for n in graph.nodes if n.op is ops.matmul and n.inputs[1] is not None]
        assert (20, kept) in widths
    graph = transformer()
    before = elements_of(graph)
    PruneChannels(rate=0.5, across=True).run(graph)
    verify(graph)
    assert elements_of(graph) < 0.8 * before


def test_rate_zero_and_dead_channels_change_nothing() -> None:
    graph = transformer()
    assert not PruneChannels(rate=0.0).run(graph)
    assert not DropDeadChannels().run(graph)


def test_other_readers_keep_channels_alive() -> None:
    """A transposed convolution, a product of activations: their weights are not looked at, what they read stays."""
    x = image()
    a = ops.conv(x, weight(4, 3, 1, 1), **ONE)
    nothing = ops.constant(value=Tensor.of(np.zeros((2, 4, 1, 1), np.float32)))
    y = ops.conv_transpose(a, weight(4, 2, 1, 1), **ONE, output_padding=(0, 0))
    assert not DropDeadChannels().run(Graph.of("g", (x,), (ops.conv(a, nothing, **ONE), y)))


def test_what_is_large_stays() -> None:
    """The calibrated criterion keeps the channel whose weights are small and whose input is large."""
    from lepton.passes.compress.channels import prune_channels

    x = Value(TensorType(DType.F32, (1, 2)), name="x")
    wide = ops.matmul(x, ops.constant(value=Tensor.of(np.ones((2, 2), np.float32))))
    read = ops.matmul(wide, ops.constant(value=Tensor.of(np.array([[1.0], [0.5]], np.float32))))
    graph = Graph.of("g", (x,), (read,))
    names = [layer.name for layer in layers(graph)]
    assert prune_channels(graph, PruneChannels(), {names[1]: np.array([0.01, 100.0])})
    assert layers(graph)[-1].weight.tolist() == [[0.5]]


@pytest.mark.parametrize(("old", "new", "groups"), [
    ((2, 768), (2, 12, 64), [([0], [0]), ([1], [1, 2])]),
    ((2, 3, 4, 5), (2, 60), [([0], [0]), ([1, 2, 3], [1])]),
    ((1, 6, 1, 1), (6,), [([1], [0])]),
    ((2, 6), (3, 4), [([0, 1], [0, 1])]),
])
def test_reshape_groups(old: tuple[int, ...], new: tuple[int, ...], groups: object) -> None:
    assert reshape_groups(old, new) == groups
