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
from lepton.ir.types import DType


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
        """The first line: operands as p0, p1, …, sizes as d0, d1, … `blocks`: as many share a multiprocessor."""
        kinds = {o.buffer: f"const {MEMORY[o.dtype]}" for o in read} | {o.buffer: MEMORY[o.dtype] for o in written}
        words = [f"{kinds.get(i, 'const void')} *p{i}" for i in range(self.n_operands)]
        words += ["unsigned char *scratch", "i64 scratch_stride", *(f"i64 d{i}" for i in range(self.n_dims))]
        return f"LP_KERNEL({threads}, {blocks}) {symbol}({', '.join([*words, 'i64 tasks'])}) {{"


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


def finish(epilogue: Epilogue, coords: Sequence[str]) -> list[str]:
    """Statements from the accumulator `acc` to the stores."""
    loads = epilogue.loads

    def load(e: Load) -> str:
        operand = loads[int(e.buffer[1:])]
        return from_memory(f"p{operand.buffer}[{index(operand, coords)}]", operand.dtype)

    def name(of: str) -> str:
        return "acc" if of == ACCUMULATOR else f"v_{of}"

    lines = [f"const {c_type(x.value.dtype)} {name(x.name)} = {expr(x.value, load, name)};" for x in epilogue.lets]
    lines += [f"p{s.buffer}[{index(s, coords)}] = {to_memory(expr(v, load, name), s.dtype)};"
              for s, v in zip(epilogue.stores, epilogue.values, strict=True)]
    return lines


def register(dtype: DType) -> str:
    return c_type(dtype)
