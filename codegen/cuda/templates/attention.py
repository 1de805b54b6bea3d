"""Attention with a running softmax: prelude/attention.cuh."""
from __future__ import annotations

from dataclasses import dataclass, replace

from lepton.codegen.cuda.ctext import c_type, from_memory, literal
from lepton.codegen.cuda.spell import Geometry, Spelled
from lepton.codegen.cuda.templates.product import Matrix
from lepton.codegen.cuda.templates.text import DeviceBody, coordinates, index, output, size
from lepton.codegen.kernel import Size
from lepton.codegen.target import Target
from lepton.codegen.templates.epilogue import Epilogue, Operand
from lepton.ir.types import DType


@dataclass(frozen=True, slots=True)
class Attention(DeviceBody):
    """A task is `block` rows of a head. Views: q, k, v (b, h, row, element), mask and epilogue (b, h, row, column)."""

    dtype: DType              # of the sums
    kind: str | None          # of tensor cores; None: plain arithmetic
    batch: tuple[Size, Size]
    rows: Size
    length: Size
    depth: int
    width: int
    q: Matrix
    k: Matrix
    v: Matrix
    mask: Operand | None
    scale: float
    epilogue: Epilogue
    block: int                # rows
    exact: bool = True        # tensor cores: weights of the sum are more than halves

    @property
    def stages(self) -> int:
        return 2 if max(self.depth, self.width) <= 64 else 1

    @property
    def threads(self) -> int:
        return 128 if self.kind else self.block * 2

    @property
    def shared_bytes(self) -> int:
        if self.kind:
            steps = [_pitch(self.depth), _pitch(self.width)]
            return 64 * (steps[0] + self.stages * sum(steps))
        depth, width = -(-self.depth // 4) * 4, -(-self.width // 32) * 32
        return self.dtype.bytes * (depth * (self.block + 4) + max(depth * 36, 32 * (width + 4)) + 32 * (self.block + 4))

    @property
    def text(self) -> str:
        if self.kind:
            return (f"lp_tensor_attention<lp_{self.kind}, {self.depth}, {self.width}, {self.stages}, "
                    f"{str(self.exact).lower()}>")
        return f"lp_attention<{c_type(self.dtype)}, {self.block}, {self.depth}, {self.width}>"

    def with_block(self, rows: int) -> Attention:
        return replace(self, block=rows)

    def emit_cuda(self, symbol: str, target: Target) -> Spelled:
        reads = [self.q.operand, self.k.operand, self.v.operand, *self.epilogue.loads]
        reads += [self.mask] if self.mask is not None else []
        sums = f"{c_type(self.dtype)} (&)[{2 if self.kind else 4}]"
        lines = [
            "const i64 entry = t / blocks;", "const int m0 = int(t % blocks) * " + f"{self.block};",
            *coordinates("entry", self.batch, ["c0", "c1"]),
            *self.factor(self.q, "q", "m", self.depth), *self.factor(self.k, "k", "length", self.depth),
            *self.factor(self.v, "v", "length", self.width), *self.masked(),
            *output(self.epilogue, sums, [], ["c0", "c1", "row", "column"], "m", str(self.width)),
            f"{self.text}::run(q, k, v, m0, length, {literal(self.scale, self.dtype)}, lp_shared, mask, out);"]
        text = [
            self.head(symbol, self.threads, reads, self.epilogue.stores), "  LP_SHARED",
            f"  const int m = int({size(self.rows)}), length = int({size(self.length)});",
            f"  const i64 blocks = (m + {self.block - 1}) / {self.block};",
            "  for (i64 t = LP_BLOCK; t < tasks; t += LP_BLOCKS) {", *("    " + line for line in lines), "  }", "}"]
        return Spelled("\n".join(text) + "\n", Geometry(self.threads, 1, self.shared_bytes))

    @staticmethod
    def factor(matrix: Matrix, name: str, rows: str, ks: int) -> list[str]:
        return [line.replace(" ks", f" {ks}") for line in matrix.text(name, ["c0", "c1"], rows, True)]

    def masked(self) -> list[str]:
        kind = c_type(self.dtype)
        head = f"auto mask = [&](int row, int column, {kind} score) {{ return "
        if self.mask is None:
            return [f"{head}score; }};"]
        place = index(self.mask, ["c0", "c1", "row", "column"])
        value = from_memory(f"p{self.mask.buffer}[{place}]", self.mask.dtype)
        # Rows behind the last one have no mask to read; what becomes of them is not stored.
        return [f"{head}row < m ? score + {value} : score; }};"]


def _pitch(elements: int) -> int:
    whole = -(-elements // 16) * 16
    return whole * 2 + (16 if whole % 64 else 0)
