"""Which products go to warp groups (sm_90a), and their weights."""
from __future__ import annotations

from typing import TYPE_CHECKING

from lepton.codegen.cuda.templates.product import FLOAT8_KINDS
from lepton.codegen.cuda.templates.warpgroup import Tiles, WarpgroupTile
from lepton.codegen.kernel import packed
from lepton.codegen.target import Target
from lepton.ir.dims import Dim
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType

if TYPE_CHECKING:
    from lepton.codegen.templates.fused import Bindings, Strides

UNKNOWN_ROWS, UNKNOWN_ENTRIES = 256, 4   # what is taken for run-time sizes
ENOUGH_TILES = 120                       # for the multiprocessors of the GPU
LEAST_DEPTH = 256                        # bytes of a row along k: two steps
STAGES = {256: 4, 128: 6, 64: 8}         # by columns: as shared memory has room for
KINDS = ("f16", "bf16", "s8s8", "u8s8", *FLOAT8_KINDS)
WIDEST_FLOAT8 = 128                      # columns: their threads hold two sums for each


def warpgroup_tile(target: Target, kind: str | None, weights: Array, m: Dim, entries: Dim) -> WarpgroupTile | None:
    """The tile for a product with these weights ([group, n, k] as they lie in memory); None: warps do it."""
    _, n, k = weights.shape
    rows, many = (d if isinstance(d, int) else u for d, u in ((m, UNKNOWN_ROWS), (entries, UNKNOWN_ENTRIES)))
    if not target.warpgroups or kind not in KINDS or rows <= 64 or k * weights.dtype.itemsize < LEAST_DEPTH:
        return None
    for columns, stages in STAGES.items():
        tiles = -(-n // columns)
        if kind in FLOAT8_KINDS and columns > WIDEST_FLOAT8:
            continue
        if 4 * tiles * columns <= 5 * n and -(-rows // 128) * tiles * many >= ENOUGH_TILES:
            return WarpgroupTile(kind, columns, stages)
    return None


def tiles_of(bindings: Bindings, tile: WarpgroupTile, weights: Array, dtype: DType, before: Strides) -> Tiles:
    """The weights, packed. `before`: the strides of the entries of a batch, in tiles."""
    array = tile.packed(weights)
    each = array[0, 0].size
    strides = (*(s * each for s in before), each)
    return Tiles(bindings.operand(packed(array), TensorType(dtype, array.shape), strides))
