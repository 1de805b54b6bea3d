"""TensorProto -> Tensor: sizes checked before anything is allocated, elements read when touched."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T

from lepton.frontends.onnx import external
from lepton.frontends.onnx.external import Folder
from lepton.frontends.onnx.limits import LIMITS, MAX_INT64
from lepton.frontends.onnx.wire import Span, span_number
from lepton.ir.diagnostics import LeptonError, ResourceError, UnsupportedError
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType

DTYPES: dict[int, DType] = {
    T.FLOAT: DType.F32, T.DOUBLE: DType.F64, T.FLOAT16: DType.F16, T.BFLOAT16: DType.BF16,
    T.INT8: DType.I8, T.INT16: DType.I16, T.INT32: DType.I32, T.INT64: DType.I64,
    T.UINT8: DType.U8, T.UINT16: DType.U16, T.UINT32: DType.U32, T.UINT64: DType.U64,
    T.BOOL: DType.BOOL, T.STRING: DType.STRING, T.COMPLEX64: DType.C64, T.COMPLEX128: DType.C128,
    T.FLOAT8E4M3FN: DType.F8E4M3FN, T.FLOAT8E4M3FNUZ: DType.F8E4M3FNUZ, T.FLOAT8E5M2: DType.F8E5M2,
    T.FLOAT8E5M2FNUZ: DType.F8E5M2FNUZ, T.FLOAT8E8M0: DType.F8E8M0, T.FLOAT4E2M1: DType.F4E2M1,
    T.INT4: DType.I4, T.UINT4: DType.U4, T.INT2: DType.I2, T.UINT2: DType.U2,
}

# The field a dtype's elements lie in when they are not raw, by onnx.proto. Dtypes not named: int32_data.
_FIELDS = {
    DType.F32: "float_data", DType.C64: "float_data", DType.F64: "double_data", DType.C128: "double_data",
    DType.I64: "int64_data", DType.U32: "uint64_data", DType.U64: "uint64_data", DType.STRING: "string_data",
}
_SMALL = 1 << 16  # bytes; such constants are copied, which aligns them


def dtype_of(code: int, where: str) -> DType:
    """The element type with ONNX's number `code`."""
    if code not in DTYPES:
        raise UnsupportedError(f"{where}: element type {code} is not one of ONNX's")
    return DTYPES[code]


@dataclass(slots=True)
class Store:
    """Where the bytes of a model's tensors are: the serialised model and the folder of external data."""

    data: memoryview = field(default_factory=lambda: memoryview(b""))
    spans: list[Span] = field(default_factory=list)
    folder: Folder = field(default_factory=lambda: Folder(None))
    inline_raw: bool = False  # tensors of protos that never were a skeleton (function bodies of onnx's schemas)

    def tensor(self, proto: onnx.TensorProto, where: str) -> Tensor:
        """A constant with the elements of `proto`. Raises LeptonError naming `where`."""
        where = f"{where} '{proto.name}'" if proto.name else where
        dtype = dtype_of(proto.data_type, where)
        shape, count = checked_shape(proto.dims, dtype, where)
        kind = TensorType(dtype, shape)
        if proto.HasField("segment"):
            raise UnsupportedError(f"{where}: a tensor in segments")
        if proto.data_location == T.EXTERNAL:
            return self._external(proto, kind, count, where)
        if proto.HasField("raw_data"):
            return self._raw(proto, kind, count, where)
        return Tensor(kind, array=_frozen(_typed(proto, dtype, count, where).reshape(shape)))

    def _external(self, proto: onnx.TensorProto, kind: TensorType, count: int, where: str) -> Tensor:
        if kind.dtype is DType.STRING:
            raise LeptonError(f"{where}: strings cannot be external data")
        entries = {entry.key: entry.value for entry in proto.external_data}
        region = external.region(entries, packed_bytes(kind.dtype, count), where)
        return _lazy(kind, count, self.folder.view(region, where))

    def _raw(self, proto: onnx.TensorProto, kind: TensorType, count: int, where: str) -> Tensor:
        if kind.dtype is DType.STRING:
            raise LeptonError(f"{where}: strings in raw_data")
        if self.inline_raw:
            view = memoryview(proto.raw_data)
        else:
            span = self.spans[span_number(proto.raw_data)]
            view = self.data[span.start:span.stop]
        needed = packed_bytes(kind.dtype, count)
        if len(view) != needed:
            raise LeptonError(f"{where}: {len(view)} bytes of raw data, but {kind} needs {needed}")
        return _lazy(kind, count, view)

    def sparse(self, proto: onnx.SparseTensorProto, where: str) -> Tensor:
        """A sparse tensor made dense. Raises LeptonError; ResourceError above the limit."""
        where = f"{where} '{proto.values.name}'"
        values = self.tensor(proto.values, where)
        shape, count = checked_shape(proto.dims, values.type.dtype, where)
        if count * values.type.dtype.bytes > LIMITS.sparse_bytes:
            raise ResourceError(f"{where}: {count} elements when dense, more than {LIMITS.sparse_bytes} bytes")
        indices = self.tensor(proto.indices, where).array
        if indices.dtype != np.int64 or indices.ndim not in (1, 2) or values.array.ndim != 1:
            raise LeptonError(f"{where}: indices must be int64 of rank 1 or 2, values of rank 1")
        return Tensor.of(_dense(values.array, indices, shape, where))


def checked_shape(dims: Any, dtype: DType, where: str) -> tuple[tuple[int, ...], int]:
    """The shape and the number of elements, once both are known to be sane."""
    if len(dims) > LIMITS.rank:
        raise ResourceError(f"{where}: rank {len(dims)}, more than {LIMITS.rank}")
    shape = tuple(int(d) for d in dims)
    if any(d < 0 for d in shape):
        raise LeptonError(f"{where}: negative dimension in {list(shape)}")
    count = prod(shape)
    if max((prod(d for d in shape if d), *shape), default=0) > MAX_INT64:
        raise ResourceError(f"{where}: {list(shape)} has more elements than an int64 counts")
    if count * dtype.bytes > LIMITS.tensor_bytes:
        raise ResourceError(f"{where}: {list(shape)} of {dtype.value} is more than {LIMITS.tensor_bytes} bytes")
    return shape, count


def packed_bytes(dtype: DType, count: int) -> int:
    """Bytes of `count` elements in a file, where sub-byte types are packed."""
    return (count * dtype.bits + 7) // 8


def _lazy(kind: TensorType, count: int, view: memoryview) -> Tensor:
    load: Callable[[], Array] = partial(_load, kind, count, view)
    if kind.dtype.bits < 8 or kind.dtype is DType.BOOL or len(view) <= _SMALL:
        return Tensor(kind, array=_frozen(load().copy()))
    return Tensor(kind, load)


def _load(kind: TensorType, count: int, view: memoryview) -> Array:
    shape = tuple(int(d) for d in kind.shape if isinstance(d, int))
    if kind.dtype.bits < 8:
        return unpack(np.frombuffer(view, np.uint8), kind.dtype, count).reshape(shape)
    if kind.dtype is DType.BOOL:
        return np.asarray(np.frombuffer(view, np.uint8) != 0).reshape(shape)
    return np.asarray(np.frombuffer(view, kind.dtype.numpy, count).reshape(shape))


def unpack(data: Array, dtype: DType, count: int) -> Array:
    """Elements of a 4- or 2-bit type from bytes, low bits first."""
    per = 8 // dtype.bits
    shifts = np.arange(per, dtype=np.uint8) * np.uint8(dtype.bits)
    bits = ((data[:, None] >> shifts) & np.uint8(2**dtype.bits - 1)).reshape(-1)[:count]
    if dtype is DType.F4E2M1:
        return np.asarray(bits.astype(np.uint8).view(dtype.numpy))
    signed = bits.astype(np.int8)
    if dtype.is_signed:
        signed = np.where(signed >= 2 ** (dtype.bits - 1), signed - 2**dtype.bits, signed)
    return np.asarray(signed.astype(dtype.numpy))


def _typed(proto: onnx.TensorProto, dtype: DType, count: int, where: str) -> Array:
    """Elements out of the typed fields of a TensorProto."""
    name = _FIELDS.get(dtype, "int32_data")
    data = getattr(proto, name)
    per = 8 // dtype.bits if dtype.bits < 8 else 1
    needed = count * 2 if dtype.is_complex else -(-count // per)
    if len(data) != needed:
        raise LeptonError(f"{where}: {len(data)} elements in {name}, but {needed} are needed")
    if dtype is DType.STRING:
        out = np.empty(count, object)
        out[:] = [_text(s, where) for s in data]
        return out
    if name != "int32_data":
        wide = np.array(data, np.float32 if name == "float_data" else None)
        wide = wide.astype({"float_data": np.float32, "double_data": np.float64,
                            "int64_data": np.int64, "uint64_data": np.uint64}[name])
        return np.asarray(wide.view(dtype.numpy) if dtype.is_complex else wide.astype(dtype.numpy))
    return _from_int32(np.array(data, np.int32), dtype, count)


def _from_int32(data: Array, dtype: DType, count: int) -> Array:
    if dtype.bits < 8:
        return unpack(data.astype(np.uint8), dtype, count)
    if dtype is DType.BOOL:
        return np.asarray(data != 0)
    if dtype.is_float:  # bit patterns
        return np.asarray(data.astype(np.uint16 if dtype.bits == 16 else np.uint8).view(dtype.numpy))
    return np.asarray(data.astype(dtype.numpy))


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise LeptonError(f"{where}: a string that is not UTF-8: {data[:40]!r}") from error


def _dense(values: Array, indices: Array, shape: tuple[int, ...], where: str) -> Array:
    count, number = prod(shape), len(values)
    if indices.shape not in ((number,), (number, len(shape))):
        raise LeptonError(f"{where}: {list(indices.shape)} indices for {number} values of rank {len(shape)}")
    limit: Any = count if indices.ndim == 1 else np.array(shape)
    if number and (np.any(indices < 0) or np.any(indices >= limit)):
        raise LeptonError(f"{where}: a sparse index outside {list(shape)}")
    flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
    out = np.full(count, "" if values.dtype == object else 0, values.dtype)
    out[flat] = values
    return out.reshape(shape)


def _frozen(array: Array) -> Array:
    array.flags.writeable = False
    return array
