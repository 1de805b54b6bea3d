"""Maps of elements that lie side by side, and copies that turn rows into columns: prelude/moves.cuh."""
from __future__ import annotations

from dataclasses import dataclass

from lepton.codegen.cuda.ctext import MEMORY, c_type, expr, from_memory, to_memory
from lepton.codegen.cuda.spell import Geometry, Spelled
from lepton.codegen.cuda.templates.text import DeviceBody, coordinates, size, times, total
from lepton.codegen.kernel import Size
from lepton.codegen.loops import Expr, Let, Load
from lepton.codegen.target import Target
from lepton.codegen.templates.epilogue import Operand

THREADS = 256


@dataclass(frozen=True, slots=True)
class FlatMap(DeviceBody):
    """values[i] of `Load("e<j>")` to element i of stores[i]. A task is `run` neighbours. Strides are (1,) or (0,)."""

    n: Size
    run: int
    loads: tuple[Operand, ...]
    stores: tuple[Operand, ...]
    values: tuple[Expr, ...]
    lets: tuple[Let, ...]

    def emit_cuda(self, symbol: str, target: Target) -> Spelled:
        flat = [o for o in (*self.loads, *self.stores) if o.strides == (1,)]
        tests = [f"(u64)p{b} % {self.run * w} == 0" for b, w in dict.fromkeys((o.buffer, o.dtype.bytes) for o in flat)]
        text = [
            self.head(symbol, THREADS, self.loads, self.stores),
            f"  const i64 n = {size(self.n)};", f"  const bool wide = {' && '.join(tests)};",
            "  for (i64 t = LP_BLOCK * LP_THREADS + LP_THREAD; t < tasks; t += LP_BLOCKS * LP_THREADS) {",
            f"    const i64 first = t * {self.run};",
            f"    const int left = n - first < {self.run} ? int(n - first) : {self.run};",
            *(f"    {line}" for line in (*self.reads(), *self.made())),
            *(f"    lp_store_run(p{o.buffer} + first, 1, y{i}, wide, left);" for i, o in enumerate(self.stores)),
            "  }", "}"]
        return Spelled("\n".join(text) + "\n", Geometry(THREADS, THREADS, 0))

    def reads(self) -> list[str]:
        lines = []
        for i, o in enumerate(self.loads):
            kind = MEMORY[o.dtype]
            lines += [f"const {kind} x{i} = p{o.buffer}[0];"] if o.strides == (0,) else [
                f"{kind} x{i}[{self.run}];", f"lp_load_run(p{o.buffer} + first, x{i}, wide, left);"]
        return lines

    def made(self) -> list[str]:
        def load(e: Load) -> str:
            i = int(e.buffer[1:])
            o = self.loads[i]
            return from_memory(f"x{i}" + ("" if o.strides == (0,) else "[e]"), o.dtype)

        def name(of: str) -> str:
            return f"v_{of}"

        lines = [f"const {c_type(x.value.dtype)} {name(x.name)} = {expr(x.value, load, name)};" for x in self.lets]
        lines += [f"y{i}[e] = {to_memory(expr(v, load, name), o.dtype)};"
                  for i, (o, v) in enumerate(zip(self.stores, self.values, strict=True))]
        return [*(f"{MEMORY[o.dtype]} y{i}[{self.run}];" for i, o in enumerate(self.stores)), "LP_UNROLL",
                f"for (int e = 0; e < {self.run}; ++e) {{", *(f"  {line}" for line in lines), "}"]


@dataclass(frozen=True, slots=True)
class Turn(DeviceBody):
    """out[*outer, r, c] = in[*outer, r, c], where `source` is contiguous along r and `target` along c. A task is a
    square of 32 x 32. Operands are seen over (*outer, r, c)."""

    outer: tuple[Size, ...]
    rows: Size
    columns: Size
    source: Operand
    target: Operand

    def emit_cuda(self, symbol: str, target: Target) -> Spelled:
        kind, names = MEMORY[self.source.dtype], [f"c{i}" for i in range(len(self.outer))]

        def begin(o: Operand) -> str:
            steps = [times(f"i64({c})", size(s)) for c, s in zip(names, o.strides, strict=False)]
            return f"p{o.buffer} + {total(steps)}"

        text = [
            self.head(symbol, THREADS, [self.source], [self.target]), "  LP_SHARED",
            f"  const i64 rows = {size(self.rows)}, columns = {size(self.columns)}, high = (rows + 31) / 32, "
            "squares = high * ((columns + 31) / 32);",
            "  for (i64 t = LP_BLOCK; t < tasks; t += LP_BLOCKS) {",
            *(f"    {line}" for line in coordinates("(t / squares)", self.outer, names)),
            f"    lp_turn<{kind}>({begin(self.source)}, {begin(self.target)}, rows, columns, "
            f"{size(self.source.strides[-1])}, {size(self.target.strides[-2])}, t % squares % high * 32, "
            "t % squares / high * 32, lp_shared);",
            "  }", "}"]
        return Spelled("\n".join(text) + "\n", Geometry(THREADS, 1, 32 * 33 * self.source.dtype.bytes))
