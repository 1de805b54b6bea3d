"""Loops, scans and sizes that depend on data, compiled, against their meaning; on every level of nesting tried."""
from __future__ import annotations

import numpy as np
import pytest

import lepton
from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.dims import sym
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType

LONG, FLAG = TensorType(DType.I64, ()), TensorType(DType.BOOL, ())


def value(name: str, type: TensorType) -> Value:
    return Value(type, name=name)


def constant(array: object, dtype: DType) -> Value:
    return ops.constant(value=Tensor.of(np.asarray(array, dtype.numpy)))


def check(graph: Graph, *inputs: Array) -> None:
    """In process and at two levels, on one thread and two, the same as the interpreter."""
    want = evaluate(graph, *inputs)
    for level in (0, 2):
        model = lepton.compile(graph, level=level)
        for threads in (1, 2):
            feeds = {port.name: x for port, x in zip(model.inputs, inputs, strict=True)}
            got = list(model.session(threads).run(feeds).values())
            for g, w in zip(got, want, strict=True):
                assert (g.shape, g.dtype) == (w.shape, w.dtype)
                np.testing.assert_allclose(g, w, rtol=1e-6)


def doubling(row: TensorType) -> Graph:
    """x -> 2x, collecting x, while the sum stays below 100."""
    count, going, x = value("i", LONG), value("go", FLAG), value("x", row)
    twice = ops.add(x, x)
    total = ops.reduce_sum(twice, axes=(0,))
    more = ops.less(total, constant(100, DType.F32))
    return Graph.of("body", (count, going, x), (more, twice, ops.mul(x, ops.cast(count, to=DType.F32))))


@pytest.mark.parametrize("trip", [0, 1, 3, 50])
@pytest.mark.parametrize("size", [0, 1, 17])
@pytest.mark.parametrize("open_size", [False, True])
def test_loop_with_early_exit_and_collected_values(trip: int, size: int, open_size: bool) -> None:
    row = TensorType(DType.F32, (sym("N") if open_size else size,))
    limit, x = value("limit", LONG), value("x", row)
    node = ops.loop_.node(limit, None, x, carried=1, symbols=("rounds",), regions=(doubling(row),))
    last, rows = node.results
    last.name, rows.name = "last", "rows"
    graph = Graph.of("g", (limit, x), (last, rows, ops.neg(rows)))
    check(graph, np.array(trip, np.int64), np.linspace(0.5, 2, size, dtype=np.float32))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_scan_in_both_directions(reverse: bool, steps: int) -> None:
    total, row, bias = (value(n, TensorType(DType.F32, (3,))) for n in ("total", "row", "bias"))
    new = ops.add(total, ops.mul(row, bias))
    body = Graph.of("body", (total, row, bias), (new, ops.neg(new)))
    start, xs = value("start", TensorType(DType.F32, (3,))), value("xs", TensorType(DType.F32, (3, sym("T"))))
    outer = value("bias", TensorType(DType.F32, (3,)))
    node = ops.scan.node(start, xs, outer, carried=1, input_axes=(1,), output_axes=(1,), input_reverse=(reverse,),
                         output_reverse=(reverse,), regions=(body,))
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((3,), (3, steps), (3,))]
    check(Graph.of("g", (start, xs, outer), node.results), *arrays)


@pytest.mark.parametrize(("first", "last", "step"), [(0, 7, 2), (5, 5, 1), (9, 0, -4), (3, 0, 1), (1, 4, 0)])
@pytest.mark.parametrize("dtype", [DType.I64, DType.I32, DType.F32])
def test_range(first: int, last: int, step: int, dtype: DType) -> None:
    kind = TensorType(dtype, ())
    ends = [value(n, kind) for n in ("first", "last", "step")]
    counted = ops.range_(*ends, symbol="count")
    graph = Graph.of("g", ends, (counted, ops.shape_values(dims=(sym("count") * 2,)), ops.neg(counted)))
    check(graph, *(np.array(x, dtype.numpy) for x in (first, last, step)))


@pytest.mark.parametrize("shape", [(0,), (1,), (5, 7), (2, 3, 4)])
def test_non_zero_then_gather(shape: tuple[int, ...]) -> None:
    x = value("x", TensorType(DType.F32, shape))
    found = ops.non_zero(x, symbol="hits")
    rng = np.random.default_rng(0)
    array = (rng.standard_normal(shape) * rng.integers(0, 2, shape)).astype(np.float32)
    array.reshape(-1)[:1] = np.nan
    check(Graph.of("g", (x,), (found, ops.gather_nd(x, ops.transpose(found, perm=(1, 0))))), array)
