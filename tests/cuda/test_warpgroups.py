"""Products by warp groups on the simulator: a ring of places that one group fills and two empty, tile after tile."""
from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from lepton.codegen.cuda import warpgroups
from lepton.codegen.cuda.templates.warpgroup import WarpgroupProduct, WarpgroupTile
from lepton.ir import ops
from lepton.ir.dims import sym
from lepton.ir.types import DType
from tests.codegen import harness
from tests.cuda import simulated
from tests.cuda.checking import BODIES, check, constant, node_of, random, rng
from tests.cuda.simulated import COMPILER

pytestmark = [
    pytest.mark.usefixtures("on_simulator"),
    pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++"),
    pytest.mark.skipif(sys.platform != "linux", reason="the simulator switches stacks as Linux on x86-64 does")]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small products too, whose blocks take several tiles."""
    monkeypatch.setattr(warpgroups, "ENOUGH_TILES", 1)
    monkeypatch.setattr(simulated, "BLOCKS", 2)


def columns_of_last() -> int:
    return int(BODIES[-1].tile.columns)


@pytest.mark.parametrize(("dtype", "n", "columns"), [
    (DType.F16, 250, 256), pytest.param(DType.BF16, 120, 128, marks=pytest.mark.slow),
    pytest.param(DType.F16, 190, 64, marks=pytest.mark.slow)], ids=str)
def test_products(dtype: DType, n: int, columns: int) -> None:
    """Ragged everywhere; three tiles of rows for two blocks; more steps than places."""
    k, m = 72 + 64 * 8, sym("m")
    a, w = harness.value((m, k), dtype), constant(random((k, n), dtype))
    arrays = {a: random((270, k), dtype)}
    check(node_of(ops.matmul(a, w)), arrays, WarpgroupProduct, env={"m": 270}, rtol=2e-5, atol=2e-5)
    assert columns_of_last() == columns


@pytest.mark.slow
def test_views() -> None:
    """Rows that do not lie in runs of 16 bytes are read one by one; entries of a batch share the weights."""
    a, w = harness.value((3, 130, 200), DType.F16), constant(random((200, 64), DType.F16))
    arrays = {a: random((3, 130, 200), DType.F16)}
    for layout in (harness.reversed_axes, harness.gaps):
        check(node_of(ops.matmul(a, w)), arrays, WarpgroupProduct, layouts={a: layout}, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("group", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_convolutions(group: int) -> None:
    shape, filters = (2, 9, 8, 32 * group), 64 * group
    x, w = harness.value(shape, DType.F16), constant(random((filters, 32, 3, 3), DType.F16))
    node = ops.conv.node(x, w, None, layout="nhwc", strides=(1, 1), pads_begin=(1, 1), pads_end=(1, 1),
                         dilations=(1, 1), group=group)
    check(node, {x: random(shape, DType.F16)}, WarpgroupProduct, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("left", [DType.U8, pytest.param(DType.I8, marks=pytest.mark.slow)])
def test_bytes(left: DType) -> None:
    low = -128 if left.is_signed else 0
    def draw(shape: tuple[int, ...]) -> Any:
        return rng.integers(low, low + 256, shape).astype(left.numpy)

    a, za = harness.value((150, 300), left), harness.value((), left)
    w = rng.integers(-128, 128, (300, 60)).astype(np.int8)
    node = ops.matmul_integer.node(a, constant(w), za, None)
    check(node, {a: draw((150, 300)), za: draw(())}, WarpgroupProduct)
    x = harness.value((1, 12, 11, 32), left)
    filters = constant(rng.integers(-128, 128, (64, 32, 3, 3)).astype(np.int8))
    node = ops.conv_integer.node(x, filters, constant(draw(())), None, layout="nhwc", strides=(1, 1), pads_begin=(1, 1),
                                 pads_end=(1, 1), dilations=(1, 1), group=1)
    check(node, {x: draw((1, 12, 11, 32))}, WarpgroupProduct)


def test_packing() -> None:
    """Rows of 128 bytes whose chunks are permuted; what fills up the last ones is 0."""
    weights = rng.integers(1, 1000, (1, 70, 100)).astype(np.uint16)
    tile = WarpgroupTile("f16", 64, 4)
    packed = tile.packed(weights)
    assert packed.shape == (1, 2, 2, 64, 8, 8)
    for n, k in ((0, 0), (3, 17), (63, 99), (69, 64)):
        row, chunk = n % 64, k % 64 // 8
        assert packed[0, n // 64, k // 64, row, chunk ^ (row % 8), k % 8] == weights[0, n, k]
    assert not packed[0, 1, :, 6:].any()
    assert int(packed.astype(np.int64).sum()) == int(weights.astype(np.int64).sum())


def test_who_is_worth_it() -> None:
    """Small products, few rows, short rows and other GPUs stay with warps."""
    halves = np.zeros((1, 4096, 1024), np.uint16)
    from lepton.codegen.target import CUDA_TARGETS

    new, old = CUDA_TARGETS["cuda-sm90"], CUDA_TARGETS["cuda-sm80"]
    found = warpgroups.warpgroup_tile(new, "f16", halves, 4096, 1)
    assert found is not None
    assert found.columns == 256
    assert warpgroups.warpgroup_tile(old, "f16", halves, 4096, 1) is None
    assert warpgroups.warpgroup_tile(new, "f16", halves, 64, 1) is None
    assert warpgroups.warpgroup_tile(new, "f16", halves[:, :, :64], 4096, 1) is None
    assert warpgroups.warpgroup_tile(new, "tf32x3", halves, 4096, 1) is None
