"""What templates share: parameters, operands and epilogues as CUDA C."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lepton.codegen.cuda.ctext import MEMORY, c_type, expr, from_memory, to_memory
from lepton.codegen.cuda.spell import Spelled
from lepton.codegen.kernel import Size
from lepton.codegen.llvm.builder import Module
from lepton.codegen.loops import Load
from lepton.codegen.target import Target
from lepton.codegen.templates.epilogue import ACCUMULATOR, Epilogue, Operand
from lepton.ir.diagnostics import UnsupportedError


@dataclass(frozen=True, slots=True)
class DeviceBody:
    """A kernel body that writes CUDA C (codegen.cuda.device.CudaBody)."""

    n_operands: int
    n_dims: int

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        raise UnsupportedError(f"{type(self).__name__} is a kernel for GPUs; {target.name} is a CPU")

    def emit_cuda(self, symbol: str, target: Target) -> Spelled:
        raise NotImplementedError

    def head(self, symbol: str, threads: int, read: Sequence[Operand], written: Sequence[Operand],
             blocks: int = 1) -> str:
        """The first lines: operands as p0, p1, …, sizes as d0, d1, … `blocks`: as many share a multiprocessor."""
        kinds = {o.buffer: f"const {MEMORY[o.dtype]}" for o in read} | {o.buffer: MEMORY[o.dtype] for o in written}
        words = [f"{kinds.get(i, 'const void')} *p{i}" for i in range(self.n_operands)]
        words += ["unsigned char *scratch", "i64 scratch_stride", *(f"i64 d{i}" for i in range(self.n_dims))]
        return f"LP_KERNEL({threads}, {blocks}) {symbol}({', '.join([*words, 'i64 tasks'])}) {{\n  lp_begin();"


def size(of: Size) -> str:
    return f"{of}LL" if isinstance(of, int) else f"d{of.index}"


def times(*factors: str) -> str:
    if "0LL" in factors:
        return "0LL"
    return " * ".join(f for f in factors if f != "1LL") or "1LL"


def total(terms: Sequence[str]) -> str:
    return " + ".join(t for t in terms if t != "0LL") or "0LL"


def index(operand: Operand, coords: Sequence[str]) -> str:
    """The place of the element at `coords`, in elements."""
    steps = [times(f"i64({c})", size(s)) for c, s in zip(coords, operand.strides, strict=True) if c != "0"]
    return total([size(operand.offset), *steps])


def coordinates(entry: str, sizes: Sequence[Size], names: Sequence[str]) -> list[str]:
    """Statements that split a row-major index."""
    lines, rest = [], entry
    for i in range(len(sizes) - 1, -1, -1):
        whole = i == 0
        lines.append(f"const i64 {names[i]} = {rest if whole else f'{rest} % {size(sizes[i])}'};")
        rest = rest if whole else f"({rest} / {size(sizes[i])})"
    return lines


def wide(run: Size, *others: tuple[str, Size], pointer: str, bytes: int) -> str:
    """Whether runs of 16 bytes can be read: `run` is the step inside them, `others` lie between their beginnings."""
    each = 16 // bytes
    known = [s for _, s in others if isinstance(s, int)]
    if (isinstance(run, int) and run != 1) or any(s % each for s in known):
        return "false"
    tests = [f"(u64){pointer} % 16 == 0"]
    tests += [] if isinstance(run, int) else [f"{size(run)} == 1"]
    return " && ".join([*tests, *(f"{text} % {each} == 0" for text, s in others if not isinstance(s, int))])


def output(epilogue: Epilogue, sums: str, before: Sequence[str], coords: Sequence[str], rows: str,
           columns: str) -> list[str]:
    """`out`: from neighbouring sums in a row to the stores. `sums`: their C type, such as "float (&)[4]". `coords` name
    the coordinates, the last one "column"; `before` defines those that come from `row`."""
    loads = epilogue.loads
    first = [*coords[:-1], "first"]

    def load(e: Load) -> str:
        operand = loads[int(e.buffer[1:])]
        return from_memory(f"p{operand.buffer}[{index(operand, coords)}]", operand.dtype)

    whole = False  # whether a name was given to what the sum becomes before all else, by the accumulator's name

    def name(of: str) -> str:
        return "sums[e]" if of == ACCUMULATOR and not whole else f"v_{of}"

    lets = []
    for x in epilogue.lets:
        value = expr(x.value, load, name)
        whole |= x.name == ACCUMULATOR
        lets.append(f"const {c_type(x.value.dtype)} v_{x.name} = {value};")
    places = list(enumerate(zip(epilogue.stores, epilogue.values, strict=True)))
    made = [f"s{i}[e] = {to_memory(expr(v, load, name), s.dtype)};" for i, (s, v) in places]
    ends = [f"  lp_store_run(p{s.buffer} + {index(s, first)}, {size(s.strides[-1])}, s{i}, {_runs(s)}, "
            f"{columns} - first);" for i, (s, _) in places]
    return [
        f"auto out = [&](int row, int first, const {sums.replace('&', '&sums')}) {{",
        "  constexpr int count = sizeof(sums) / sizeof(sums[0]);",
        f"  if (row >= {rows} || first >= {columns}) return;",
        *("  " + line for line in before), *(f"  {MEMORY[s.dtype]} s{i}[count];" for i, (s, _) in places),
        "  LP_UNROLL", "  for (int e = 0; e < count; ++e) {", "    const int column = first + e;",
        f"    if (column < {columns}) {{", *("      " + line for line in (*lets, *made)), "    }", "  }", *ends, "};"]


def _runs(store: Operand) -> str:
    """Whether neighbours that begin at a multiple of their number lie as one in memory."""
    others = [(size(s), s) for s in (store.offset, *store.strides[:-1])]
    return wide(store.strides[-1], *others, pointer=f"p{store.buffer}", bytes=store.dtype.bytes)
