"""Sequences and optionals, as far as their members are known while importing."""
from __future__ import annotations

from lepton.frontends.onnx.bundles import Bundle, Maps, optional, sequence
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
    given = members(c, 0)
    if c.known(1) is not None:
        return given.items[position(c, 1, len(given.items), 0)]
    if len({v.type for v in given.items}) != 1:
        c.fail("an unknown position in a sequence of different types")
    stacked = c(ops.concat, *(c.reshape(v, (1, *v.tensor.shape)) for v in given.items), axis=0)
    return c(ops.gather, stacked, c.reshape(c.cast(c.x(1), DType.I64), ()), axis=0)


@imports("SequenceInsert", since=11)
def sequence_insert(c: Call) -> Value:
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
    return c.const(len(members(c, 0).items), DType.I64)


@imports("ConcatFromSequence", since=11)
def concat_from_sequence(c: Call) -> Value:
    items = members(c, 0).items
    if not items:
        raise LeptonError("an empty sequence to join", where=c.where)
    new = c.flag("new_axis")
    rank = items[0].tensor.rank + new
    axis = c.axis(rank=rank)
    shapes = [v.tensor.shape for v in items]
    values = [c.reshape(v, (*s[:axis], 1, *s[axis:])) if new else v for v, s in zip(items, shapes, strict=True)]
    return c(ops.concat, *values, axis=axis) if len(values) > 1 else values[0]


@imports("SplitToSequence", since=11)
def split_to_sequence(c: Call) -> Value:
    axis, keep = c.axis(0), c.flag("keepdims", True)
    size = c.x().tensor.shape[axis]
    if c.opt(1) is not None and c.x(1).tensor.rank == 1:
        sizes: list[Dim] = list(c.dims(1, "the sizes"))
    else:
        if not isinstance(size, int):
            c.fail(f"a sequence of as many parts as {size} says", help="pin this dimension")
        each = 1 if c.opt(1) is None else c.int_in(1, "the size")
        if each < 1 or size > 4096 * each:
            c.fail(f"a split of {size} into parts of {each}")
        sizes = [min(each, size - at) for at in range(0, size, each)]
    pieces = parts(c, c.x(), axis, sizes)
    if c.opt(1) is None and not keep:
        pieces = [c.reshape(p, [d for a, d in enumerate(p.tensor.shape) if a != axis]) for p in pieces]
    return sequence(pieces, c.x().type)


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
