"""Ops that hold graphs. A reference gets its regions as functions from arrays to a list of arrays."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lepton.ir import dims
from lepton.ir.core import Graph
from lepton.ir.dims import Dim
from lepton.ir.op import Trait, op
from lepton.ir.ops.rules import boolean, check_axis, fail, same_dim, tensor
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType, Type


class Run(Protocol):
    """A region as a reference sees it: a function, and the types of what it gives (sizes nobody knows yet: 0)."""

    types: tuple[TensorType, ...]

    def __call__(self, *inputs: Array) -> list[Array]: ...


def check_operands(region: Graph, operands: Sequence[Type | None]) -> None:
    """Each operand has exactly the type of the region's input."""
    wanted = tuple(v.type for v in region.inputs)
    if wanted != tuple(operands):
        shown = ", ".join(map(str, wanted))
        raise fail(f"region '{region.name}' takes ({shown})", *operands)


def _regions(regions: Sequence[Graph], count: int, what: str) -> None:
    if len(regions) != count:
        raise fail(f"{what} holds {count} region{'s' * (count > 1)}, not {len(regions)}")


def result_types(region: Graph) -> tuple[Type, ...]:
    return tuple(v.type for v in region.outputs)


def _fusion_type(*operands: Type, kind: str, regions: Sequence[Graph]) -> tuple[Type, ...]:
    _regions(regions, 1, "fusion")
    check_operands(regions[0], operands)
    return result_types(regions[0])


@op(_fusion_type, Trait.REGIONS)
def fusion(*operands: Array, kind: str = "", regions: Sequence[Run]) -> tuple[Array, ...]:
    """What the body computes from the operands: nodes that become one kernel. `kind` names the group for people."""
    return tuple(regions[0](*operands))


# --- if -------------------------------------------------------------------------------------------


def merged(a: Type, b: Type, fresh: list[str]) -> Type:
    """The type of a value of type a or type b: where sizes differ, the next fresh symbol. Raises TypeRuleError."""
    if a == b:
        return a
    x, y = tensor(a), tensor(b)
    if x.dtype is not y.dtype or x.rank != y.rank:
        raise fail("the branches' results differ", a, b)
    shape: list[Dim] = []
    for m, n in zip(x.shape, y.shape, strict=True):
        if m != n and not fresh:
            raise fail(f"the branches give the sizes {m} and {n}, and `symbols` has no name left for either", a, b)
        shape.append(m if m == n else dims.sym(fresh.pop(0)))
    return TensorType(x.dtype, tuple(shape))


def _if_type(cond: Type, *captures: Type, symbols: Sequence[str], regions: Sequence[Graph]) -> tuple[Type, ...]:
    tensor(cond, boolean, rank=0)
    _regions(regions, 2, "if")
    for region in regions:
        check_operands(region, captures)
    then, other = map(result_types, regions)
    if len(then) != len(other):
        raise fail(f"the branches give {len(then)} and {len(other)} results")
    fresh = list(symbols)
    return tuple(merged(a, b, fresh) for a, b in zip(then, other, strict=True))


@op(_if_type, Trait.REGIONS)
def if_(cond: Array, *captures: Array, symbols: tuple[str, ...] = (), regions: Sequence[Run]) -> tuple[Array, ...]:
    """What the first region computes from the captures where `cond` (bool[]) holds, else what the second does; only
    that one runs. Sizes on which the regions differ are named, in order of appearance, by `symbols`."""
    return tuple(regions[0 if np.asarray(cond).item() else 1](*captures))


# --- loops ----------------------------------------------------------------------------------------


def _carried(initial: Type, inner: Type, outer: Type, fresh: list[str]) -> Type:
    """The type of a value that goes round a loop, after it. A size that changes is a symbol of the body's own inside,
    and the next of `fresh` outside."""
    a, b, c = tensor(initial), tensor(inner), tensor(outer)
    if not a.dtype is b.dtype is c.dtype or not a.rank == b.rank == c.rank:
        raise fail("a carried value changes its element type or rank", initial, inner, outer)
    shape: list[Dim] = []
    for before, inside, after in zip(a.shape, b.shape, c.shape, strict=True):
        if before == inside == after:
            shape.append(before)
        elif isinstance(inside, int) or not fresh:
            raise fail(f"a carried value changes a size: {before}, {inside}, {after}", initial, inner, outer)
        else:
            shape.append(dims.sym(fresh.pop(0)))
    return a.with_shape(shape)


def _loop_type(trip: Type | None, cond: Type | None, *values: Type, carried: int, symbols: Sequence[str],
               regions: Sequence[Graph]) -> tuple[Type, ...]:
    _regions(regions, 1, "loop")
    (body,) = regions
    if trip is not None:
        tensor(trip, long, rank=0)
    if cond is not None:
        tensor(cond, boolean, rank=0)
    wanted, given = tuple(v.type for v in body.inputs), result_types(body)
    head = (TensorType(DType.I64, ()), TensorType(DType.BOOL, ()))
    if wanted[:2] != head or given[:1] != head[1:] or len(wanted) != 2 + len(values) or len(given) <= carried - 1:
        raise fail(f"loop body '{body.name}' must take (i64[], bool[], values…) and give (bool[], values…)", *values)
    if wanted[2 + carried:] != values[carried:]:
        raise fail(f"captures of loop body '{body.name}' differ", *wanted[2 + carried:], *values[carried:])
    fresh = list(symbols)
    rounds = [_carried(*types, fresh) for types in
              zip(values[:carried], wanted[2:2 + carried], given[1:1 + carried], strict=True)]
    return (*rounds, *_stacked_types(given[1 + carried:], values, fresh))


def _stacked_types(elements: Sequence[Type], values: Sequence[Type], fresh: list[str]) -> tuple[Type, ...]:
    """The types of values collected over an unknown number of rounds, which one fresh symbol names. A size that no
    operand's type mentions is the body's own business: it gets a fresh symbol too."""
    known = {name for v in values for d in tensor(v).shape for name in dims.symbols(d)}
    stacked: list[Type] = []
    count: Dim | None = None
    for element in elements:
        t = tensor(element)
        need = [not dims.symbols(d) <= known for d in t.shape]
        if len(fresh) < sum(need) + (count is None):
            raise fail("`symbols` has no names left for the sizes of what a loop collects", element)
        count = dims.sym(fresh.pop(0)) if count is None else count
        shape = [dims.sym(fresh.pop(0)) if own else d for own, d in zip(need, t.shape, strict=True)]
        stacked.append(t.with_shape((count, *shape)))
    return tuple(stacked)


def long(dtype: DType) -> bool:
    """i64"""
    return dtype is DType.I64


@op(_loop_type, Trait.REGIONS)
def loop_(
    trip: Array | None, cond: Array | None, *values: Array, carried: int, symbols: tuple[str, ...] = (),
    regions: Sequence[Run],
) -> tuple[Array, ...]:
    """Run the body until `trip` rounds (i64[]; absent: no limit) are done or the condition (bool[]; absent: True) is
    False.

    The body takes (round i64[], condition, carried values…, captures…), where `values` are the first `carried` values
    and the captures, and gives (next condition, carried values…, collected values…). The results are the last carried
    values and the collected ones of all rounds stacked on a new first axis. `symbols` names, in this order, the sizes
    of carried values that change, the number of rounds (if anything is collected), and sizes of collected values that
    only the body knows; names that are not needed are not used."""
    body = regions[0]
    state, captures = list(values[:carried]), values[carried:]
    collected: list[list[Array]] = [[] for _ in body.types[1 + carried:]]
    going, done = cond is None or bool(cond), 0
    while going and (trip is None or done < int(trip)):
        next_cond, *rest = body(np.asarray(done, np.int64), np.asarray(True), *state, *captures)
        going, done = bool(next_cond), done + 1
        state = rest[:carried]
        for column, element in zip(collected, rest[carried:], strict=True):
            column.append(element)
    return (*state, *(stack(column, t) for column, t in zip(collected, body.types[1 + carried:], strict=True)))


def stack(elements: list[Array], type: TensorType, axis: int = 0) -> Array:
    """The elements on a new axis; none: an empty array of that type."""
    if elements:
        return np.stack(elements, axis=axis)
    shape = [d if isinstance(d, int) else 0 for d in type.shape]
    return np.zeros((*shape[:axis], 0, *shape[axis:]), type.dtype.numpy)


def _scan_type(
    *values: Type, carried: int, input_axes: Sequence[int], output_axes: Sequence[int], input_reverse: Sequence[bool],
    output_reverse: Sequence[bool], regions: Sequence[Graph],
) -> tuple[Type, ...]:
    _regions(regions, 1, "scan")
    (body,) = regions
    given, last = result_types(body), carried + len(input_axes)
    if len(input_axes) != len(input_reverse) or len(output_axes) != len(output_reverse) or not input_axes:
        raise fail("scan needs an axis and a direction for each scanned value, and one such value at least", *values)
    count: Dim | None = None
    elements = []
    for value, axis in zip(values[carried:last], input_axes, strict=True):
        t = tensor(value)
        size = t.shape[check_axis(axis, t)]
        count = size if count is None else same_dim(count, size, "lengths of the scanned values", *values)
        elements.append(t.with_shape([d for a, d in enumerate(t.shape) if a != axis]))
    check_operands(body, (*values[:carried], *elements, *values[last:]))
    if given[:carried] != values[:carried] or len(given) != carried + len(output_axes):
        raise fail(f"scan body '{body.name}' must give the carried values' types and {len(output_axes)} more", *given)
    assert count is not None
    stacked = []
    for value, axis in zip(given[carried:], output_axes, strict=True):
        t = tensor(value)
        check_axis(axis, t.with_shape((*t.shape, count)))
        stacked.append(t.with_shape((*t.shape[:axis], count, *t.shape[axis:])))
    return (*values[:carried], *stacked)


@op(_scan_type, Trait.REGIONS)
def scan(
    *values: Array, carried: int, input_axes: tuple[int, ...], output_axes: tuple[int, ...],
    input_reverse: tuple[bool, ...], output_reverse: tuple[bool, ...], regions: Sequence[Run],
) -> tuple[Array, ...]:
    """Run the body once for each slice of the scanned values along their axes (from the end where `input_reverse`).

    `values` are `carried` values, one scanned value per entry of `input_axes`, captures. The body takes (carried…,
    slices…, captures…) and gives (carried…, elements…). The results are the last carried values, then the elements
    stacked along `output_axes` (the first one last where `output_reverse`)."""
    body, last = regions[0], carried + len(input_axes)
    state, captures = list(values[:carried]), values[last:]
    scanned = [np.moveaxis(np.flip(v, a) if back else v, a, 0)
               for v, a, back in zip(values[carried:last], input_axes, input_reverse, strict=True)]
    collected: list[list[Array]] = [[] for _ in output_axes]
    for slices in zip(*scanned, strict=True):
        results = body(*state, *map(np.asarray, slices), *captures)
        state = results[:carried]
        for column, element in zip(collected, results[carried:], strict=True):
            column.append(element)
    columns = zip(collected, body.types[carried:], output_axes, output_reverse, strict=True)
    return (*state, *(stack(c[::-1] if back else c, t, axis) for c, t, axis, back in columns))
