"""Elementwise kernels that write over an operand: less memory, and what they write is in the cache already."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lepton.codegen.program import Buffer, Program, Storage
from lepton.codegen.views import Place
from lepton.ir.core import Value


@dataclass(frozen=True)
class Overwriter:
    """A step that reads each element of its inputs before it writes that of its result."""

    step: int
    result: Value
    inputs: tuple[Value, ...]


def reuse_in_place(program: Program, found: Sequence[Overwriter], place: Callable[[Value], Place]) -> None:
    """Give each result the memory of an input that dies in its step, where one does. `place`: where a value lies."""
    moved: dict[Buffer, Buffer] = {}
    for each in found:
        new = place(each.result).buffer
        if new.storage is not Storage.WORKSPACE or new.first != each.step or not _fills(each.result, place):
            continue
        old = next((buffer for value in each.inputs if value.type == each.result.type and _fills(value, place)
                    and (buffer := _dying(value, each, place, moved)) is not None and buffer is not new), None)
        if old is not None:
            moved[new] = old
            old.last = new.last
    for step in program.steps:
        for operand in step.operands:
            operand.buffer = moved.get(operand.buffer, operand.buffer)


def _dying(value: Value, reader: Overwriter, place: Callable[[Value], Place],
           moved: dict[Buffer, Buffer]) -> Buffer | None:
    """The memory of an input that nobody reads after this step, nor the step itself in a second order: it would be
    overwritten too early."""
    def memory(v: Value) -> Buffer:
        buffer = place(v).buffer
        return moved.get(buffer, buffer)

    old = memory(value)
    orders = {place(v) for v in reader.inputs if memory(v) is old}
    dies = old.storage is Storage.WORKSPACE and old.last == reader.step
    return old if dies and len(orders) == 1 else None


def _fills(value: Value, place: Callable[[Value], Place]) -> bool:
    """Whether the value is all there is in its buffer, in row-major order."""
    where = place(value)
    whole = where.offset == 0 and where.buffer.size == value.tensor.size * value.tensor.dtype.bytes
    return whole and where.is_dense(value.tensor)
