"""Maps in runs of 16 bytes and copies that turn rows into columns, on the simulator."""
from __future__ import annotations

import sys

import numpy as np
import pytest

from lepton.codegen.cuda.templates.moves import FlatMap, Turn
from lepton.codegen.group import LowerOptions, copy_group
from lepton.codegen.kernel import Access, dense_strides
from lepton.codegen.llvm.spell import LoopBody
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import sym
from lepton.ir.types import DType, TensorType
from tests.codegen import harness
from tests.cuda.checking import BODIES, check, node_of, random, rng
from tests.cuda.simulated import COMPILER, CUDA

pytestmark = [
    pytest.mark.usefixtures("on_simulator"),
    pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++"),
    pytest.mark.skipif(sys.platform != "linux", reason="the simulator switches stacks as Linux on x86-64 does")]


def turn(shape: tuple[int, ...], perm: tuple[int, ...], dtype: DType, kind: type, *, sizes: bool = False) -> None:
    """Copy a transposed view to dense memory; `sizes`: they are known at run time only."""
    x = harness.Placed(np.empty(shape, dtype.numpy), harness.dense)
    x.view[...] = given = rng.integers(0, 200, shape).astype(dtype.numpy)
    names = [sym(f"s{i}") for i in range(len(shape))] if sizes else shape
    source = Value(TensorType(dtype, tuple(names[p] for p in perm)))
    strides = dense_strides(tuple(names))
    to = tuple(shape[p] for p in perm)
    out = harness.Placed(np.zeros(to, dtype.numpy), harness.dense)
    target = Value(source.tensor)
    accesses = {source: Access(source.tensor, tuple(strides[p] for p in perm)),
                target: Access(target.tensor, dense_strides(target.tensor.shape))}
    kernel = harness.lower(copy_group(source, target, accesses.__getitem__), LowerOptions(CUDA))
    assert isinstance(kernel.body, kind), kernel.body
    env = {f"s{i}": n for i, n in enumerate(shape)}
    harness.run_kernel(kernel, {source: x, target: out}, CUDA, env)
    np.testing.assert_array_equal(out.view, given.transpose(perm))
    out.check()


@pytest.mark.parametrize(("shape", "run"), [
    ((3, 5, 7), 4), *(pytest.param(s, 4, marks=pytest.mark.slow) for s in ((1, 4096), (2, 1)))], ids=str)
def test_flat_maps(shape: tuple[int, ...], run: int) -> None:
    """Whole runs and a rest, at every offset from 16 bytes that the guarded memory gives them."""
    x, y = harness.value(shape), harness.value(shape)
    check(node_of(ops.sub(x, y)), {x: random(shape), y: random(shape)}, FlatMap)
    assert BODIES[-1].run == run


def test_run_time_sizes() -> None:
    """One artifact for no elements, one, and many; NaN, infinities and -0 come through."""
    n = sym("n")
    x = harness.value((n,))
    for count in (0, 1, 301):
        given = random((count,))
        given[:4] = np.array([np.nan, -np.inf, -0.0, 3.4e38], np.float32)[:count]
        check(node_of(ops.neg(x)), {x: given}, FlatMap, env={"n": count})


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "to", "run"), [
    (DType.F16, DType.F32, 4), (DType.U8, DType.BOOL, 16), (DType.F64, DType.U8, 2), (DType.I32, DType.I64, 2),
    (DType.BF16, DType.F16, 8)], ids=str)
def test_types_of_several_sizes(dtype: DType, to: DType, run: int) -> None:
    x = harness.value((77,), dtype)
    given = rng.integers(0, 100, 77).astype(dtype.numpy)
    check(node_of(ops.cast(x, to=to)), {x: given}, FlatMap)
    assert BODIES[-1].run == run


def test_numbers_beside_arrays() -> None:
    x, y = harness.value((130,)), harness.value(())
    check(node_of(ops.mul(x, y)), {x: random((130,)), y: np.array(3, np.float32)}, FlatMap)


def test_rows_that_do_not_touch_go_by_loops() -> None:
    x = harness.value((6, 33))
    check(node_of(ops.relu(x)), {x: random((6, 33))}, LoopBody, layouts={x: harness.gaps})


@pytest.mark.parametrize(("shape", "perm", "dtype"), [
    ((70, 45), (1, 0), DType.F32), ((2, 35, 3, 40), (0, 3, 2, 1), DType.F16),
    pytest.param((3, 33, 66), (2, 0, 1), DType.U8, marks=pytest.mark.slow),
    pytest.param((2, 20, 17), (0, 2, 1), DType.F64, marks=pytest.mark.slow)], ids=str)
def test_rows_become_columns(shape: tuple[int, ...], perm: tuple[int, ...], dtype: DType) -> None:
    turn(shape, perm, dtype, Turn)


@pytest.mark.slow
def test_rows_become_columns_of_any_number() -> None:
    for shape in ((2, 40, 50), (2, 1, 1), (1, 33, 31)):
        turn(shape, (0, 2, 1), DType.F32, Turn, sizes=True)


def test_small_copies_go_by_loops() -> None:
    turn((40, 3), (1, 0), DType.F32, LoopBody)
