"""The protobuf wire format, as far as needed to leave the weights where they are.

Python's protobuf copies every bytes field twice: into the message and again at each access. A model is mostly one kind
of bytes field, `TensorProto.raw_data`. `skeleton` rewrites a serialised model with each `raw_data` replaced by
the number of a `Span`, so that parsing costs what the graph costs, and weights stay in the mapped file.

Format: https://protobuf.dev/programming-guides/encoding/ and onnx/onnx.proto for the field numbers.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lepton.frontends.onnx.limits import LIMITS
from lepton.ir.diagnostics import LeptonError, ResourceError

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_RAW_DATA = 9
# Numbers one after the other, with tags of one byte: lists of a million in an attribute pass in one step.
_NUMBERS = re.compile(rb"(?:[%b][\x80-\xff]{0,9}[\x00-\x7f]|[%b].{4})++" % tuple(
    re.escape(bytes(field << 3 | wire for field in range(1, 16))) for wire in (_VARINT, _I32)), re.DOTALL)

# message -> field -> message, on every path from a model to a tensor. No other field can hold a tensor.
_PATHS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_DROPPED = {("model", 20)}  # training_info: not part of inference, and a place to hide things in


class CorruptError(LeptonError):
    """These bytes are no message; says what is wrong at which of them."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `[start, stop)` of the model's file."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


def skeleton(data: memoryview) -> tuple[bytes, list[Span]]:
    """The model with numbers for raw data, and the spans they stand for. Raises CorruptError, ResourceError."""
    spans: list[Span] = []
    return b"".join(_rewrite(data, 0, len(data), "model", spans, 0)), spans


def span_number(placeholder: bytes) -> int:
    """Which span a `raw_data` field of the skeleton stands for."""
    return int.from_bytes(placeholder, "little")


def _rewrite(data: memoryview, start: int, stop: int, kind: str, spans: list[Span], depth: int) -> list[bytes]:
    # One graph in a graph costs three levels: graph, node, attribute.
    if depth > 3 * LIMITS.depth:
        raise ResourceError(f"the model nests graphs deeper than {LIMITS.depth} levels")
    paths, out, copied = _PATHS[kind], [], start
    for field, at, begin, end in _fields(data, start, stop):
        inner = paths.get(field)
        if inner is None and not (kind == "tensor" and field == _RAW_DATA) and (kind, field) not in _DROPPED:
            continue  # copied in one piece with its neighbours
        out.append(bytes(data[copied:at]))
        copied = end
        if inner is not None:
            body = b"".join(_rewrite(data, begin, end, inner, spans, depth + 1))
        elif kind == "tensor":
            spans.append(Span(begin, end))
            body = (len(spans) - 1).to_bytes(8, "little")
        else:
            continue
        out += (_varint(field << 3 | _LEN), _varint(len(body)), body)
    out.append(bytes(data[copied:stop]))
    return out


def _fields(data: memoryview, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, where the field begins, where its content begins, where it ends); only length-delimited ones."""
    while at < stop:
        if (run := _NUMBERS.match(data, at, stop)) is not None:
            at = run.end()
            continue
        begin = at
        tag, at = _read_varint(data, at, stop)
        field, wire = tag >> 3, tag & 7
        if field == 0:
            raise _corrupt(begin, "field number 0")
        match wire:
            case 0:
                _, at = _read_varint(data, at, stop)
            case 1:
                at += 8
            case 5:
                at += 4
            case 2:
                size, content = _read_varint(data, at, stop)
                at = content + size
                if at <= stop:
                    yield field, begin, content, at
            case _:
                raise _corrupt(begin, f"wire type {wire}")
        if at > stop:
            raise _corrupt(begin, f"a field that ends {at - stop} bytes after its message")


def _read_varint(data: memoryview, at: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    begin = at
    while at < stop and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _corrupt(begin, "a number without end")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _corrupt(at: int, what: str) -> CorruptError:
    return CorruptError(f"{what} at byte {at}")
