"""Products with weights given by codes of a few bits: which form they take in memory, and the kernel that reads it."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel, Packed, packed
from lepton.codegen.lower.coded_loops import coded_loops
from lepton.codegen.lower.matmul import grain_of, problem_of
from lepton.codegen.lower.matmul_cost import MOST_TASKS, TASK_FLOPS, Problem, blocks
from lepton.codegen.target import Target
from lepton.codegen.templates.coded import CodedGemm
from lepton.codegen.templates.codes import Form, form_of, pack_codes, table_of
from lepton.codegen.templates.fused import Bindings, Fused, constant_array, outer
from lepton.codegen.templates.recurrent import Recurrent
from lepton.codegen.templates.tiles import Tile, aliases, most_rows
from lepton.ir import ops
from lepton.ir.dims import Dim, ceildiv, product
from lepton.ir.tensor import Array
from lepton.ir.types import DType

DECODE = 6         # operations that decoding a weight takes as long as
MOST_HIGH = 14     # rows of a tile; more gain nothing where the panel is in L2

lowers(ops.matmul_coded, family="cuda")(coded_loops)


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A matrix as `pack_codes` takes it. `entries`: what codes stand for, where that is a table's."""

    codes: Array              # [K,N] u8, from 0
    scale: Array              # [blocks,N] f32
    zero: Array | None
    entries: Array | None
    form: Form


@lowers(ops.matmul_coded)
def lower_coded(group: Group, options: LowerOptions) -> Kernel:
    """One kernel for the product and the elementwise ops behind it."""
    assert group.anchor is not None
    x, coded, *_ = group.anchor.inputs
    assert x is not None
    assert coded is not None
    known = [constant_array(group, v) for v in (*group.anchor.inputs[1:], None, None)[:4]]
    missing = any(a is None and v is not None for a, v in zip(known, group.anchor.inputs[1:], strict=False))
    if known[0] is None or known[1] is None or missing or 0 in known[0].shape:
        return coded_loops(group, options)
    weights = weights_of(options.target, known[0], known[1], known[2], known[3], group.anchor.attrs["block"])
    fused = Fused(group)
    problem = problem_of(group, fused, x, coded)
    bindings = Bindings()
    left = bindings.operand(outer(group, x), x.tensor, problem.a)
    epilogue = fused.epilogue(bindings, problem.views)
    target, form = options.target, weights.form
    few = isinstance(problem.m, int) and problem.m <= form.few(target)
    tile, rows, panels, rows_fastest = cut(target, problem, few)
    lanes = target.lanes(DType.F32)
    stored = pack_codes(weights.codes, weights.scale, weights.zero, form, lanes, tile.vectors)
    source = bindings.buffer(packed(stored))
    table = bindings.buffer(packed(table_of(form, weights.entries))) if form.looks_up(target) else None
    *batch, m = bindings.sizes((*problem.batch, problem.m))
    n, k = known[0].shape[1], known[0].shape[0]
    body = CodedGemm(DType.F32, tuple(batch), m, n, k, left, source, epilogue, tile, rows, panels, rows_fastest,
                     form=form, table=table)
    width = tile.vectors * lanes
    tasks = product((*problem.batch, ceildiv(problem.m, rows), ceildiv(ceildiv(n, width), panels)))
    flops: Dim = product((*problem.batch, 2, problem.m, n, k))
    return Kernel(group.name, body, tuple(bindings.bound), tasks, bindings.table.dims, 0 if few else k * width * 4,
                  grain_of(flops + DECODE * n * k, tasks), flops, group.outputs)


def cut(target: Target, problem: Problem, few: bool) -> tuple[Tile, int, int, bool]:
    """(tile, rows of a task, panels of a task, whether row blocks follow each other in the order of tasks)."""
    n, k = problem.n, problem.k
    assert isinstance(n, int)
    assert isinstance(k, int)
    vectors = min(4 if target.vector_registers >= 32 else 2, -(-n // target.lanes(DType.F32)))
    step = problem.a[-2]
    crowded = isinstance(step, int) and aliases(target, step * 4)
    tile = Tile(min(most_rows(target, vectors), 6 if crowded else MOST_HIGH), vectors)
    if not few or not isinstance(problem.m, int):
        rows, panels, rows_fastest = blocks(target, replace(problem, weights=None), tile, DType.F32)
        return tile, rows, panels, rows_fastest
    count = -(-n // (vectors * target.lanes(DType.F32)))
    entries = product(problem.batch)
    wanted = max(1, min(MOST_TASKS // max(1, entries) if isinstance(entries, int) else 1,
                        (DECODE + 2 * problem.m) * n * k // TASK_FLOPS))
    return tile, max(problem.m, 1), -(-count // min(count, wanted)), True


# --- the form -------------------------------------------------------------------------------------


def weights_of(target: Target, codes: Array, scale: Array, zero: Array | None, table: Array | None,
               block: int) -> Weights:
    """The smallest form that says the same, bit by bit."""
    block = min(block, len(codes))
    kept = narrowest(scale, target)
    numbers = codes.astype(np.int16)
    if table is not None:
        bits = bits_of(int(numbers.max()))
        form = form_of(bits, "table", block, kept, None if zero is None else points(zero))
        return Weights(codes.astype(np.uint8), scale, zero, table[:1 << bits], form)
    numbers, zero = settled(numbers, zero)
    low, high = int(numbers.min()), int(numbers.max())
    signed = bits_of(max(high, -1 - low)) + 1 if low < 0 or high > 0 else 1
    plain = bits_of(high) if low >= 0 else 9
    span = bits_of(high - low)
    stored = None if zero is None else points(zero)
    if span <= 4 and span < min(signed, plain):
        entries = low + np.arange(1 << span, dtype=np.float32)
        return Weights((numbers - low).astype(np.uint8), scale, zero, entries,
                       form_of(span, "table", block, kept, stored))
    form = form_of(min(signed, plain), "unsigned" if plain < signed else "signed", block, kept, stored)
    return Weights((numbers & ((1 << form.bits) - 1)).astype(np.uint8), scale, zero, None, form)


def bits_of(largest: int) -> int:
    """Bits that count from 0 to `largest`."""
    return max(1, largest.bit_length())


def settled(numbers: Array, zero: Array | None) -> tuple[Array, Array | None]:
    """Levels and zero points, where one zero point for all is taken off, and several are moved to the middle of what
    bytes hold."""
    if zero is None or not np.array_equal(zero, np.rint(zero)) or np.abs(zero).max(initial=0) > 255:
        return numbers, zero
    first = int(zero.flat[0])
    moved = numbers - np.int16(first)
    if (zero == first).all() and -128 <= moved.min() and moved.max() < 128:
        return moved, None
    low, high = int(numbers.min()), int(numbers.max())
    middle = 1 << bits_of(high) - 1 if low >= 0 else 0
    return numbers - np.int16(middle), (zero - middle).astype(np.float32)


def points(zero: Array) -> DType:
    """The type that zero points are stored in."""
    whole = np.array_equal(zero, np.rint(zero)) and -128 <= zero.min() and zero.max() <= 127
    return DType.I8 if whole else DType.F32


def narrowest(scale: Array, target: Target) -> DType:
    """The type that scales are stored in: of 16 bits where they fit and cost no more to read."""
    with np.errstate(over="ignore"):
        for dtype in (DType.BF16, DType.F16):
            cheap = dtype is DType.BF16 or target.fma
            if cheap and np.array_equal(scale.astype(dtype.numpy).astype(np.float32), scale):
                return dtype
    return DType.F32


# --- what is told ---------------------------------------------------------------------------------


def held(kernels: Iterable[Kernel]) -> dict[str, int]:
    """How many products read codes, the weights these stand for, and their bytes; equal ones count once."""
    products, panels = 0, dict[int, tuple[int, int]]()
    for kernel in kernels:
        body = kernel.body
        if isinstance(body, Recurrent) and body.scales is not None:
            products += 2
            for which, length in ((body.w, body.inputs), (body.r, body.hidden)):
                assert isinstance(which, int)
                panel = kernel.operands[which]
                assert isinstance(panel, Packed)
                count = len(body.backwards) * body.gates * body.hidden * length
                panels[id(panel.array)] = count, panel.array.nbytes
        if isinstance(body, CodedGemm) and isinstance(body.b, int):
            operand = kernel.operands[body.b]
            assert isinstance(operand, Packed)
            assert isinstance(body.k, int)
            assert isinstance(body.n, int)
            products += 1
            panels[id(operand.array)] = body.k * body.n, operand.array.nbytes
    return {"products": products, "weights": sum(w for w, _ in panels.values()),
            "bytes": sum(b for _, b in panels.values())}
