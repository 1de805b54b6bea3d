"""Random draws, compiled: the interpreter's, bit by bit, on every target, level and number of threads."""
from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton
import lepton.codegen.lower
from lepton.codegen.target import Target
from lepton.ir import ops
from lepton.ir.core import Graph, Value, clone
from lepton.ir.diagnostics import UsageError
from lepton.ir.dims import Dim, sym
from lepton.ir.evaluate import evaluate
from lepton.ir.op import Op
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from lepton.passes.base import Math
from lepton.passes.default import pipeline_for
from lepton.passes.pipeline import Pipeline
from tests.codegen.harness import HERE, gaps, run_node, value

LONG, FLAG, STATE = TensorType(DType.I64, ()), TensorType(DType.BOOL, ()), (2,)
DRAWS = [ops.random_uniform, ops.random_normal]


@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
@pytest.mark.parametrize("op", DRAWS, ids=lambda o: o.name)
@pytest.mark.parametrize("dtype", [DType.F32, DType.F64, DType.F16, DType.BF16], ids=lambda d: d.value)
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (7, 13), (3, 5, 70)], ids=str)
def test_kernels_give_the_same_bits(target: Target, op: Op, dtype: DType, shape: tuple[int, ...]) -> None:
    state = value(STATE, DType.U64)
    array = np.array([0x0123456789ABCDEF, 2**40 + 3], np.uint64)
    more: dict[str, Any] = {"low": -2.0, "high": 1.5} if op is ops.random_uniform else {"mean": -1.0, "scale": 0.25}
    node = op.node(state, shape=shape, dtype=dtype, **more)
    layouts = {node.result: gaps} if shape == (7, 13) else {}
    (got,) = run_node(node, {state: array}, target, layouts=layouts)
    assert got.tobytes() == op.reference(array, shape=shape, dtype=dtype, **more).tobytes()


def drawn(shape: Sequence[Dim], stream: int, op: Op = ops.random_normal, seed: int = -1) -> Value:
    return op(ops.draw_state(stream=stream, seed=seed), shape=tuple(shape), dtype=DType.F32)


def model_graph() -> Graph:
    """Two draws that look the same, a pinned one, and one that two readers fuse with."""
    x = value((sym("N"), 33), name="x")
    shape = x.tensor.shape
    a, b, c = drawn(shape, 1), drawn(shape, 2), drawn(shape, 3, ops.random_uniform, seed=9)
    d = drawn(shape, 4, ops.random_uniform)
    outputs = [ops.add(x, a), ops.add(x, b), c, ops.mul(d, x), ops.neg(d)]
    for i, v in enumerate(outputs):
        v.name = f"y{i}"
    return Graph.of("g", (x,), outputs)


def same(got: dict[str, Array], want: Sequence[Array]) -> bool:
    return [g.tobytes() for g in got.values()] == [w.tobytes() for w in want]


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
def test_models_draw_what_the_interpreter_draws(target: Target, level: int) -> None:
    model = lepton.compile(model_graph(), target=target.name, level=level, seed=11)
    for rows in (1, 700):
        x = np.ones((rows, 33), np.float32)
        want = evaluate(model_graph(), x, seed=11)
        for threads in (1, 2):
            assert same(model.session(threads).run({"x": x}), want)


def test_sessions() -> None:
    """A session goes on from run to run; seeds and new sessions start again; pinned draws ignore the seed."""
    model, x = lepton.compile(model_graph()), np.ones((3, 33), np.float32)
    first, second = (model.run({"x": x}) for _ in range(2))
    assert all((first[n] != second[n]).mean() > 0.9 for n in first)
    other = model.session()
    assert same(other.run({"x": x}), list(first.values()))
    assert same(other.run({"x": x}), list(second.values()))
    other.seed(2**64 - 1)
    third = other.run({"x": x})
    assert [bool((first[n] == third[n]).all()) for n in first] == [False, False, True, False, False]
    assert same(third, evaluate(model_graph(), x, seed=2**64 - 1))
    model.seed(0)
    assert same(model.run({"x": x}), list(first.values()))
    for wrong in (-1, 2**64):
        with pytest.raises(UsageError, match="must fit 64 bits"):
            model.seed(wrong)
        with pytest.raises(UsageError, match="must fit 64 bits"):
            lepton.compile(model_graph(), seed=wrong)


def test_sessions_of_several_threads_do_not_mix() -> None:
    model, x = lepton.compile(model_graph(), threads=2), np.ones((40, 33), np.float32)
    alone = model.session().run({"x": x})
    found: list[bool] = []

    def work() -> None:
        session = model.session()
        found.append(same(session.run({"x": x}), list(alone.values())))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == [True] * 4


def test_every_round_of_a_loop_draws_anew() -> None:
    """And a branch that is not taken does not draw."""
    going, i, total = (Value(t) for t in (FLAG, LONG, TensorType(DType.F32, (5,))))
    quiet = Graph.of("else", (a := Value(TensorType(DType.F32, (5,))),), (ops.neg(a),))
    loud = Graph.of("then", (b := Value(TensorType(DType.F32, (5,))),), (ops.add(b, drawn((5,), 1)),))
    odd = ops.equal(ops.mod(i, constant(2)), constant(1))
    made = ops.if_.node(odd, total, symbols=(), regions=(loud, quiet)).result
    body = Graph.of("body", (i, going, total), (going, made, drawn((5,), 2)))
    limit, start = value((), DType.I64, "limit"), value((5,), name="start")
    node = ops.loop_.node(limit, None, start, carried=1, symbols=("rounds",), regions=(body,))
    for r, name in zip(node.results, ("last", "rows"), strict=True):
        r.name = name
    graph = Graph.of("g", (limit, start), node.results)
    feeds = {"limit": np.array(7), "start": np.zeros(5, np.float32)}
    want = evaluate(graph, *feeds.values())
    assert np.unique(want[1]).size == 35
    for level in (0, 2):
        assert same(lepton.compile(graph, level=level).run(feeds), want)


def constant(number: int) -> Value:
    return ops.constant(value=Tensor.of(np.array(number)))


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("math", ["strict", "fast"])
def test_no_pass_folds_merges_or_doubles_draws(level: int, math: Math) -> None:
    """Even where all that is drawn is of known size and hangs on nothing."""
    graph = Graph.of("g", (), [ops.exp(drawn((4,), 1, seed=3)), ops.exp(drawn((4,), 2, seed=3)),
                               ops.sub(d := drawn((4,), 3), ops.reduce_mean(d, axes=(0,), keepdims=True))])
    optimised = clone(graph)
    Pipeline(pipeline_for("x86", level, math)).run(optimised)
    streams = sorted(n.attrs["stream"] for n in optimised.walk() if n.op is ops.draw_state)
    assert streams == [1, 2, 3]
    for a, b in zip(evaluate(graph), evaluate(optimised), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.slow
def test_artifacts_keep_their_seed(tmp_path: Path) -> None:
    """Two targets in one file, the seed given when compiling, and another one when running."""
    path = tmp_path / "draws.so"
    lepton.compile_to(model_graph(), path, target="x86-avx2,x86-sse4", seed=21)
    model, x = lepton.load(path), np.ones((5, 33), np.float32)
    assert same(model.run({"x": x}), evaluate(model_graph(), x, seed=21))
    model.seed(4)
    assert same(model.run({"x": x}), evaluate(model_graph(), x, seed=4))
