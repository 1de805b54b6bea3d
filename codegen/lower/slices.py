"""Writing one slice of a tensor at an index that is known only when the model runs."""
from __future__ import annotations

from lepton.codegen.kernel import Access, Kernel
from lepton.codegen.loops import Store, add, mul
from lepton.codegen.lower.nest import TASK_ELEMENTS, Nest, cut, grain_for, load, nest_loops, offset
from lepton.ir.core import Value
from lepton.ir.types import DType


def store_slice_kernel(element: Value, index: Value, target: Value, accesses: tuple[Access, Access], axis: int
                       ) -> Kernel:
    """target[..., index, ...] = element, where `index` (i64[]) counts along `axis`; accesses of element and target."""
    nest = Nest("store_slice")
    source = nest.reads(element, element.tensor.dtype)
    where = nest.reads(index, DType.I64)
    place = nest.writes(target, target.tensor.dtype)
    sizes = element.tensor.shape or (1,)
    tasks = cut(sizes, TASK_ELEMENTS)
    coords, around = nest_loops(sizes, tasks, nest)
    own = coords if element.tensor.shape else []
    strides = accesses[1].strides
    rest = (*strides[:axis], *strides[axis + 1:])
    row = mul(load(where, DType.I64, offset([], (), nest)), nest.size(strides[axis]))
    value = load(source, element.tensor.dtype, offset(own, accesses[0].strides, nest))
    body = [Store(place, add(offset(own, rest, nest), row), value)]
    return nest.kernel(around.around(body), tasks.count, grain=grain_for(tasks), writes=(target,))


