"""Sequences and optionals, as far as their members are known while importing."""
from __future__ import annotations

from lepton.frontends.onnx.bundles import Bundle, Growing, Maps, Stack, optional, sequence, stack
from lepton.frontends.onnx.call import Call
from lepton.frontends.onnx.ops.movement import parts
from lepton.frontends.onnx.registry import imports
from lepton.frontends.onnx.types import type_of
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim
from lepton.ir.types import DType, SequenceType, TensorType, Type


def members(c: Call, index: int) -> Bundle:
    """Operand `index`, a sequence whose members are known."""
    value = c.opt(index)
    if isinstance(value, Maps):
        c.fail("an operator on a sequence of maps")
    if isinstance(value, Growing | Stack):
        c.fail("this on a sequence whose length only the running model knows",
               help="what is known without it: joining, its length, a member, growing by one member of the same type")
    if isinstance(value, Bundle) and isinstance(value.type, SequenceType):
        return value
    if value is None or not isinstance(value.type, SequenceType):
        raise LeptonError(f"input {index} is not a sequence", where=c.where)
    c.fail("a sequence whose length only the running model knows")


def element(value: Bundle) -> Type:
    assert isinstance(value.type, SequenceType)
    return value.type.element


def position(c: Call, index: int, count: int, default: int) -> int:
    """A position in a sequence, from the end where negative. Raises LeptonError outside [0, count)."""
    at = default if c.opt(index) is None else c.int_in(index, "the position")
    at = at + count if at < 0 else at
    if not 0 <= at < count:
        raise LeptonError(f"position {at} in a sequence of {count}", where=c.where)
    return at


@imports("SequenceEmpty", since=11)
def sequence_empty(c: Call) -> Value:
    return sequence([], TensorType(c.dtype("dtype", DType.F32), ()))


@imports("SequenceConstruct", since=11)
def sequence_construct(c: Call) -> Value:
    values = c.all()
    return sequence(values, values[0].type)


@imports("SequenceAt", since=11)
def sequence_at(c: Call) -> Value:
    """A member; at an unknown position, where all are of one type, of all of them stacked."""
    if isinstance(c.opt(0), Stack):
        return _row(c, table(c))
    given = members(c, 0)
    if c.known(1) is not None:
        return given.items[position(c, 1, len(given.items), 0)]
    if len({v.type for v in given.items}) != 1:
        c.fail("an unknown position in a sequence of different types")
    return _row(c, c(ops.concat, *(as_row(c, v) for v in given.items), axis=0))


def _row(c: Call, rows: Value) -> Value:
    return c(ops.gather, rows, c.reshape(c.cast(c.x(1), DType.I64), ()), axis=0)


def as_row(c: Call, value: Value) -> Value:
    return c.reshape(value, (1, *value.tensor.shape))


def table(c: Call) -> Value:
    """Operand 0, a sequence of unknown length, as a tensor with its members along the first axis."""
    value = c.opt(0)
    assert isinstance(value, Stack)
    return value.items[0]


@imports("SequenceInsert", since=11)
def sequence_insert(c: Call) -> Value:
    """Of a sequence whose length is not known: at its end, or at the beginning."""
    if isinstance(value := c.opt(0), Growing | Stack):
        at = None if c.opt(2) is None else c.int_in(2, "the position")
        if at is None and isinstance(value, Growing):
            return Growing(value.type, items=(*value.items, c.x(1)), origin=value.origin or value)
        if at in (0, None) and isinstance(value, Stack) and c.x(1).tensor.rank == table(c).tensor.rank - 1:
            return stack(c(ops.concat, *(table(c), as_row(c, c.x(1)))[::1 if at is None else -1], axis=0))
    given = members(c, 0)
    count = len(given.items)
    at = count if c.opt(2) is None else c.int_in(2, "the position")
    at = at + count if at < 0 else at  # -1 is before the last member: `count` itself is the end
    if not 0 <= at <= count:
        raise LeptonError(f"position {at} in a sequence of {count}", where=c.where)
    return sequence((*given.items[:at], c.x(1), *given.items[at:]), element(given))


@imports("SequenceErase", since=11)
def sequence_erase(c: Call) -> Value:
    given = members(c, 0)
    at = position(c, 1, len(given.items), len(given.items) - 1)
    return sequence(given.items[:at] + given.items[at + 1:], element(given))


@imports("SequenceLength", since=11)
def sequence_length(c: Call) -> Value:
    if isinstance(c.opt(0), Stack):
        return c.size(table(c).tensor.shape[0])
    return c.const(len(members(c, 0).items), DType.I64)


@imports("ConcatFromSequence", since=11)
def concat_from_sequence(c: Call) -> Value:
    if isinstance(c.opt(0), Stack):
        return _joined(c, table(c))
    items = members(c, 0).items
    if not items:
        raise LeptonError("an empty sequence to join", where=c.where)
    new = c.flag("new_axis")
    rank = items[0].tensor.rank + new
    axis = c.axis(rank=rank)
    shapes = [v.tensor.shape for v in items]
    values = [c.reshape(v, (*s[:axis], 1, *s[axis:])) if new else v for v, s in zip(items, shapes, strict=True)]
    return c(ops.concat, *values, axis=axis) if len(values) > 1 else values[0]


def _joined(c: Call, rows: Value) -> Value:
    """The members of a sequence of unknown length, one after the other along an axis."""
    new, rank = c.flag("new_axis"), rows.tensor.rank - 1
    axis = c.axis(rank=rank + new)
    between = c(ops.transpose, rows, perm=(*range(1, axis + 1), 0, *range(axis + 1, rank + 1)))
    count, *shape = rows.tensor.shape
    return between if new else c.reshape(between, (*shape[:axis], count * shape[axis], *shape[axis + 1:]))


@imports("SplitToSequence", since=11)
def split_to_sequence(c: Call) -> Value:
    axis, keep = c.axis(0), c.flag("keepdims", True)
    size = c.x().tensor.shape[axis]
    if c.opt(1) is not None and c.x(1).tensor.rank == 1:
        sizes: list[Dim] = list(c.dims(1, "the sizes"))
    else:
        each = 1 if c.opt(1) is None else c.int_in(1, "the size")
        if not isinstance(size, int):
            return _rows_along(c, axis, each, keep or c.opt(1) is not None)
        if each < 1 or size > 4096 * each:
            c.fail(f"a split of {size} into parts of {each}")
        sizes = [min(each, size - at) for at in range(0, size, each)]
    pieces = parts(c, c.x(), axis, sizes)
    if c.opt(1) is None and not keep:
        pieces = [c.reshape(p, [d for a, d in enumerate(p.tensor.shape) if a != axis]) for p in pieces]
    return sequence(pieces, c.x().type)


def _rows_along(c: Call, axis: int, each: int, keep: bool) -> Value:
    """The parts along an axis of open size."""
    shape = list(c.x().tensor.shape)
    if each != 1:
        c.fail(f"a sequence of as many parts of {each} as {shape[axis]} says", help="pin this dimension")
    rows = c(ops.transpose, c.x(), perm=(axis, *(a for a in range(len(shape)) if a != axis)))
    size = shape.pop(axis)
    return stack(c.reshape(rows, (size, *shape[:axis], 1, *shape[axis:])) if keep else rows)


@imports("Optional", since=15)
def optional_(c: Call) -> Value:
    if c.opt(0) is not None:
        c.ignore("type")
        return optional(c.opt(0), c.inputs[0].type if c.inputs[0] else TensorType(DType.F32, ()))
    return optional(None, type_of(c.type("type"), "an empty optional", c.importer.symbols))


@imports("OptionalHasElement", since=15)
def optional_has_element(c: Call) -> Value:
    value = c.opt(0)
    if value is not None and not isinstance(value, Bundle) and not isinstance(value.type, TensorType | SequenceType):
        c.fail("an optional that only the running model knows")
    if isinstance(value, Bundle) and not isinstance(value.type, SequenceType):
        return c.const(bool(value.items), DType.BOOL)
    return c.const(value is not None, DType.BOOL)


@imports("OptionalGetElement", since=15)
def optional_get_element(c: Call) -> Value:
    value = c.opt(0)
    if value is None:
        raise LeptonError("input 0 is missing", where=c.where)
    if isinstance(value, Bundle) and not isinstance(value.type, SequenceType):
        if not value.items:
            raise LeptonError("the element of an empty optional", where=c.where)
        return value.items[0]
    if isinstance(value.type, TensorType | SequenceType):
        return value
    c.fail("an optional that only the running model knows")
