"""Sums that several blocks have made parts of: add them up, and do what follows."""
from __future__ import annotations

from dataclasses import dataclass

from lepton.codegen.cuda.ctext import c_type
from lepton.codegen.cuda.spell import Geometry, Spelled
from lepton.codegen.cuda.templates.text import DeviceBody, coordinates, index, output, size, times
from lepton.codegen.kernel import Size
from lepton.codegen.target import Target
from lepton.codegen.templates.epilogue import Epilogue, Operand
from lepton.ir.types import DType

THREADS = 256


@dataclass(frozen=True, slots=True)
class SumOfParts(DeviceBody):
    """out[*batch, *rows, n] = Σ over the parts, in their order, so that runs give the same bits. A task is an element.
    """

    dtype: DType              # of the sums
    batch: tuple[Size, ...]
    rows: tuple[Size, ...]
    n: Size
    count: int
    parts: Operand            # over (*batch, part, *rows, n)
    epilogue: Epilogue        # over (*batch, *rows, n)

    def emit_cuda(self, symbol: str, target: Target) -> Spelled:
        kind, batch = c_type(self.dtype), [f"c{i}" for i in range(len(self.batch))]
        rows = [f"r{i}" for i in range(len(self.rows))]
        at = index(self.parts, [*batch, "part", *rows, "(t % n)"])
        body = [
            *coordinates("(t / n / m)", self.batch, batch), *coordinates("(t / n % m)", self.rows, rows),
            *output(self.epilogue, f"{kind} (&)[1]", [], [*batch, *rows, "column"], "m", "n"),
            f"{kind} sums[1] = {{{kind}(0)}};", "LP_UNROLL",
            f"for (int part = 0; part < {self.count}; ++part) sums[0] += p{self.parts.buffer}[{at}];",
            "out(int(t / n % m), int(t % n), sums);"]
        text = [
            self.head(symbol, THREADS, [self.parts, *self.epilogue.loads], self.epilogue.stores),
            f"  const i64 m = {times(*map(size, self.rows))}, n = {size(self.n)};",
            f"  for (i64 t = LP_BLOCK * {THREADS} + LP_THREAD; t < tasks; t += LP_BLOCKS * {THREADS}) {{",
            *("    " + line for line in body), "  }", "}"]
        return Spelled("\n".join(text) + "\n", Geometry(THREADS, THREADS, 0))
