"""Reading a model: bytes to a checked ModelProto whose weights still lie in the file."""
from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from lepton.frontends.onnx.check import check_model
from lepton.frontends.onnx.external import Folder
from lepton.frontends.onnx.limits import LIMITS
from lepton.frontends.onnx.tensors import Store
from lepton.frontends.onnx.wire import CorruptError, skeleton
from lepton.ir.diagnostics import LeptonError, ResourceError, UsageError
from lepton.ir.mapped import mapped


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model that was read: its graph as protobuf, where its weights are, what to call it in messages."""

    proto: onnx.ModelProto
    store: Store
    name: str = ""


def read(source: str | Path | bytes | onnx.ModelProto) -> ModelFile:
    """Read and check a model. Raises LeptonError for whatever is wrong with it.

    The file stays mapped while tensors of the model live; it must not change meanwhile."""
    match source:
        case bytes():
            return read_bytes(memoryview(source), "", None)
        case onnx.ModelProto():
            try:
                data = source.SerializeToString()
            except Exception as error:  # protobuf raises several kinds, for missing fields and for size
                raise LeptonError(f"the ModelProto cannot be serialised: {error}") from error
            return read_bytes(memoryview(data), "", None)
        case str() | Path():
            path = Path(source)
            return read_bytes(map_file(path), path.name, path.parent)
    raise UsageError(f"expected a path, bytes or an onnx.ModelProto, got {type(source).__name__}")


def map_file(path: Path) -> memoryview:
    """The bytes of a file, mapped. Raises UsageError where it is not a readable regular file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"cannot read '{path}': {reason}") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"cannot read '{path}': not a regular file")
        if status.st_size > LIMITS.file_bytes:
            raise ResourceError(f"'{path}' has {status.st_size} bytes, more than {LIMITS.file_bytes}",
                                help="a model this large keeps its weights in external data")
        return mapped(fd, status.st_size)
    finally:
        os.close(fd)


def read_bytes(data: memoryview, name: str, folder: Path | None) -> ModelFile:
    """A serialised model; `folder` holds its external data."""
    if not len(data):
        raise LeptonError(f"{name or 'the model'} is empty")
    proto = onnx.ModelProto()
    try:
        small, spans = skeleton(data)
        proto.ParseFromString(small)
    except (CorruptError, DecodeError) as error:
        raise LeptonError(f"{name or 'the model'} is not an ONNX model, or a damaged one: {error}",
                          help="check that the file was copied whole and is not a Git LFS pointer or a web page"
                          ) from error
    if (text := not_utf8(proto)) is not None:
        raise LeptonError(f"{name or 'the model'} holds a name that is not UTF-8: {text!r}")
    check_model(proto, name)
    return ModelFile(proto, Store(data, spans, Folder(folder)), name)


def not_utf8(message: Message) -> bytes | None:
    """The first text in a message that is not UTF-8. (Python's protobuf gives bytes for it, where str is promised.)"""
    todo = [message]
    while todo:
        for field, value in todo.pop().ListFields():
            many = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else (value,)
            if field.type == FieldDescriptor.TYPE_STRING:
                for text in many:
                    if not isinstance(text, str):
                        return bytes(text)
            elif field.type == FieldDescriptor.TYPE_MESSAGE:
                todo += many
    return None
