"""What crosses the border of a compiled model: its ports, and arrays that fit them."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton._rt import ffi
from lepton.devices import DeviceArray, device_array
from lepton.ir.diagnostics import UsageError
from lepton.ir.strings import to_bytes, to_text

Array = np.ndarray[Any, np.dtype[Any]]
STRING_ROW = np.dtype([("data", np.uint64), ("size", np.uint64)])  # lepton_string
TEXT_KINDS = "OUST"  # of numpy's dtypes: what tensors of strings are made from

# lepton_dtype -> our name, numpy's name. Those from ml_dtypes are imported when a model uses one.
DTYPES: dict[int, tuple[str, str]] = dict(enumerate((
    ("f32", "float32"), ("f64", "float64"), ("f16", "float16"), ("bf16", "ml:bfloat16"), ("i8", "int8"),
    ("i16", "int16"), ("i32", "int32"), ("i64", "int64"), ("u8", "uint8"), ("u16", "uint16"), ("u32", "uint32"),
    ("u64", "uint64"), ("bool", "bool"), ("string", "object"), ("c64", "complex64"), ("c128", "complex128"),
    ("f8e4m3fn", "ml:float8_e4m3fn"), ("f8e4m3fnuz", "ml:float8_e4m3fnuz"), ("f8e5m2", "ml:float8_e5m2"),
    ("f8e5m2fnuz", "ml:float8_e5m2fnuz"), ("f8e8m0", "ml:float8_e8m0fnu"), ("f4e2m1", "ml:float4_e2m1fn"),
    ("i4", "ml:int4"), ("u4", "ml:uint4"), ("i2", "ml:int2"), ("u2", "ml:uint2")), 1))
_NAMES = {numpy_name.removeprefix("ml:"): name for name, numpy_name in DTYPES.values()}


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output. A dimension is an int, or the name or expression of an open one."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {type_words(self.dtype, self.shape)}"


def read_ports(count: int, rows: Any) -> tuple[Port, ...]:
    """From a `lepton_port[]`."""
    ports = []
    for i in range(count):
        row = rows[i]
        shape: list[int | str] = list(row.shape[0:row.rank])
        for axis, size in enumerate(shape):
            if size == -1:
                named = row.dims != ffi.NULL and row.dims[axis] != ffi.NULL
                shape[axis] = ffi.string(row.dims[axis]).decode() if named else "?"
        ports.append(Port(ffi.string(row.name).decode(), numpy_dtype(row.dtype), tuple(shape)))
    return tuple(ports)


def numpy_dtype(code: int) -> np.dtype[Any]:
    """numpy's dtype of a `lepton_dtype`."""
    name = DTYPES[code][1]
    if not name.startswith("ml:"):
        return np.dtype(name)
    import ml_dtypes

    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name[3:]))
    return found


def type_words(dtype: np.dtype[Any], shape: Sequence[int | str]) -> str:
    """`f32[N,3]`; numpy's own word for a dtype no model can have."""
    if dtype.kind in TEXT_KINDS:
        return f"string[{','.join(map(str, shape))}]"
    word = _NAMES.get(dtype.name) if dtype.isnative else None
    return f"{word or dtype.str}[{','.join(map(str, shape))}]"


def as_input(value: object, port: Port) -> Array | DeviceArray:
    """The value as an aligned C-contiguous array of the port's dtype: itself where it is one, else a copy.

    Arrays on a GPU stay there; DLPack objects on the CPU are read in place; lists and scalars go through numpy. Strings
    come as the runtime takes them (`string_rows`). Raises LeptonError.
    """
    if type(value) is not np.ndarray and (there := device_array(value, f"input '{port.name}'")) is not None:
        if there.dtype != port.dtype:
            raise UsageError(f"input '{port.name}': expected {type_words(port.dtype, port.shape)}, "
                             f"got {type_words(there.dtype, there.shape)} on a GPU")
        return there
    array = value if type(value) is np.ndarray else _to_numpy(value, port)
    if port.dtype == object and array.dtype.kind in TEXT_KINDS:
        return string_rows(array, port)
    if array.dtype != port.dtype:
        got = f"{array.dtype.str}{list(array.shape)}" if array.dtype == object else type_words(array.dtype, array.shape)
        numbers = array.dtype.kind in "biuf" and port.dtype != object
        raise UsageError(f"input '{port.name}': expected {type_words(port.dtype, port.shape)}, got {got}",
                         help=f"convert it: .astype('{port.dtype}')" if numbers else "")
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else np.array(array, order="C")


def string_rows(array: Array, port: Port) -> Array:
    """A `lepton_string[]` of the array's shape that holds its elements: str (as UTF-8) or bytes (as they are).

    The bytes lie behind the rows in the same memory. Raises LeptonError."""
    encoded = []
    for i, text in enumerate(array.reshape(-1).tolist()):
        try:
            encoded.append(to_bytes(text))
        except ValueError as e:
            raise UsageError(f"input '{port.name}': element {i} is no string: {e}") from e
    sizes = np.fromiter(map(len, encoded), np.uint64, len(encoded))
    memory = np.frombuffer(bytearray(16 * len(encoded) + int(sizes.sum())), np.uint8)
    memory[16 * len(encoded):] = np.frombuffer(b"".join(encoded), np.uint8)
    rows = memory[:16 * len(encoded)].view(STRING_ROW)
    rows["size"] = sizes
    rows["data"] = memory.ctypes.data + 16 * len(encoded) + np.cumsum(sizes, dtype=np.uint64) - sizes
    return rows.reshape(array.shape)


def read_strings(rows: Any, shape: tuple[int, ...]) -> Array:
    """An array of str from a `lepton_string *`. What is not UTF-8 is escaped, as `to_text` says."""
    result: Array = np.empty(shape, object)
    known: dict[tuple[int, int], str] = {}  # the runtime holds each string once
    texts = []
    for data, size in np.frombuffer(ffi.buffer(rows, 16 * result.size), np.uint64).reshape(-1, 2).tolist():
        if (data, size) not in known:
            known[data, size] = to_text(bytes(ffi.buffer(ffi.cast("char *", data), size))) if size else ""
        texts.append(known[data, size])
    result.reshape(-1)[:] = texts
    return result


def _to_numpy(value: object, port: Port) -> Array:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise UsageError(f"input '{port.name}': some of its elements are masked", help="give them values: x.filled(0)")
    try:
        if hasattr(value, "__dlpack__") and not isinstance(value, (np.ndarray, np.generic)):
            return np.from_dlpack(value)
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError, AttributeError) as e:
        raise UsageError(f"input '{port.name}': cannot read a {type(value).__name__} as an array: {e}") from e


def as_output(value: object, port: Port, shape: tuple[int, ...]) -> Array | DeviceArray:
    """The memory of an array that results of this shape are to be written into. Raises LeptonError."""
    there = None if type(value) is np.ndarray else device_array(value, f"output '{port.name}'")
    check_output(value if there is None else there, port, shape)
    return value if there is None else there  # type: ignore[return-value]


def check_output(value: object, port: Port, shape: tuple[int, ...]) -> None:
    """Raises LeptonError unless results of this shape can be written into the array in place."""
    if -1 in shape:
        raise UsageError(f"output '{port.name}': its size depends on the data; it cannot be written into your array")
    if not isinstance(value, np.ndarray | DeviceArray):
        raise UsageError(f"output '{port.name}': expected a numpy array to write into, got {type(value).__name__}")
    if value.dtype != port.dtype or value.shape != shape:
        raise UsageError(f"output '{port.name}': expected {type_words(port.dtype, shape)}, "
                         f"got {type_words(value.dtype, value.shape)}")
    if isinstance(value, DeviceArray):
        if not value.writable:
            raise UsageError(f"output '{port.name}': the array on the GPU is read-only")
        return
    flags = value.flags
    if not (flags.c_contiguous and flags.aligned and flags.writeable):
        raise UsageError(f"output '{port.name}': the array must be C-contiguous, aligned and writeable")


def pointer(array: Array | DeviceArray) -> Any:
    """Where the array's data lies; the array must be kept alive for as long as this is used."""
    if isinstance(array, DeviceArray):
        return ffi.cast("void *", array.address)
    try:
        return ffi.from_buffer(array)
    except ValueError:  # dtypes of ml_dtypes have no buffer format
        return ffi.cast("void *", array.ctypes.data)
