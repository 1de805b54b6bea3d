"""Factorisation finds the dimensions that were planted, keeps to its error, and compiles."""
from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest

import lepton
from lepton.compress.factorize import factorize
from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import UsageError
from lepton.ir.dims import sym
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from lepton.passes.compress.cp import cp
from lepton.passes.compress.factors import Limits, depthwise, lost, product_of, svd, tucker
from lepton.passes.compress.layers import layers

RNG = np.random.default_rng(0)


def planted(form: str) -> Array:
    """[24,32,3,3] filters that are exactly of a form."""
    normal = RNG.standard_normal
    if form == "svd":
        return np.asarray(np.einsum("or,rckl->ockl", normal((24, 5)), normal((5, 32, 3, 3))))
    if form == "tucker":
        return np.asarray(np.einsum("os,srkl,rc->ockl", normal((24, 6)), normal((6, 4, 3, 3)), normal((4, 32))))
    if form == "cp":
        return np.asarray(np.einsum("or,rc,rkl->ockl", normal((24, 6)), normal((6, 32)), normal((6, 3, 3))))
    return np.asarray(np.einsum("ocm,cmkl->ockl", normal((24, 32, 1)), normal((32, 1, 3, 3))))


def network(weight: Array, layout: Literal["nchw", "nhwc"] = "nchw", **more: Any) -> Graph:
    shape = (sym("N"), 32, 9, 9) if layout == "nchw" else (sym("N"), 9, 9, 32)
    x = Value(TensorType(DType.F32, shape), name="x")
    attrs: dict[str, Any] = {"strides": (2, 2), "pads_begin": (1, 1), "pads_end": (1, 1), "dilations": (1, 1), **more}
    bias = ops.constant(value=Tensor.of(RNG.standard_normal(len(weight)).astype(np.float32)))
    y = ops.conv(x, ops.constant(value=Tensor.of(weight.astype(np.float32))), bias, **attrs, layout=layout)
    y.name = "y"
    return Graph.of("network", (x,), (y,))


@pytest.mark.parametrize("form", ["svd", "tucker", "depthwise"])
def test_planted_forms_are_found(form: str) -> None:
    weight = planted(form)
    limits = Limits(1e-9)
    made = {"svd": svd(weight, limits), "tucker": tucker(weight, limits), "depthwise": depthwise(weight, limits)}[form]
    shapes = {"svd": [(5, 32, 3, 3), (24, 5, 1, 1)], "tucker": [(4, 32, 1, 1), (6, 4, 3, 3), (24, 6, 1, 1)],
              "depthwise": [(32, 1, 3, 3), (24, 32, 1, 1)]}[form]
    assert [p.shape for p in made.parts] == shapes
    np.testing.assert_allclose(product_of(made), weight.reshape(24, -1), atol=1e-9)
    assert lost(weight, made) < 1e-9


def test_separable_terms_are_found() -> None:
    """Fitted, so not to the last digit; the other forms need more work for them."""
    weight = planted("cp")
    made = cp(weight, Limits(1e-4))
    assert [p.shape[1:] for p in made.parts] == [(32, 1, 1), (1, 3, 3), (len(made.parts[0]), 1, 1)]
    assert 6 <= len(made.parts[0]) <= 8
    assert lost(weight, made) < 1e-4
    np.testing.assert_allclose(product_of(made), weight.reshape(24, -1), atol=0.1)
    others = (svd(weight, Limits(1e-4)), tucker(weight, Limits(1e-4)), depthwise(weight, Limits(1e-4)))
    assert made.work < 0.9 * min(o.work for o in others)
    assert len(cp(weight, Limits(1e-4, 4)).parts[0]) == 8


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_separable_terms_compute_what_the_layer_did(layout: Any) -> None:
    graph = network(planted("cp"), layout, dilations=(2, 2))
    small = factorize(graph, 1e-3, "cp", multiple=1)
    assert [layer.groups > 1 for layer in layers(small)] == [False, True, False]
    x = RNG.standard_normal((2, *(int(d) for d in graph.inputs[0].tensor.shape[1:] if isinstance(d, int))))
    (want,), (mine,) = (evaluate(g, x.astype(np.float32)) for g in (graph, small))
    assert np.linalg.norm(mine - want) < 0.05 * np.linalg.norm(want)
    np.testing.assert_allclose(lepton.compile(small)(x.astype(np.float32)), mine, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("form", ["svd", "tucker", "depthwise", "best"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_factors_compute_what_the_layer_did(form: Any, layout: Any) -> None:
    graph = network(planted(form), layout, dilations=(2, 2)) if form != "best" else network(planted("tucker"), layout)
    small = factorize(graph, 1e-6, form, multiple=1)
    assert len(layers(small)) == {"svd": 2, "tucker": 3, "depthwise": 2, "best": 3}[form]
    x = RNG.standard_normal((2, *(int(d) for d in graph.inputs[0].tensor.shape[1:] if isinstance(d, int))))
    (want,) = evaluate(graph, x.astype(np.float32))
    for got in (evaluate(small, x.astype(np.float32))[0], lepton.compile(small)(x.astype(np.float32))):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("error", [0.0, 0.01, 0.1, 0.5])
def test_no_more_than_the_error_is_lost(error: float) -> None:
    weight = RNG.standard_normal((24, 32, 3, 3)) * np.linspace(1, 0.01, 32)[:, None, None]
    for made in (svd(weight, Limits(error)), tucker(weight, Limits(error)), depthwise(weight, Limits(error))):
        assert lost(weight, made) <= error + 1e-9
    assert svd(weight, Limits(error, 8)).parts[0].shape[0] % 8 == 0


def test_inputs_that_hardly_vary_cost_nothing() -> None:
    """Full rank by its weights; by its results, three dimensions."""
    x = Value(TensorType(DType.F32, (sym("N"), 40)), name="x")
    y = ops.matmul(x, ops.constant(value=Tensor.of(RNG.standard_normal((40, 30)).astype(np.float32))))
    y.name = "y"
    graph = Graph.of("g", (x,), (y,))
    data = (RNG.standard_normal((200, 3)) @ RNG.standard_normal((3, 40))).astype(np.float32)
    assert len(layers(factorize(graph, 0.001))) == 1
    small = factorize(graph, 0.001, data=data, multiple=1)
    assert [layer.weight.shape for layer in layers(small)] == [(40, 3), (3, 30)]
    (want,), (got,) = evaluate(graph, data), evaluate(small, data)
    assert np.square(got - want).sum() < 0.002 * np.square(want).sum()
    compiled = lepton.compile(small)(data)
    np.testing.assert_allclose(compiled, got, rtol=1e-3, atol=1e-3)


def test_zero_weights_and_unknown_forms() -> None:
    factorize(network(np.zeros((24, 32, 3, 3))), 0.1)
    with pytest.raises(UsageError, match="unknown form"):
        factorize(network(planted("svd")), form="sum")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no layer 'z'"):
        factorize(network(planted("svd")), only=("z",))
