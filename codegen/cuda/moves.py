"""Groups without an anchor on GPUs: runs of 16 bytes where all lies side by side, squares in shared memory where a copy
turns rows into columns, loops for the rest."""
from __future__ import annotations

from lepton.codegen.cuda.templates.moves import FlatMap, Turn
from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.loops import Apply, Let, i64, walk
from lepton.codegen.lower.map import RAW, elementwise
from lepton.codegen.lower.nest import Space, broadcast_strides, collapse, guess, load
from lepton.codegen.lower.scalar import Elements
from lepton.codegen.templates.fused import Bindings
from lepton.ir.core import Value
from lepton.ir.dims import ceildiv, product
from lepton.ir.types import DType, TensorType

RUN_BYTES = 16
MOST_OPERATIONS = 64     # of a thread's neighbours together, beyond four of them: code grows by each
LEAST_SIDE = 16          # of what is turned: less would leave most of a square empty


@lowers(None, family="cuda")
def lower_map(group: Group, options: LowerOptions) -> Kernel:
    """One pass over the elements."""
    shape = group.outputs[0].tensor.shape
    if any(v.tensor.shape != shape for v in group.outputs):
        return elementwise(group, options)
    views = [broadcast_strides(group.accesses[v], shape) for v in (*group.inputs, *group.outputs)]
    space, _ = collapse(shape, views)
    found = flat_map(group, space)
    if found is None and not group.body.nodes:
        found = turned(group, space)
    return found or elementwise(group, options)


def flat_map(group: Group, space: Space) -> Kernel | None:
    """The kernel where all operands lie side by side, or are one number."""
    views, count = space.views, len(group.inputs)
    if space.rank != 1 or any(v != (1,) for v in views[count:]) or any(v not in ((0,), (1,)) for v in views[:count]):
        return None
    bindings = Bindings()

    def kind(value: Value) -> DType:  # what is only copied is moved as bits
        dtype = value.tensor.dtype
        return dtype if group.body.nodes else RAW.get(dtype, dtype)

    operands = [bindings.operand(v, TensorType(kind(v), v.tensor.shape), steps)
                for v, steps in zip((*group.inputs, *group.outputs), views, strict=True)]
    leaves = {v: load(f"e{i}", kind(outer), i64(0))
              for i, (v, outer) in enumerate(zip(group.body.inputs, group.inputs, strict=True))}
    lets: list[Let] = []
    elements = Elements(leaves.__getitem__, lets, rounded=group.rounded)
    values = tuple(elements.expr(v) for v in group.body.outputs)
    each = sum(isinstance(x, Apply) for e in (*values, *(x.value for x in lets)) for x in walk(e))
    run = RUN_BYTES // max(o.dtype.bytes for o, v in zip(operands, views, strict=True) if v == (1,))
    run = min(run, max(4, MOST_OPERATIONS // max(1, each)))
    run = 1 << (run.bit_length() - 1)
    (n,) = bindings.sizes(space.sizes)
    body = FlatMap(len(bindings.bound), len(bindings.table.dims), n, run, tuple(operands[:count]),
                   tuple(operands[count:]), values, tuple(lets))
    return Kernel(group.name, body, tuple(bindings.bound), ceildiv(space.sizes[0], run), bindings.table.dims,
                  flops=product((*space.sizes, max(1, each))), writes=group.outputs)


def turned(group: Group, space: Space) -> Kernel | None:
    """The kernel of a copy that is contiguous along one dim where it reads, along another where it writes."""
    source, target = space.views
    r = next((i for i, s in enumerate(source) if s == 1), None)
    c = next((i for i, s in enumerate(target) if s == 1), None)
    if r is None or c is None or r == c or source[c] == 0:
        return None
    if min(guess(space.sizes[r]), guess(space.sizes[c])) < LEAST_SIDE:
        return None
    order = [*(i for i in range(space.rank) if i not in (r, c)), r, c]
    space, bindings = space.permuted(order), Bindings()
    (read,), (written,) = group.inputs, group.outputs
    dtype = RAW.get(read.tensor.dtype, read.tensor.dtype)
    views = [bindings.operand(v, TensorType(dtype, v.tensor.shape), s)
             for v, s in zip((read, written), space.views, strict=True)]
    *outer, rows, columns = bindings.sizes(space.sizes)
    body = Turn(len(bindings.bound), len(bindings.table.dims), tuple(outer), rows, columns, *views)
    *around, high, wide = space.sizes
    return Kernel("transpose", body, tuple(bindings.bound), product((*around, ceildiv(high, 32), ceildiv(wide, 32))),
                  bindings.table.dims, writes=group.outputs)
