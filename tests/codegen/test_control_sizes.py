"""Branches of different sizes, loops whose values change size, guards that count only where they are come to: compiled
against their meaning, at two levels and on one thread and two."""
from __future__ import annotations

import numpy as np
import pytest

import lepton
from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import sym
from lepton.ir.types import DType, TensorType
from tests.codegen.test_control import FLAG, LONG, check, constant, value

F, N, M = DType.F32, sym("N"), sym("M")


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def long(number: int) -> np.ndarray:
    return np.array(number, np.int64)


# --- branches -------------------------------------------------------------------------------------


def branches() -> Graph:
    """if flag: x without its last element, else: what of x is not zero, twice over; both then doubled."""
    flag, x = value("flag", FLAG), value("x", TensorType(F, (N,)))
    a, b = value("x", x.tensor), value("x", x.tensor)
    then = Graph.of("then", (a,), (ops.slice_(a, starts=(0,), sizes=(N - 1,), steps=(1,)), ops.neg(a)))
    found = ops.gather_nd(b, ops.transpose(ops.non_zero(b, symbol="hits"), perm=(1, 0)))
    other = Graph.of("else", (b,), (ops.concat(found, found, axis=0), b))
    node = ops.if_.node(flag, x, symbols=("size",), regions=(then, other))
    first, second = node.results
    first.name = "first"
    return Graph.of("g", (flag, x), (first, ops.add(first, first), ops.reduce_sum(first, axes=(0,)), second))


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("size", [1, 2, 37])
def test_branches_of_different_sizes(flag: bool, size: int) -> None:
    x = rows(size)
    x[::3] = 0
    check(branches(), np.array(flag), x)


def test_sessions_take_branches_by_turns() -> None:
    run = lepton.compile(branches()).session(1).run
    for size in (40, 1, 300, 7):
        for flag in (True, False, True):
            x = np.ones(size, np.float32)
            first = next(iter(run({"flag": np.array(flag), "x": x}).values()))
            assert first.shape == ((size - 1,) if flag else (2 * size,))


@pytest.mark.parametrize("level", [0, 2])
def test_guards_of_a_branch_count_only_where_it_runs(level: int) -> None:
    flag = value("flag", FLAG)
    x, y = value("x", TensorType(F, (N,))), value("y", TensorType(F, (M,)))
    (a, b), (c, d) = ([value(n, t.tensor) for n, t in (("x", x), ("y", y))] for _ in range(2))
    cut = ops.slice_(a, starts=(0,), sizes=(N - 3,), steps=(1,))
    then = Graph.of("then", (a, b), (ops.add(ops.reduce_sum(ops.add(a, b), axes=(0,)),
                                             ops.reduce_sum(cut, axes=(0,))),))
    other = Graph.of("else", (c, d), (ops.add(ops.reduce_sum(c, axes=(0,)), ops.reduce_sum(d, axes=(0,))),))
    graph = Graph.of("g", (flag, x, y), ops.if_.node(flag, x, y, regions=(then, other)).results)
    run = lepton.compile(graph, level=level).session(1).run

    def at(flag: bool, n: int, m: int) -> float:
        (out,) = run({"flag": np.array(flag), "x": np.ones(n, np.float32), "y": np.ones(m, np.float32)}).values()
        return float(out)

    assert at(False, 2, 5) == 7
    assert at(True, 4, 4) == 9
    with pytest.raises(LeptonError, match="must equal"):
        at(True, 4, 5)
    with pytest.raises(LeptonError, match="must not be negative"):
        at(True, 2, 2)
    assert at(False, 4, 5) == 9


# --- loops whose values change size ---------------------------------------------------------------


def growing(row: TensorType, start: int) -> Graph:
    """x -> x with a row of its sum behind it; all rows of the round's start collected are their count."""
    count, going = value("i", LONG), value("go", FLAG)
    kept = sym("kept")
    x = value("x", row.with_shape((kept, *row.shape[1:])))
    total = ops.reduce_sum(x, axes=(0,), keepdims=True)
    wider = ops.concat(x, ops.add(total, ops.cast(count, to=F)), axis=0)
    body = Graph.of("body", (count, going, x), (going, wider, ops.shape_values(dims=(kept,), scalar=True)))
    limit, first = value("limit", LONG), value("x", row.with_shape((start, *row.shape[1:])))
    node = ops.loop_.node(limit, None, first, carried=1, symbols=("rows", "rounds"), regions=(body,))
    last, sizes = node.results
    return Graph.of("g", (limit, first), (last, sizes, ops.neg(last), ops.shape_values(dims=(sym("rows"),))))


@pytest.mark.parametrize(("trip", "start", "width"), [
    (0, 0, 5), (0, 3, 1), (1, 0, 1), (1, 1, 5), (2, 3, 5), (9, 0, 5), (9, 3, 1)])
def test_a_carried_value_grows(trip: int, start: int, width: int) -> None:
    graph = growing(TensorType(F, (start, width)), start)
    check(graph, long(trip), rows(start, width))


def test_a_carried_value_grows_to_other_sizes_run_after_run() -> None:
    graph = growing(TensorType(F, (2, N)), 2)
    run = lepton.compile(graph).session(2).run
    for trip, width in ((3, 4), (50, 9), (0, 1), (7, 30)):
        last, sizes, _, count = run({"limit": long(trip), "x": np.ones((2, width), np.float32)}).values()
        assert last.shape == (2 + trip, width)
        assert list(sizes) == list(range(2, 2 + trip))
        assert list(count) == [2 + trip]


@pytest.mark.parametrize(("until", "size"), [(0.5, 1), (10, 0), (10, 17), (1000, 1), (1000, 17)])
def test_a_loop_without_a_limit_collects(until: float, size: int) -> None:
    count, going = value("i", LONG), value("go", FLAG)
    x = value("x", TensorType(F, (N,)))
    twice = ops.add(x, x)
    more = ops.less(ops.reduce_sum(twice, axes=(0,)), constant(until, F))
    if size == 0:
        more = ops.less(count, constant(5, DType.I64))
    body = Graph.of("body", (count, going, x), (more, twice, ops.neg(x), count))
    go, first = value("go", FLAG), value("x", x.tensor)
    node = ops.loop_.node(None, go, first, carried=1, symbols=("rounds",), regions=(body,))
    graph = Graph.of("g", (go, first), node.results)
    for flag in (True, False):
        check(graph, np.array(flag), np.abs(rows(size)))


@pytest.mark.parametrize("trip", [0, 1, 4])
def test_collected_values_whose_size_the_body_finds(trip: int) -> None:
    """non_zero of what goes in: the same count each round."""
    count, going, x = value("i", LONG), value("go", FLAG), value("x", TensorType(F, (9,)))
    found = ops.non_zero(x, symbol="hits")
    body = Graph.of("body", (count, going, x), (going, ops.neg(x), found))
    limit, first = value("limit", LONG), value("x", x.tensor)
    node = ops.loop_.node(limit, None, first, carried=1, symbols=("rounds", "each"), regions=(body,))
    graph = Graph.of("g", (limit, first), node.results)
    x0 = rows(9)
    x0[2:5] = 0
    check(graph, long(trip), x0)


def test_collected_values_must_keep_their_size() -> None:
    count, going = value("i", LONG), value("go", FLAG)
    upto = ops.range_(constant(0, DType.I64), count, constant(1, DType.I64), symbol="upto")
    body = Graph.of("body", (count, going), (going, upto))
    limit = value("limit", LONG)
    node = ops.loop_.node(limit, None, carried=0, symbols=("rounds", "each"), regions=(body,))
    run = lepton.compile(Graph.of("g", (limit,), node.results)).session(1).run
    assert next(iter(run({"limit": long(1)}).values())).shape == (1, 0)
    with pytest.raises(LeptonError, match="must keep its size"):
        run({"limit": long(3)})


@pytest.mark.parametrize("outer", [0, 1, 4])
@pytest.mark.parametrize("inner", [0, 3])
def test_nested_loops_that_grow(outer: int, inner: int) -> None:
    """The inner loop appends `inner` rows, the outer one does so again and again and collects the sizes."""
    a, b, c = sym("a"), sym("b"), sym("c")

    def step(kept: object, name: str) -> tuple[Value, Value, Value]:
        return value("i", LONG), value("go", FLAG), value(name, TensorType(F, (kept, 2)))  # type: ignore[arg-type]

    i, go, x = step(a, "x")
    most = value("most", LONG)
    j, on, y = step(b, "y")
    scale = value("scale", LONG)
    row = ops.broadcast_to(ops.cast(ops.add(j, scale), to=F), shape=(1, 2))
    inside = Graph.of("inner", (j, on, y, scale), (on, ops.concat(row, y, axis=0)))
    grown = ops.loop_.node(most, None, x, i, carried=1, symbols=("c",), regions=(inside,)).results[0]
    size = ops.shape_values(dims=(c,), scalar=True)
    body = Graph.of("outer", (i, go, x, most), (go, grown, size))
    limit, bound, first = value("limit", LONG), value("bound", LONG), value("x", TensorType(F, (1, 2)))
    node = ops.loop_.node(limit, None, first, bound, carried=1, symbols=("d", "rounds"), regions=(body,))
    check(Graph.of("g", (limit, bound, first), node.results), long(outer), long(inner), rows(1, 2))


@pytest.mark.parametrize("trip", [0, 1, 6])
def test_a_branch_in_a_loop_grows_it_or_not(trip: int) -> None:
    """Every second round appends."""
    k = sym("k")
    count, going, x = value("i", LONG), value("go", FLAG), value("x", TensorType(F, (k,)))
    odd = ops.equal(ops.mod(count, constant(2, DType.I64), fmod=False), constant(1, DType.I64))
    a, b = value("x", x.tensor), value("x", x.tensor)
    then = Graph.of("then", (a,), (ops.concat(a, ops.reduce_max(a, axes=(0,), keepdims=True), axis=0),))
    other = Graph.of("else", (b,), (ops.neg(b),))
    picked = ops.if_.node(odd, x, symbols=("either",), regions=(then, other)).results[0]
    body = Graph.of("body", (count, going, x), (going, picked))
    limit, first = value("limit", LONG), value("x", TensorType(F, (3,)))
    node = ops.loop_.node(limit, None, first, carried=1, symbols=("out",), regions=(body,))
    check(Graph.of("g", (limit, first), node.results), long(trip), rows(3))


@pytest.mark.parametrize("flag", [False, True])
def test_a_loop_in_a_branch(flag: bool) -> None:
    cond, x = value("flag", FLAG), value("x", TensorType(F, (2, 3)))
    k = sym("k")
    count, going, y = value("i", LONG), value("go", FLAG), value("y", TensorType(F, (k, 3)))
    body = Graph.of("body", (count, going, y), (going, ops.concat(y, y, axis=0)))
    a, b = value("x", x.tensor), value("x", x.tensor)
    grown = ops.loop_.node(constant(3, DType.I64), None, a, carried=1, symbols=("many",), regions=(body,)).results[0]
    node = ops.if_.node(cond, x, symbols=("rows",), regions=(Graph.of("then", (a,), (grown,)),
                                                             Graph.of("else", (b,), (b,))))
    check(Graph.of("g", (cond, x), (*node.results, ops.neg(node.results[0]))), np.array(flag), rows(2, 3))


# --- sizes that are found while others are already in use -------------------------------------------


@pytest.mark.parametrize("size", [1, 5, 40])
def test_a_concat_of_what_is_known_and_what_is_found(size: int) -> None:
    """The first part is made before the size of the second is known."""
    x = value("x", TensorType(F, (N,)))
    found = ops.gather_nd(x, ops.transpose(ops.non_zero(x, symbol="hits"), perm=(1, 0)))
    other = ops.gather_nd(x, ops.transpose(ops.non_zero(ops.less(x, constant(0, F)), symbol="less"), perm=(1, 0)))
    array = rows(size)
    array[::2] = 0
    check(Graph.of("g", (x,), (ops.concat(ops.neg(x), found, other, axis=0), ops.concat(other, found, axis=0))), array)


def test_guards_of_found_sizes_are_checked_before_they_are_relied_on() -> None:
    x, y = value("x", TensorType(F, (N,))), value("y", TensorType(F, (M,)))
    first = ops.gather_nd(x, ops.transpose(ops.non_zero(x, symbol="a"), perm=(1, 0)))
    second = ops.gather_nd(y, ops.transpose(ops.non_zero(y, symbol="b"), perm=(1, 0)))
    both = ops.add(first, second)
    graph = Graph.of("g", (x, y), (both, ops.non_zero(both, symbol="c")))
    run = lepton.compile(graph).session(1).run
    feeds = {"x": np.array([1, 0, 2], np.float32), "y": np.array([0, 5, 7, 0], np.float32)}
    assert next(iter(run(feeds).values())).tolist() == [6, 9]
    with pytest.raises(LeptonError, match="must equal"):
        run(feeds | {"y": np.ones(100000, np.float32)})
    assert next(iter(run(feeds).values())).tolist() == [6, 9]
