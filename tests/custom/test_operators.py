"""Operators of one's own: followed functions, versions, ops with loops."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton
from lepton import custom
from lepton.codegen.group import Group, LowerOptions
from lepton.codegen.kernel import Kernel
from lepton.codegen.loops import Const, For, Ref, Update, Var
from lepton.codegen.lower.fused import Fused
from lepton.codegen.lower.nest import cut, grain_for, nest_loops
from lepton.frontends import load
from lepton.ir.diagnostics import LeptonError, UsageError
from lepton.ir.parser import parse
from lepton.ir.printer import show
from tests.custom.models import F32, HARD
from tests.frontends.build import text_model


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_followed_operator() -> None:
    @custom.traced("my::Affine")
    def affine(x: Any, b: Any = None, *, scale: float, parts: tuple[int, ...] = (1, 2), kind: str = "id",
               flip: bool = False) -> Any:
        y = x * scale + sum(parts) + (0 if b is None else b)
        return {"id": y, "tanh": np.tanh(y)}[kind] * (-1 if flip else 1), y

    for pinned in (True, False):
        got = custom.run("my::Affine", HARD, outputs=2, pinned=pinned, scale=2.0, parts=[4, 5], kind="tanh", flip=1)
        for g, w in zip(got, affine(HARD, scale=2.0, parts=(4, 5), kind="tanh", flip=True), strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-6)
    np.testing.assert_array_equal(custom.run("my::Affine", HARD, HARD, scale=0.5), affine(HARD, HARD, scale=0.5)[1])
    np.testing.assert_array_equal(custom.run("my::Affine", np.zeros((0, 2), F32), scale=0.5), np.zeros((0, 2)))
    for attributes, said in (({}, "attribute 'scale' is missing"), ({"scale": 1}, "of type int, expected float"),
                             ({"scale": 1.0, "more": 2}, "attribute 'more'")):
        with pytest.raises(LeptonError, match=said):
            custom.run("my::Affine", HARD, **attributes)
    with pytest.raises(LeptonError, match="at most 2"):
        custom.run("my::Affine", HARD, HARD, HARD, scale=1.0)
    with pytest.raises(LeptonError, match="input 0 is missing"):
        custom.run("my::Affine", None, HARD, scale=1.0)


def test_any_number_of_inputs_and_versions() -> None:
    @custom.traced("my::Total")
    def total(*xs: Any) -> Any:
        return sum(xs)

    @custom.traced("my::Total", since=2)
    def scaled(*xs: Any) -> Any:
        return sum(xs) * 10

    x = np.arange(3, dtype=F32)
    np.testing.assert_array_equal(custom.run("my::Total", x, x, x), x * 3)
    newer = custom.model("my::Total", [x, x], {}, since=2)
    np.testing.assert_array_equal(lepton.compile(newer, dims={"x0_0": 3, "x1_0": 3})(x, x), x * 20)


def test_declared_again_the_last_one_holds() -> None:
    for factor in (2, 3):
        @custom.traced("my::Times")
        def times(x: Any, *, factor: int = factor) -> Any:
            return x * 1.0 * factor

        @custom.host_function("my::Host", lambda x: x)
        def host(x: Any) -> Any:
            return x
    np.testing.assert_array_equal(custom.run("my::Times", np.ones(2, F32)), [3, 3])


@pytest.mark.parametrize("name", ["Relu", "::Relu", "my::", "ai.onnx::Relu", "ai.onnx.ml::Scaler"])
def test_names(name: str) -> None:
    with pytest.raises(UsageError):
        custom.importer(name)(lambda c: c.x(0))


# --- an op of its own, with loops -------------------------------------------------------------------


def declare_running_max() -> Any:
    @custom.operator("my::RunningMax", lambda x: x)
    def running_max(x: Any) -> Any:
        return np.maximum.accumulate(x, axis=-1)

    @custom.lowers(running_max, fused=True)
    def loops(group: Group, options: LowerOptions) -> Kernel:
        fused = Fused(group)
        nest, (*rows, length), dtype = fused.nest, fused.result.shape, fused.result.dtype
        tasks = cut(rows or [1], vector=False, work=64)
        coords, around = nest_loops(rows or [1], tasks, nest, vector=False)
        best, k = Ref(nest.fresh("best"), dtype), nest.var("k")
        at, body = [*coords[:len(rows)], k], list[Any]()
        x = fused.before(0, at, body)
        step = For(k.name, nest.size(length), (*body, Update(best.name, "maximum", x), *fused.stores(at, best)))
        return nest.kernel(around.around([Var(best.name, Const(float("-inf"), dtype)), step]), tasks.count,
                           grain=grain_for(tasks), writes=group.outputs)

    return running_max


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("x", [HARD, HARD[0], HARD[:, :0], HARD[:0], np.zeros((3, 1, 70), F32)], ids=np.shape)
def test_an_op_with_loops(x: np.ndarray, pinned: bool) -> None:
    declare_running_max()
    np.testing.assert_array_equal(custom.run("my::RunningMax", x, pinned=pinned), np.maximum.accumulate(x, axis=-1))


def test_other_ops_are_fused_to_it() -> None:
    declare_running_max()
    proto = text_model("""<ir_version: 10, opset_import: ["" : 20, "my" : 1]>
        m (float[N,M] x) => (float[N,M] y) { a = Neg(x)  b = my.RunningMax(a)  y = Mul(b, x) }""")
    model = lepton.compile(proto, level=3)
    assert model.metadata["statistics"]["kernels"] == 1
    x = np.random.default_rng(0).normal(size=(9, 33)).astype(F32)
    np.testing.assert_array_equal(model(x), np.maximum.accumulate(-x, axis=-1) * x)
    graph = load(proto)
    assert show(parse(show(graph))) == show(graph)
