"""Bugs planted in the CUDA templates: the simulator shows every one, by a wrong result, a fault or its own words."""
from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

import lepton.codegen.cuda.lowering
from lepton.codegen.cuda import products
from lepton.codegen.cuda.templates.moves import Turn
from lepton.codegen.cuda.templates.product import PlainTile, TensorTile, Tile
from lepton.codegen.cuda.templates.warpgroup import WarpgroupTile
from lepton.codegen.group import Group, LowerOptions, lowering_of
from lepton.codegen.kernel import Kernel, Packed
from lepton.codegen.target import Target
from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType
from tests.codegen import harness
from tests.cuda import simulated
from tests.cuda.forked import succeeds
from tests.cuda.test_moves import turn

assert lepton.codegen.cuda.lowering
pytestmark = [
    pytest.mark.slow, pytest.mark.skipif(simulated.COMPILER is None, reason="the simulator needs g++"),
    pytest.mark.skipif(sys.platform != "linux", reason="the simulator switches stacks as Linux on x86-64 does")]
Case = tuple[Node, Mapping[Value, Array]] | Callable[[], None]  # what is checked, or who checks
PLANTED: set[str] = set()   # bugs whose place was met, in this process
RUNS = [(late, seed) for late in (True, False) for seed in (1, 2, 3)]


def random(shape: tuple[int, ...], dtype: DType = DType.F32) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype.numpy)


def product(tile: Tile, dtype: DType, m: int = 70, n: int = 90) -> Case:
    products.tile_of = lambda *_: tile  # in a process of its own
    a, b = harness.value((m, 150), dtype), harness.value((150, n), dtype)
    node = ops.matmul(a, b).producer
    assert node is not None
    return node, {a: random((m, 150), dtype), b: random((150, n), dtype)}


def weighted(tile: Tile) -> Case:
    """Of halves, with both factors in runs of 16 bytes, so that copies are asynchronous."""
    products.tile_of = lambda *_: tile
    a = harness.value((150, 320), DType.F16)
    node = ops.matmul(a, ops.constant(value=Tensor.of(random((320, 150), DType.F16)))).producer
    assert node is not None
    return node, {a: random((150, 320), DType.F16)}


def by_warpgroups() -> Case:
    """Three tiles for two blocks, ten steps in a ring of four places."""
    products.warpgroup_tile = lambda *_: WarpgroupTile("f16", 64, 4)  # type: ignore[attr-defined]
    a = harness.value((300, 640), DType.F16)
    node = ops.matmul(a, ops.constant(value=Tensor.of(random((640, 50), DType.F16)))).producer
    assert node is not None
    return node, {a: random((300, 640), DType.F16)}


def map_of_runs() -> Case:
    x = harness.value((259,))
    node = ops.relu(x).producer
    assert node is not None
    return node, {x: random((259,))}


def turned() -> Case:
    return partial(turn, (70, 85), (1, 0), DType.F32, Turn)


def few_rows() -> Case:
    a = harness.value((3, 150))
    node = ops.matmul(a, ops.constant(value=Tensor.of(random((150, 20))))).producer
    assert node is not None
    return node, {a: random((3, 150))}


def in_parts() -> Case:
    """Three parts of whole numbers, whose sums are exact."""
    a, b = harness.value((20, 768)), harness.value((768, 30))
    node = ops.matmul(a, b).producer
    assert node is not None
    rng = np.random.default_rng(1)
    return node, {v: rng.integers(-9, 9, s).astype(np.float32) for v, s in ((a, (20, 768)), (b, (768, 30)))}


def convolution_in_parts() -> Case:
    """Four parts of whole numbers, each of 32 channels."""
    x, rng = harness.value((1, 5, 5, 128)), np.random.default_rng(1)
    w = ops.constant(value=Tensor.of(rng.integers(-9, 9, (24, 128, 3, 3)).astype(np.float32)))
    node = ops.conv.node(x, w, None, layout="nhwc", group=1, **WINDOWS | {"pads_begin": (1, 1), "pads_end": (1, 1)})
    return node, {x: rng.integers(-9, 9, (1, 5, 5, 128)).astype(np.float32)}


def convolution(dtype: DType) -> Case:
    x = harness.value((1, 9, 8, 16), dtype)
    w = ops.constant(value=Tensor.of(random((24, 16, 3, 3), dtype)))
    node = ops.conv.node(x, w, None, layout="nhwc", strides=(1, 1), pads_begin=(1, 1), pads_end=(1, 1),
                         dilations=(2, 1), group=1)
    return node, {x: random((1, 9, 8, 16), dtype)}


def bytes_convolution() -> Case:
    x, rng = harness.value((1, 9, 8, 16), DType.U8), np.random.default_rng(1)
    w = ops.constant(value=Tensor.of(rng.integers(-128, 128, (24, 16, 3, 3)).astype(np.int8)))
    zero = ops.constant(value=Tensor.of(np.array(77, np.uint8)))
    node = ops.conv_integer.node(x, w, zero, None, layout="nhwc", strides=(1, 1), pads_begin=(1, 1), pads_end=(1, 1),
                                 dilations=(2, 1), group=1)
    return node, {x: rng.integers(0, 256, (1, 9, 8, 16)).astype(np.uint8)}


def bytes_product() -> Case:
    rng = np.random.default_rng(1)
    shapes: tuple[tuple[int, ...], ...] = ((40, 80), (80, 33), (), ())
    values = [harness.value(s, DType.U8) for s in shapes]
    arrays = {v: rng.integers(0, 256, s, np.uint8) for v, s in zip(values, shapes, strict=True)}
    return ops.matmul_integer.node(*values), arrays


def attention(dtype: DType, depth: int = 40) -> Case:
    shapes = ((1, 3, 90, depth), (1, 3, 170, depth), (1, 3, 170, depth))
    values = [harness.value(s, dtype) for s in shapes]
    arrays = {v: random(s, dtype) for v, s in zip(values, shapes, strict=True)}
    return ops.attention.node(*values, scale=0.3), arrays


WINDOWS: dict[str, Any] = {"strides": (1, 1), "dilations": (1, 1), "pads_begin": (0, 0), "pads_end": (0, 0)}


def depthwise(shape: tuple[int, ...], kernel: tuple[int, int], per: int = 1, **given: tuple[int, int]) -> Case:
    """Over [n, h, w, channels], each of which has `per` filters of its own."""
    x, channels = harness.value(shape), shape[-1]
    w = ops.constant(value=Tensor.of(random((channels * per, 1, *kernel))))
    return ops.conv.node(x, w, None, layout="nhwc", group=channels, **WINDOWS | given), {x: random(shape)}


def transposed(shape: tuple[int, ...], kernel: tuple[int, int], filters: int, **given: tuple[int, int]) -> Case:
    """One number is infinite, so that it shows what it was multiplied by."""
    x, data = harness.value(shape), random(shape)
    data[0, 1, 1, 0] = np.inf
    w = ops.constant(value=Tensor.of(random((shape[-1], filters, *kernel))))
    return ops.conv_transpose.node(x, w, None, layout="nhwc", group=1, output_padding=(0, 0), **WINDOWS | given), {
        x: data}


@dataclass(frozen=True)
class Bug:
    name: str
    old: str
    new: str
    case: Callable[[], Case]


SLICES = partial(product, PlainTile(1, 1, 8, 8, 16, 4), DType.F32)
PLAIN = partial(product, PlainTile(1, 1, 16, 16, 16), DType.F32)
TENSOR = partial(weighted, TensorTile("f16", 64, 64, 32, 32, 4))
LEAST = partial(weighted, TensorTile("f16", 32, 32, 16, 16, 4))
TRIPLE = partial(product, TensorTile("tf32x3", 32, 32, 16, 16, 4), DType.F32)
DEPTHWISE = partial(depthwise, (1, 9, 10, 13), (3, 3), strides=(2, 2), pads_begin=(1, 1), pads_end=(1, 1))
SEVERAL = partial(depthwise, (1, 8, 9, 6), (3, 5), 3, strides=(1, 3))
DILATED = partial(depthwise, (1, 12, 14, 8), (3, 3), dilations=(2, 3))
LONG = partial(depthwise, (1, 3, 30, 5), (1, 21))
TRANSPOSED = partial(transposed, (1, 4, 5, 8), (3, 3), 5, strides=(2, 2), pads_begin=(1, 1), pads_end=(1, 1))
UNMET = partial(transposed, (1, 4, 4, 8), (1, 2), 8, strides=(3, 3))
RAGGED = partial(product, TensorTile("f16", 64, 64, 32, 32, 4), DType.F16)
BUGS = [
    Bug("plain: no barrier after a step", "      lp_sync();\n    }\n    if constexpr (Slices > 1) gather",
        "    }\n    if constexpr (Slices > 1) gather", PLAIN),
    Bug("plain: no barrier before the first step", "    lp_sync();\n    int now = 0;", "    int now = 0;", PLAIN),
    Bug("plain: one place for both stages", "mine + (now ^ 1) * stage, PM", "mine + now * stage, PM", PLAIN),
    Bug("plain: rows behind the last are read", "rows - i};", "rows - i + 4};", PLAIN),
    Bug("plain: runs reach into the next row", "x[e] = e < n ? at[e * step] : T(0);", "x[e] = at[e * step];", PLAIN),
    Bug("plain: what is outside is stored", "if (row >= m || first >= n) return;", "", PLAIN),
    Bug("slices: no barrier before sums are gathered",
        "    lp_sync();\n    LP_UNROLL\n    for (int s = 0; s < Slices - 1", "    for (int s = 0; s < Slices - 1",
        SLICES),
    Bug("slices: all take the same steps", "left.fetch(a, next + slice * BK, lane);", "left.fetch(a, next, lane);",
        SLICES),
    Bug("columns: half of the lanes", "int by = 16; by > 0; by /= 2) acc[i]", "int by = 8; by > 0; by /= 2) acc[i]",
        few_rows),
    Bug("tensor: a group too few is waited for", "lp_copy_wait<Stages - 2>();", "lp_copy_wait<Stages - 1>();", TENSOR),
    Bug("tensor: no barrier after waiting", "lp_copy_wait<Stages - 2>();\n      lp_sync();",
        "lp_copy_wait<Stages - 2>();", TENSOR),
    Bug("tensor: the stage in use is filled", "shared + next % Stages * stage", "shared + s % Stages * stage", TENSOR),
    Bug("tensor: fragments of the right factor swapped", "lane / 16 * 8, half * 2 + lane / 8 % 2",
        "lane / 8 % 2 * 8, half * 2 + lane / 16", TENSOR),
    Bug("tensor: no barrier between tiles",
        "    lp_copy_wait<0>();\n    lp_sync();\n    LP_UNROLL\n    for (int i = 0; i < WM",
        "    LP_UNROLL\n    for (int i = 0; i < WM",
        LEAST),
    Bug("tensor: chunks reach into the next row", "e < n ? at[e * k_step] : T(0);", "at[e * k_step];", RAGGED),
    Bug("parts: all begin where the first one does", "const float *a_at = p0 + i64(c0) * 256LL",
        "const float *a_at = p0", in_parts),
    Bug("parts: the right factor's begins elsewhere", "p1 + i64(c0) * 7680LL", "p1 + i64(c0) * 256LL", in_parts),
    Bug("parts: two are summed by each", "ks = int(256LL)", "ks = int(512LL)", in_parts),
    Bug("parts: written to one place", "p2 + i64(c0) * 600LL", "p2", in_parts),
    Bug("parts: only the last one counts", "sums[0] += p0", "sums[0] = p0", in_parts),
    Bug("parts: one too few", "part < 3;", "part < 2;", in_parts),
    Bug("parts: those of the next row", "i64(part) * 600LL + i64(r0)", "i64(part) * 600LL + i64(r0 + 1)", in_parts),
    Bug("parts of a convolution: all of the first channels", "+ i64(c1) * 32LL", "", convolution_in_parts),
    Bug("parts of a convolution: filters of the first", "+ i64(c1) * 6912LL", "", convolution_in_parts),
    Bug("parts of a convolution: all channels of each tap", "int(1LL)}, 32, m,", "int(1LL)}, 128, m,",
        convolution_in_parts),
    Bug("windows: no dilation", "kh * dilation.h", "kh", partial(convolution, DType.F16)),
    Bug("windows: padding is read", "(u32)h < (u32)in.h && ", "", partial(convolution, DType.F16)),
    Bug("tf32 twice: no small parts of the right factor", "lp_mma_tf32(part, large, y0.small, y1.small);", "", TRIPLE),
    Bug("tf32 twice: parts of other numbers", "small, y0.large, y1.large", "small, y1.large, y0.large", TRIPLE),
    Bug("tf32 twice: sums are dropped", "d[e] += part[e]", "d[e] = part[e]", TRIPLE),
    Bug("bytes: what is outside counts as 0", "fill == T(0) || k >= ks", "true", bytes_convolution),
    Bug("bytes: fill where there is no filter", "k + e < ks ? fill : T(0)", "T(0)", bytes_convolution),
    Bug("bytes: sums of other rows", "of_rows[i][2 * h], of_columns[j][1]", "of_rows[i][0], of_columns[j][1]",
        bytes_product),
    Bug("bytes: sums of other columns", "of_columns[j][1], column", "of_columns[j][0], column", bytes_product),
    Bug("bytes: zero points do not multiply", "zero * u32(ks)", "0u", bytes_product),
    Bug("warp groups: places are filled that are in use",
        "lp_barrier_wait(empty(shared, at), (step / Stages & 1) ^ 1);", "", by_warpgroups),
    Bug("warp groups: what is not there is multiplied", "lp_barrier_wait(full(shared, at), step / Stages & 1);", "",
        by_warpgroups),
    Bug("warp groups: the other phase is awaited", "(step / Stages & 1) ^ 1", "step / Stages & 1", by_warpgroups),
    Bug("warp groups: places are given back too early", "lp_products_wait<1>();", "lp_products_wait<2>();",
        by_warpgroups),
    Bug("warp groups: results before the last products", "lp_products_wait<0>();\n      if (steps", "if (steps",
        by_warpgroups),
    Bug("warp groups: copies that are on their way count", "lp_copy_wait<lag>();", "lp_copy_wait<lag + 1>();",
        by_warpgroups),
    Bug("warp groups: the last copies count before they are there", "lp_copy_wait<0>();\n    for (int s = step",
        "for (int s = step", by_warpgroups),
    Bug("warp groups: writes are not published", "    lp_publish();\n    lp_sync_warp();", "    lp_sync_warp();",
        by_warpgroups),
    Bug("warp groups: a lane speaks for its warp", "    lp_publish();\n    lp_sync_warp();", "    lp_publish();",
        by_warpgroups),
    Bug("warp groups: half of the bytes are awaited", "at), BN * 128);\n", "at), BN * 64);\n", by_warpgroups),
    Bug("warp groups: chunks are not permuted", "((chunk ^ (row & 7)) << 4)", "(chunk << 4)", by_warpgroups),
    Bug("warp groups: both multiply the same rows", "from + thread / 128 * 8192,", "from,",
        by_warpgroups),
    Bug("warp groups: nobody waits for the barriers' start", "lp_publish();\n    }\n    lp_sync();",
        "lp_publish();\n    }", by_warpgroups),
    Bug("runs: read as one wherever they lie",
        "if (wide && left >= Count) {\n      if constexpr (bytes == 16) {\n        u32",
        "if (left >= Count) {\n      if constexpr (bytes == 16) {\n        u32", map_of_runs),
    Bug("runs: what is left is taken from elsewhere", "x[e] = e < left ? p[e] : M(0);", "x[e] = p[0];", map_of_runs),
    Bug("squares: no barrier before they are read", "  lp_sync();\n  LP_UNROLL\n  for (int i = 0; i < 32; i += 8)\n    "
        "if (r0 + y", "  LP_UNROLL\n  for (int i = 0; i < 32; i += 8)\n    if (r0 + y", turned),
    Bug("squares: no barrier before the next one", "= room[x * 33 + y + i];\n  lp_sync();", "= room[x * 33 + y + i];",
        turned),
    Bug("squares: columns behind the last are read", "c0 + y + i < columns", "true", turned),
    Bug("attention: no barrier before values replace keys", "      lp_sync();\n      bring(v", "      bring(v",
        partial(attention, DType.F32)),
    Bug("attention: no barrier before values are read", "      lp_sync();\n      weigh", "      weigh",
        partial(attention, DType.F32)),
    Bug("attention: sums are not scaled", "sum[i] *= shrink;", "", partial(attention, DType.F32)),
    Bug("attention: columns behind the last count", "column < length ?", "true ?", partial(attention, DType.F32)),
    Bug("tensor attention: the place in use is filled", "stages + (s + 1) % Stages * stage",
        "stages + s % Stages * stage", partial(attention, DType.F16)),
    Bug("tensor attention: nothing is waited for", "      lp_copy_wait<0>();\n      lp_sync();\n      if (Stages > 1",
        "      lp_sync();\n      if (Stages > 1", partial(attention, DType.F16)),
    Bug("tensor attention: one place, no barrier", "      if (Stages == 1) lp_sync();\n", "",
        partial(attention, DType.F16, 96)),
    Bug("tensor attention: results are not scaled", "acc[i / 2][h * 2 + i % 2] *= shrink;", ";",
        partial(attention, DType.F16)),
    Bug("depthwise: columns of padding are read", "const bool there = (u32)w < (u32)in.w;", "const bool there = true;",
        DEPTHWISE),
    Bug("depthwise: lines of padding are read", "if ((u32)y < (u32)in.h)\n", "if (true)\n", DEPTHWISE),
    Bug("depthwise: channels behind the last are read", "there && c + e < filters", "there", DEPTHWISE),
    Bug("depthwise: places lie side by side", "i / KW * SW + i % KW", "i / KW + i % KW", DEPTHWISE),
    Bug("depthwise: places behind the line are stored", "if (w + i < out_w) out(", "out(", DEPTHWISE),
    Bug("depthwise: taps lie side by side", "i % KW * DW == j", "i % KW == j", DILATED),
    Bug("depthwise: filters of the next channel", "(c + e) / per * c_step", "(c + e) * c_step", SEVERAL),
    Bug("depthwise: taps of another line", "(a * kernel.h + b) * KW", "b * kernel.h", SEVERAL),
    Bug("depthwise: one tap of a long line", "weigh(tap + k, c, f);", "weigh(tap, c, f);", LONG),
    Bug("transposed: taps that others have", "int((c2 == 0 ? 1LL : 2LL))}", "int(2LL)}", TRANSPOSED),
    Bug("transposed: filters that others have", "i64(c1) * 320LL", "i64(c2) * 320LL", TRANSPOSED),
    Bug("transposed: places behind the result are stored", "if (c2 + r3 * 2 >= 9LL) return;", "", TRANSPOSED),
    Bug("transposed: what nothing meets is not 0", "{int(0LL), int((c1 == 0 ? 0LL : 10LL))", "{int(0LL), int(0LL)",
        UNMET),
]


def right(case: Callable[[], Case], bug: Bug | None) -> bool:
    """Whether a child process gets the right result in every order of things."""
    def work() -> bool:
        try:
            made = case()
            for late, seed in RUNS:
                harness.lower = lower
                harness.run_kernel = partial(run, planted=bug, late=late, seed=seed)
                if callable(made):
                    made()
                else:
                    harness.check_node(*made, simulated.CUDA, rtol=2e-5, atol=2e-5)
        except Exception:
            return bug is not None and bug.name not in PLANTED   # nothing was planted: nothing is shown
        return True

    return succeeds(work)


def lower(group: Group, options: LowerOptions) -> Kernel:
    lowering = lowering_of(group.anchor.op if group.anchor else None, simulated.CUDA)
    assert lowering is not None
    return lowering(group, options)


def run(kernel: Kernel, places: Mapping[Value, harness.Placed], target: Target, env: Mapping[str, int], *,
        planted: Bug | None, late: bool, seed: int) -> None:
    simulated.BLOCKS = 2   # blocks take several tasks each
    if kernel.before is not None:
        places = {**places, **harness.room_of(kernel.before, env)}
        run(kernel.before, places, target, env, planted=planted, late=late, seed=seed)
    constants = simulated.packed_copies(kernel)
    addresses: list[Any] = [constants[i].ctypes.data if isinstance(o, Packed) else places[o].address
                            for i, o in enumerate(kernel.operands)]
    change = None if planted is None else partial(plant, planted)
    simulated.run_on_simulator(kernel, addresses, env, late, seed, change)


def plant(bug: Bug, text: str) -> str:
    if bug.old in text:
        PLANTED.add(bug.name)
    return text.replace(bug.old, bug.new)


def planted(bugs: Sequence[Bug]) -> list[Any]:
    """As parameters: every third whenever these tests run, all of them with the `big` ones. A planted bug tries the
    tests, which change less often than what they test; each takes a compile and a second."""
    return [pytest.param(bug, id=bug.name, marks=pytest.mark.big if i % 3 else ()) for i, bug in enumerate(bugs)]


@pytest.mark.parametrize("bug", planted(BUGS))
def test_planted_bugs_show(bug: Bug) -> None:
    assert not right(bug.case, bug)


@pytest.mark.parametrize("case", list({str(b.case): b.case for b in BUGS}.values()),
                         ids=lambda case: re.sub(" at 0x[0-9a-f]+", "", str(case)))
def test_nothing_planted(case: Any) -> None:
    assert right(case, None)
