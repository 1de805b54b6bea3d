"""Matrix products and what is one: prelude/product.cuh in plain arithmetic, prelude/tensor.cuh on tensor cores."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

from lepton.codegen.cuda.ctext import MEMORY, c_type
from lepton.codegen.cuda.spell import Geometry, Spelled
from lepton.codegen.cuda.templates.text import DeviceBody, coordinates, index, output, size, times, wide
from lepton.codegen.kernel import Size
from lepton.codegen.target import Target
from lepton.codegen.templates.epilogue import Epilogue, Operand
from lepton.ir.types import DType

Sizes: TypeAlias = tuple[Size, ...]
FLOAT8_KINDS = ("e4m3e4m3", "e5m2e4m3", "e4m3e5m2", "e5m2e5m2")   # left and right factor


@dataclass(frozen=True, slots=True)
class PlainTile:
    """lp_tile: `slices` groups of ty x tx threads take turns along k; a thread sums 4 qm x 4 qn elements."""

    qm: int
    qn: int
    ty: int
    tx: int
    bk: int
    slices: int = 1

    @property
    def rows(self) -> int:
        return 4 * self.qm * self.ty

    @property
    def columns(self) -> int:
        return 4 * self.qn * self.tx

    @property
    def threads(self) -> int:
        return self.ty * self.tx * self.slices

    def shared_bytes(self, dtype: DType) -> int:
        return 2 * self.bk * (self.rows + self.columns + 8) * self.slices * dtype.bytes

    def text(self, dtype: DType) -> str:
        return f"lp_tile<{c_type(dtype)}, {self.qm}, {self.qn}, {self.ty}, {self.tx}, {self.bk}, {self.slices}>"


@dataclass(frozen=True, slots=True)
class TensorTile:
    """lp_tensor_tile: warps of warp_rows x warp_columns elements, `stages` steps of 64 bytes along k in flight."""

    kind: str                # f16, bf16, tf32, s8s8 …: a struct of prelude/tensor.cuh
    rows: int
    columns: int
    warp_rows: int
    warp_columns: int
    stages: int

    @property
    def threads(self) -> int:
        return 32 * (self.rows // self.warp_rows) * (self.columns // self.warp_columns)

    def shared_bytes(self, dtype: DType) -> int:
        return self.stages * (self.rows + self.columns) * 64

    def text(self, dtype: DType) -> str:
        return (f"lp_tensor_tile<lp_{self.kind}, {self.rows}, {self.columns}, {self.warp_rows}, {self.warp_columns}, "
                f"{self.stages}>")


Tile: TypeAlias = PlainTile | TensorTile


@dataclass(frozen=True, slots=True)
class Zero:
    """A zero point: a number, or an element of an operand (over (*batch, column), or over nothing)."""

    number: int = 0
    operand: Operand | None = None

    def text(self, coords: list[str]) -> str:
        o = self.operand
        return str(self.number) if o is None else f"i32(p{o.buffer}[{index(o, coords if o.strides else [])}])"


@dataclass(frozen=True, slots=True)
class Zeros:
    """lp_zeros. `columns`: whether those of the right factor are summed."""

    left: Zero
    right: Zero
    columns: bool

    def text(self, batch: list[str]) -> list[str]:
        return [f"auto right = [&](int column) {{ return column < n ? {self.right.text([*batch, 'column'])} : 0; }};",
                f"const lp_zeros<{str(self.columns).lower()}, decltype(right)> "
                f"zeros{{{self.left.text([])}, right, ks}};"]

    @property
    def operands(self) -> list[Operand]:
        return [z.operand for z in (self.left, self.right) if z.operand is not None]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A factor as it lies: strides over (*batch, row, k). With `along` its runs lie along k, adjacent or not."""

    operand: Operand
    depth: int | None = None                          # its size along k, where it was filled up with zeros
    operands: ClassVar[tuple[Operand, ...]] = ()      # that it reads beside its own

    def text(self, name: str, batch: list[str], extent: str, along: bool) -> list[str]:
        o, (row, k) = self.operand, self.operand.strides[-2:]
        along_k = along or k == 1 or row != 1
        run, other = (k, row) if along_k else (row, k)
        tests = wide(run, (size(other), other), pointer=name + "_at", bytes=o.dtype.bytes)
        ks = "ks" if self.depth is None else str(self.depth)
        if along and tests != "false":
            tests += f" && {ks} % {16 // o.dtype.bytes} == 0"
        kind = MEMORY[o.dtype] if not o.dtype.bytes == 1 else "u8"
        cast = f"(const {kind} *)" if kind != MEMORY[o.dtype] else ""
        return [f"const {kind} *{name}_at = {cast}p{o.buffer} + {index(o, [*batch, '0', '0'])};",
                f"const lp_matrix<{kind}, {str(along_k).lower()}> {name}{{{name}_at, {size(row)}, {size(k)}, {extent}, "
                f"{ks}, {tests}}};"]


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of a convolution: strides over (*batch, n, d, h, w, channel); k is (d, h, w, channel)."""

    operand: Operand
    into: Sizes             # d, h, w, like those below
    out: Sizes
    kernel: tuple[int, int, int]
    strides: tuple[int, int, int]
    dilations: tuple[int, int, int]
    pads: Sizes
    channels: int
    fill: Zero = Zero()

    @property
    def operands(self) -> tuple[Operand, ...]:
        return () if self.fill.operand is None else (self.fill.operand,)

    def text(self, name: str, batch: list[str], extent: str, along: bool) -> list[str]:
        o, (n, d, h, w, c) = self.operand, self.operand.strides[-5:]
        run = 16 // o.dtype.bytes
        fits = self.channels % (run if along else 4) == 0
        tests = wide(c, *((size(s), s) for s in (n, d, h, w)), pointer=name + "_at", bytes=o.dtype.bytes)
        kind = MEMORY[o.dtype] if not o.dtype.bytes == 1 else "u8"
        cast = f"(const {kind} *)" if kind != MEMORY[o.dtype] else ""
        axes = ", ".join(f"{{{', '.join(f'int({x})' for x in three)}}}" for three in self.axes())
        steps = ", ".join(size(s) for s in (n, d, h, w, c))
        return [f"const {kind} *{name}_at = {cast}p{o.buffer} + {index(o, [*batch, *['0'] * 5])};",
                f"const lp_windows<{kind}> {name}{{{name}_at, {steps}, {axes}, {self.channels}, {extent}, ks, "
                f"{tests if fits else 'false'}, {kind}({self.fill.text([])})}};"]

    def axes(self) -> list[list[str]]:
        """d, h, w of what lp_windows wants to know."""
        return [[size(x) for x in three] for three in (
            self.into, self.out, self.kernel, self.strides, self.dilations, self.pads)]


Factor: TypeAlias = Matrix | Windows


@dataclass(frozen=True, slots=True)
class Product(DeviceBody):
    """out[*batch, *rows, n] = Σ over k. A task is a tile of (rows, n); the epilogue is over (*batch, *rows, n)."""

    dtype: DType              # of the sums
    batch: tuple[Size, ...]
    rows: tuple[Size, ...]
    n: Size
    k: Size
    a: Factor
    b: Matrix
    epilogue: Epilogue
    tile: Tile
    zeros: Zeros | None = None

    def emit_cuda(self, symbol: str, target: Target) -> Spelled:
        tile, copied = self.tile, isinstance(self.tile, TensorTile)
        geometry = Geometry(tile.threads, 1, tile.shared_bytes(self.dtype))
        roomy = self.dtype.bytes == 8 or self.zeros is not None or (  # half the registers are too few
            isinstance(tile, TensorTile) and (tile.kind == "tf32x3" or isinstance(self.a, Windows) or (
                tile.kind in FLOAT8_KINDS and target.warpgroups)))  # sm_90 makes halves of 8-bit floats
        batch = [f"c{i}" for i in range(len(self.batch))]
        text = [
            self.head(symbol, tile.threads, self.reads, self.epilogue.stores, 1 if roomy else 2),
            "  LP_SHARED", *self.sizes(),
            f"  const i64 tiles_m = (m + {tile.rows - 1}) / {tile.rows}, "
            f"tiles = tiles_m * ((n + {tile.columns - 1}) / {tile.columns});",
            "  for (i64 t = LP_BLOCK; t < tasks; t += LP_BLOCKS) {",
            *self.indented([
                f"const int m0 = int(t % tiles % tiles_m) * {tile.rows}, n0 = int(t % tiles / tiles_m) * "
                f"{tile.columns};",
                *coordinates("(t / tiles)", self.batch, batch), *self.entry(),
                *self.a.text("a", batch, "m", copied), *self.b.text("b", batch, "n", copied),
                *self.out(batch), *(self.zeros.text(batch) if self.zeros else []),
                f"{tile.text(self.dtype)}::run(a, b, m0, n0, ks, lp_shared, out{', zeros' if self.zeros else ''});"]),
            "  }", "}"]
        return Spelled("\n".join(text) + "\n", geometry)

    @property
    def reads(self) -> list[Operand]:
        zeros = self.zeros.operands if self.zeros else []
        return [self.a.operand, self.b.operand, *self.a.operands, *zeros, *self.epilogue.loads]

    @property
    def run(self) -> int:
        """Neighbouring sums that a thread holds."""
        return 4 if isinstance(self.tile, PlainTile) else 2

    def counted(self, n_operands: int, n_dims: int) -> Product:
        """With so many operands and run-time sizes, which are known when all are bound."""
        return replace(self, n_operands=n_operands, n_dims=n_dims)

    def sizes(self) -> list[str]:
        rows = times(*map(size, self.rows))
        return [f"  const int m = int({rows}), n = int({size(self.n)}), ks = int({size(self.k)});"]

    def out(self, batch: list[str]) -> list[str]:
        """The epilogue as a function of a place and the sums there."""
        rows = [f"r{i}" for i in range(len(self.rows))]
        sums = f"{c_type(self.dtype)} (&)[{self.run}]"
        before = [*coordinates("row", self.rows, rows), *self.guards()]
        return output(self.epilogue, sums, before, [*batch, *rows, "column"], "m", "n")

    def entry(self) -> list[str]:
        """What is known of an entry of the batch, before the factors."""
        return []

    def guards(self) -> list[str]:
        """Which rows have no results."""
        return []

    @staticmethod
    def indented(lines: list[str]) -> list[str]:
        return ["  " + line for line in lines]


@dataclass(frozen=True, slots=True)
class Columns(Product):
    """A product of so few rows that a warp takes a column of all of them; `tile` is of no use. A task is a column."""

    warps: ClassVar[int] = 8

    @property
    def run(self) -> int:
        return 1

    def emit_cuda(self, symbol: str, target: Target) -> Spelled:
        batch = [f"c{i}" for i in range(len(self.batch))]
        (rows,) = self.rows
        text = [
            self.head(symbol, 32 * self.warps, self.reads, self.epilogue.stores),
            *self.sizes(),
            f"  for (i64 t = LP_BLOCK * {self.warps} + LP_THREAD / 32; t < tasks; t += LP_BLOCKS * {self.warps}) {{",
            *self.indented([
                *coordinates("(t / n)", self.batch, batch), *self.a.text("a", batch, "m", True),
                *self.b.text("b", batch, "n", True), *self.out(batch),
                f"lp_columns<{c_type(self.dtype)}, {rows}>(a, b, int(t % n), ks, out);"]),
            "  }", "}"]
        return Spelled("\n".join(text) + "\n", Geometry(32 * self.warps, self.warps, 0))
