"""Depthwise convolutions: prelude/depthwise.cuh."""
from __future__ import annotations

from dataclasses import dataclass

from lepton.codegen.cuda.ctext import MEMORY, c_type
from lepton.codegen.cuda.spell import Geometry, Spelled
from lepton.codegen.cuda.templates.text import DeviceBody, coordinates, index, output, size, wide
from lepton.codegen.kernel import Size
from lepton.codegen.target import Target
from lepton.codegen.templates.epilogue import Epilogue, Operand
from lepton.ir.types import DType

THREADS = 128


@dataclass(frozen=True, slots=True)
class Depthwise(DeviceBody):
    """A task is `run` neighbouring filters at `places` neighbours along w. Views: `x` over (n, d, h, w, channel), the
    epilogue over (*rows, filter), where rows are (n, d, h, w) as far as all operands walk them as one."""

    dtype: DType                   # of the sums
    images: Size
    into: tuple[Size, ...]         # d, h, w, like those below
    out: tuple[Size, ...]
    kernel: tuple[int, int, int]
    strides: tuple[int, int, int]
    dilations: tuple[int, int, int]
    pads: tuple[Size, ...]
    filters: int
    per: int                       # filters of a channel
    rows: tuple[Size, ...]
    x: Operand
    taps: Operand                  # [d, h, w, filter]
    epilogue: Epilogue
    run: int
    places: int

    def emit_cuda(self, symbol: str, target: Target) -> Spelled:
        names = [f"r{i}" for i in range(len(self.rows))]
        sums = f"{c_type(self.dtype)} (&)[{self.run}]"
        chunks = -(-self.filters // self.run)
        split = ["c", "x", "h", "d", "n"] if self.run > 1 else ["x", "c", "h", "d", "n"]  # neighbours in memory first
        counts = {"c": f"{chunks}LL", "x": f"((out_w + {self.places - 1}) / {self.places})", "h": size(self.out[1]),
                  "d": size(self.out[0]), "n": size(self.images)}
        text = [
            self.head(symbol, THREADS, [self.x, self.taps, *self.epilogue.loads], self.epilogue.stores),
            f"  const i64 out_w = {size(self.out[2])};",
            f"  const int m = int({' * '.join(map(size, self.rows))});", *self.made(),
            "  for (i64 t = LP_BLOCK * LP_THREADS + LP_THREAD; t < tasks; t += LP_BLOCKS * LP_THREADS) {",
            "    i64 rest = t;",
            *(f"    const int {n} = int(rest % {counts[n]}); rest /= {counts[n]};" for n in split[:-1]),
            f"    const int n = int(rest), w = x * {self.places}, first = c * {self.run};",
            f"    {c_type(self.dtype)} acc[{self.places}][{self.run}];",
            f"    conv.run(p{self.x.buffer} + {index(self.x, ['n', '0', '0', '0', '0'])}, d, h, w, first, acc);",
            *("    " + line for line in output(self.epilogue, sums, coordinates("row", self.rows, names),
                                               [*names, "column"], "m", str(self.filters))),
            f"    const i64 row = ((i64(n) * {counts['d']} + d) * {counts['h']} + h) * out_w + w;",
            "    LP_UNROLL", f"    for (int i = 0; i < {self.places}; ++i)",
            "      if (w + i < out_w) out(int(row) + i, first, acc[i]);", "  }", "}"]
        return Spelled("\n".join(text) + "\n", Geometry(THREADS, THREADS, 0))

    def made(self) -> list[str]:
        """The convolution's constants as an object."""
        kind = MEMORY[self.x.dtype]
        axes = ", ".join(f"{{{', '.join(f'int({size(x)})' for x in three)}}}" for three in (
            self.into, self.kernel, self.strides, self.dilations, self.pads))
        steps = self.x.strides
        return [f"  typedef lp_depthwise<lp_as_{self.x.dtype.value}, {c_type(self.dtype)}, {self.run}, {self.places}, "
                f"{self.kernel[2]}, {self.strides[2]}, {self.dilations[2]}> Conv;",
                f"  const {kind} *const taps = p{self.taps.buffer};",
                f"  const Conv conv{{{', '.join(size(s) for s in steps[1:])}, {axes}, {self.per}, "
                f"{self.filters}, {self.side_by_side(self.x)}, taps, {self.side_by_side(self.taps)}}};"]

    def side_by_side(self, operand: Operand) -> str:
        """Whether a run of filters lies as one."""
        others = [(size(s), s) for s in (operand.offset, *operand.strides[:-1])]
        tests = wide(operand.strides[-1], *others, pointer=f"p{operand.buffer}", bytes=operand.dtype.bytes)
        return tests if self.run > 1 else "false"
