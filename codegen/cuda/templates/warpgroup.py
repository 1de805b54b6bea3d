"""Matrix products by warp groups: prelude/warpgroup.cuh."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton.codegen.cuda.spell import Geometry, Spelled
from lepton.codegen.cuda.templates.product import Product
from lepton.codegen.cuda.templates.text import coordinates, index
from lepton.codegen.target import Target
from lepton.codegen.templates.epilogue import Operand
from lepton.ir.tensor import Array
from lepton.ir.types import DType

STEP_BYTES = 128         # of a row, in one step along k
NEIGHBOURS = 8           # tiles of rows that are worked on together, so that what they read is still in the cache
MULTIPROCESSORS = 132    # of an H100 or H200: each is given one block, which takes tile after tile
REGISTERS = 104, 200     # of threads that bring and of those that multiply: 128 * 104 + 256 * 200 are there


@dataclass(frozen=True, slots=True)
class WarpgroupTile:
    """lp_warpgroup_tile: 128 x `columns`, `stages` steps of 128 bytes along k in flight."""

    kind: str                # f16, bf16, s8s8, u8s8
    columns: int             # 64, 128, 256
    stages: int
    rows: int = 128
    threads: int = 384

    def shared_bytes(self, dtype: DType) -> int:
        return self.stages * ((self.rows + self.columns) * STEP_BYTES + 16)

    def text(self, dtype: DType) -> str:
        return f"lp_warpgroup_tile<lp_{self.kind}, {self.columns}, {self.stages}>"

    def packed(self, weights: Array) -> Array:
        """[group, n, k] as the bytes of the places of the ring: [group, tile, step, row, chunk, in it]."""
        groups, n, k = weights.shape
        run = 16 // weights.dtype.itemsize
        weights = np.pad(weights, ((0, 0), (0, -n % self.columns), (0, -k % (8 * run))))
        tiles = weights.reshape(groups, -1, self.columns, weights.shape[2] // (8 * run), 8, run).swapaxes(2, 3)
        rows, chunks = np.arange(self.columns)[:, None], np.arange(8)
        return np.ascontiguousarray(tiles[:, :, :, rows, chunks ^ (rows & 7)])


@dataclass(frozen=True, slots=True)
class Tiles:
    """A constant right factor, packed for a WarpgroupTile: strides over (*batch, tile of columns)."""

    operand: Operand

    def place(self, batch: list[str], tile: str) -> str:
        o = self.operand
        return f"const unsigned char *b = (const unsigned char *)(p{o.buffer} + {index(o, [*batch, tile])});"


@dataclass(frozen=True, slots=True)
class WarpgroupProduct(Product):
    """As Product, for GPUs whose warp groups multiply. `b` is packed."""

    b: Tiles                 # type: ignore[assignment]
    tile: WarpgroupTile      # type: ignore[assignment]

    def emit_cuda(self, symbol: str, target: Target) -> Spelled:
        tile, batch = self.tile, [f"c{i}" for i in range(len(self.batch))]
        geometry = Geometry(tile.threads, 1, tile.shared_bytes(self.dtype), max_blocks=MULTIPROCESSORS)
        loop = "for (i64 t = LP_BLOCK; t < tasks; t += LP_BLOCKS) {"
        place = [
            "const int place = int(t % tiles), first = place / wide * " + f"{NEIGHBOURS}, high = tiles_m - first < "
            f"{NEIGHBOURS} ? tiles_m - first : {NEIGHBOURS};",
            f"const int m0 = (first + place % wide % high) * {tile.rows}, n0 = place % wide / high * {tile.columns};",
            *coordinates("(t / tiles)", self.batch, batch)]
        bring = [*place, *self.a.text("a", batch, "m", True), self.b.place(batch, f"n0 / {tile.columns}"),
                 "Tile::bring(a, b, m0, ks, lp_shared, step);"]
        multiply = [*place, *self.out(batch), "Tile::multiply(m0, n0, ks, lp_shared, step, out);"]
        text = [
            self.head(symbol, tile.threads, self.reads, self.epilogue.stores, 1), "  LP_SHARED", *self.sizes(),
            f"  typedef {tile.text(self.dtype)} Tile;",
            f"  const int tiles_m = (m + {tile.rows - 1}) / {tile.rows}, tiles_n = (n + {tile.columns - 1}) / "
            f"{tile.columns}, wide = tiles_n * {NEIGHBOURS};",
            "  const i64 tiles = i64(tiles_m) * tiles_n;", "  int step = 0;", "  Tile::start(lp_shared);",
            "  if (LP_THREAD < 128) {", f"    lp_registers_less<{REGISTERS[0]}>();", f"    {loop}",
            *self.indented(self.indented(self.indented(bring))), "    }", "    Tile::brought(lp_shared, step);",
            "  } else {", f"    lp_registers_more<{REGISTERS[1]}>();", f"    {loop}",
            *self.indented(self.indented(self.indented(multiply))), "    }", "  }", "}"]
        return Spelled("\n".join(text) + "\n", geometry)
