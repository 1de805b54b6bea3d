"""tree_ensemble: its tables as the records that codegen/templates/trees.py walks."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel, packed
from lepton.codegen.lower.matmul import grain_of
from lepton.codegen.templates.fused import Bindings, outer
from lepton.codegen.templates.trees import KEYS, NODE_BYTES, SUM_BYTES, WALKS, Trees
from lepton.ir import ops
from lepton.ir.core import Node
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.dims import Dim, ceildiv
from lepton.ir.ops.trees import NOTHING
from lepton.ir.tensor import Array
from lepton.ir.types import DType

KEY_BYTES = 32 * 1024     # of the rows that walk a tree while it is in the cache
MOST_ROWS = 64
STEP_FLOPS = 8            # of one walk's step, in what other kernels count


@lowers(ops.tree_ensemble)
def tree_ensemble(group: Group, options: LowerOptions) -> Kernel:
    """A task is a block of rows; every task walks all trees."""
    node, bindings = group.anchor, Bindings()
    assert node is not None
    x, result, attrs = node.inputs[0], group.outputs[0], node.attrs
    assert x is not None
    if group.body.outputs != node.results:
        raise UnsupportedError("ops fused behind tree_ensemble are not supported")
    rows, features = x.tensor.shape
    assert isinstance(features, int)
    leaves, twice = attrs["weights"].type.shape[0], bool(attrs["nan_yes"].array.any())
    body = Trees(
        bindings.table.ref(rows), features, attrs["roots"].type.shape[0],
        bindings.operand(outer(group, x), x.tensor, group.access(x).strides),
        bindings.operand(result, result.tensor, group.accesses[result].strides), nodes=0,
        middle=leaves * NODE_BYTES[x.tensor.dtype], roots=0, weights=0, owner=None if attrs["target"] is None else 0,
        targets=attrs["targets"], aggregate=attrs["aggregate"], twice=twice,
        block=_block(rows, features * x.tensor.dtype.bytes * (1 + twice)))
    tables = {name: bindings.buffer(packed(table)) for name, table in _tables(node, body, options).items()}
    body = replace(body, nodes=tables["nodes"], roots=tables["roots"], weights=tables["weights"],
                   owner=tables.get("owner"))
    depth = 1 + (leaves // max(1, body.trees)).bit_length()
    tasks, flops = ceildiv(rows, body.block), rows * (body.trees * depth * STEP_FLOPS)
    return Kernel(group.name, body, tuple(bindings.bound), tasks, bindings.table.dims, body.scratch(options.target),
                  grain_of(flops, tasks), flops, group.outputs)


def _block(rows: Dim, row_bytes: int) -> int:
    """Rows of a task."""
    block = max(WALKS, min(MOST_ROWS, KEY_BYTES // max(1, row_bytes) // WALKS * WALKS))
    return max(1, min(block, rows)) if isinstance(rows, int) else block


def _tables(node: Node, body: Trees, options: LowerOptions) -> dict[str, Array]:
    """The constant operands, by their names in the body."""
    attrs, dtype, weights = node.attrs, body.x.dtype, node.attrs["weights"].array
    if (len(weights) + len(attrs["feature"].array)) * NODE_BYTES[dtype] >= 1 << 31:
        raise UnsupportedError(f"an ensemble of {len(weights)} leaves", where=node.loc[0] if node.loc else None)
    rows = np.full((len(weights), body.pitch if body.owner is None else 1), NOTHING[body.aggregate], weights.dtype)
    rows[:, :weights.shape[1]] = weights
    found = {"nodes": _records(node, dtype, body.key_pitch(options.target.lanes(dtype))), "weights": rows,
             "roots": attrs["roots"].array.astype(np.int64) * NODE_BYTES[dtype]}
    if attrs["target"] is not None:
        found["owner"] = attrs["target"].array.astype(np.int64) * SUM_BYTES
    return found


def _records(node: Node, dtype: DType, half: int) -> Array:
    """Leaves, the last first, then inner nodes. `half`: bytes to the keys in which NaN is the smallest."""
    attrs, size = node.attrs, NODE_BYTES[dtype]
    leaves, inner = len(attrs["weights"].array), len(attrs["feature"].array)
    key: np.dtype[np.signedinteger[Any]] = KEYS[dtype].numpy
    record = np.dtype({"names": ["limit", "feature", "yes", "no"], "formats": [key, np.int32, np.int32, np.int32],
                       "offsets": [0, dtype.bytes, dtype.bytes + 4, dtype.bytes + 8], "itemsize": size})
    table = np.zeros(leaves + inner, record)
    table["yes"][:leaves] = table["no"][:leaves] = np.arange(-leaves, 0) * size
    own = table[leaves:]
    own["limit"] = _keys(attrs["threshold"].array, key)
    own["feature"] = attrs["feature"].array * dtype.bytes + attrs["nan_yes"].array * half
    own["yes"], own["no"] = (attrs[side].array * size for side in ("yes", "no"))
    return table.view(np.int32)


def _keys(x: Array, dtype: np.dtype[np.signedinteger[Any]]) -> Array:
    """As the template's: integers in the order of the floats. Nothing but a NaN that may is below a NaN."""
    bits = (x + x.dtype.type(0)).view(dtype)
    least = np.iinfo(dtype).min
    return np.where(np.isnan(x), least, np.where(bits < 0, bits ^ np.iinfo(dtype).max, bits))
