"""How attribute values and constants are spelled in text IR, exactly, and read back.

    1   true   0.1   -inf   "edge"   f16   (0,2,1)   (1,)   ()   4*H   none      dim<f16>  (a size that is *named* f16)
    dense<[[1.0,2.0],[3.0,4.0]] : f32[2,2]>      every element, shortest text that gives the same bits
    dense<0.0 : f32[64]>                         all elements are the same
    dense<hash=91c0e1a2b3d4f506 : f32[64,3,7,7]> elided: the beginning of the constant's digest
    0x7fc00001                                   a NaN with other bits than numpy's, as its bits
"""
from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from lepton.ir.diagnostics import LeptonError, Location
from lepton.ir.dims import Expr, symbols
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType

INLINE_ELEMENTS = 32
DIGEST_LENGTH = 16
DTYPES = {dtype.value: dtype for dtype in DType}
RESERVED = frozenset({"true", "false", "none", "inf", "nan", "_", "dense", "dim", *DTYPES})
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")

_ELEMENT = re.compile(r'"(?:[^"\\]|\\.)*"|\([^()]*\)|[^\s,\[\]]+')
_LOCATION = re.compile(
    r"(?:(?P<file>[^';]*?):(?:(?P<line>\d+):)? )?node '(?P<name>(?:[^'\\]|\\.)*)'(?: \((?P<op>[^()]*)\))?(?:; |$)"
)
_NOT_FINITE = ("nan", "inf", "-inf")
_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r"}
_UNESCAPES = {v: k for k, v in _ESCAPES.items()}


class Elided(Tensor):
    """A constant known by type and digest only: the text left its elements out, and nobody has given them."""

    __slots__ = ()

    def __init__(self, type: TensorType, digest: str, file: str) -> None:
        def load() -> Array:
            raise LeptonError(f"the elements of constant {digest} : {type} were left out of the text", where=file,
                              help="keep the .constants.zip that was written with it beside the file")

        super().__init__(type, load)
        self._digest = digest


def spell(value: object, *, full_constants: bool = False) -> str:
    """The text of an attribute's value. Raises TypeError for what is no attribute value."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return float.__repr__(value)
        case str():
            return json.dumps(value, ensure_ascii=False)
        case DType():
            return value.value
        case Expr():
            text = str(value)
            return f"dim<{text}>" if symbols(value) & RESERVED else text
        case tuple():
            parts = [spell(v, full_constants=full_constants) for v in value]
            return f"({parts[0]},)" if len(parts) == 1 else f"({','.join(parts)})"
        case Tensor():
            return spell_tensor(value, full=full_constants)
    raise TypeError(f"{type(value).__name__} is not an attribute value")


def is_elided(tensor: Tensor) -> bool:
    """Whether `show` writes the constant by its hash: it is large and not one value repeated."""
    if isinstance(tensor, Elided):
        return True
    size = tensor.type.size
    return not isinstance(size, int) or (size > INLINE_ELEMENTS and not _is_splat(tensor.array))


def spell_tensor(tensor: Tensor, *, full: bool = False) -> str:
    """`dense<…>`; a large constant by its hash, unless it is one value repeated or `full` is set."""
    if not full and is_elided(tensor):
        return f"dense<hash={tensor.digest[:DIGEST_LENGTH]} : {tensor.type}>"
    array = tensor.array
    if array.size > 1 and _is_splat(array):
        return f"dense<{_element(array.reshape(-1)[0], tensor.type.dtype)} : {tensor.type}>"
    elements = [_element(v, tensor.type.dtype) for v in array.reshape(-1)]
    return f"dense<{_nested(elements, array.shape)} : {tensor.type}>"


def read_tensor(body: str, type: TensorType) -> Tensor:
    """The constant whose elements are written in `body`. Raises ValueError."""
    shape = tuple(d for d in type.shape if isinstance(d, int))
    if len(shape) != type.rank:
        raise ValueError(f"a constant of type {type}")
    elements = _read_elements(_ELEMENT.findall(body), type.dtype)
    size = int(np.prod(shape, dtype=np.int64))
    if elements.size == 1 and "[" not in body:
        elements = np.repeat(elements, size)
    if elements.size != size:
        raise ValueError(f"{elements.size} elements for {type}")
    array = np.array(elements.reshape(shape), order="C")
    array.flags.writeable = False
    return Tensor(type, array=array)


def spell_location(loc: Location) -> str:
    """`resnet.onnx:12: node 'conv1' (Conv)`, with quotes in the name escaped."""
    name = "".join(_ESCAPES.get(c, c) for c in loc.name)
    where = f"{loc.file}:{loc.line}: " if loc.line else f"{loc.file}: " if loc.file else ""
    return f"{where}node '{name}'" + (f" ({loc.op})" if loc.op else "")


def read_locations(comment: str) -> tuple[Location, ...]:
    """The locations a comment consists of; () where it is an ordinary comment."""
    found, at, comment = [], 0, comment.strip()
    while at < len(comment):
        if (m := _LOCATION.match(comment, at)) is None:
            return ()
        name = re.sub(r"\\.", lambda e: _UNESCAPES.get(e[0], e[0]), m["name"])
        found.append(Location(name, m["op"] or "", m["file"] or "", int(m["line"] or 0)))
        at = m.end()
    return tuple(found)


# --- elements ---------------------------------------------------------------------------------------


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}")


def _is_splat(array: Array) -> bool:
    flat = array.reshape(-1)
    if array.dtype == object:
        return all(type(v) is str and v == flat[0] for v in flat)
    raw = np.ascontiguousarray(flat).view(np.uint8).reshape(flat.size, -1)
    # Trained weights differ at once: no need to read them all.
    return bool((raw[:64] == raw[0]).all() and (raw == raw[0]).all())


def _nested(elements: list[str], shape: tuple[int, ...]) -> str:
    for size in reversed(shape[1:]):
        rows = range(0, len(elements), size) if size else ()
        elements = [f"[{','.join(elements[i:i + size])}]" for i in rows]
    return f"[{','.join(elements)}]" if shape else elements[0]


def _element(value: Any, dtype: DType) -> str:
    if dtype is DType.BOOL:
        return "true" if value else "false"
    if dtype is DType.STRING:
        return json.dumps(str(value), ensure_ascii=False)
    if dtype.is_complex:
        half = DType.F32 if dtype is DType.C64 else DType.F64
        return f"({_element(half.numpy.type(value.real), half)},{_element(half.numpy.type(value.imag), half)})"
    if not dtype.is_float:
        return str(int(value))
    if value != value:
        bits = _bits(np.asarray(value, dtype.numpy))[0]
        return "nan" if bits == _bits(_nan(dtype))[0] else hex(int(bits))
    return str(value) if dtype in (DType.F16, DType.F32, DType.F64) else repr(float(value))


def _nan(dtype: DType) -> Array:
    return np.asarray(np.nan).astype(dtype.numpy)


def _read_elements(parts: list[str], dtype: DType) -> Array:
    match dtype:
        case DType.BOOL:
            if unknown := set(parts) - {"true", "false"}:
                raise ValueError(f"not a bool: {unknown.pop()}")
            return np.array([p == "true" for p in parts], np.bool_)
        case DType.STRING:
            if bare := [p for p in parts if not p.startswith('"')]:
                raise ValueError(f"not a quoted text: {bare[0]}")
            array = np.empty(len(parts), object)
            array[:] = [json.loads(p) for p in parts]
            return array
        case DType.C64 | DType.C128:
            half = DType.F32 if dtype is DType.C64 else DType.F64
            halves = [h for p in parts for h in p.strip("()").split(",")]
            return _read_elements(halves, half).view(dtype.numpy)
    if dtype.is_float:
        return _read_floats(parts, dtype)
    low, high = (-(1 << dtype.bits - 1), 1 << dtype.bits - 1) if dtype.is_signed else (0, 1 << dtype.bits)
    numbers = [int(p, 0) for p in parts]
    if wrong := next((n for n in numbers if not low <= n < high), None):
        raise ValueError(f"{wrong} does not fit {dtype.value}")
    return np.array(numbers, np.uint64 if dtype is DType.U64 else np.int64).astype(dtype.numpy)


def _read_floats(parts: list[str], dtype: DType) -> Array:
    native = dtype in (DType.F16, DType.F32, DType.F64)
    plain = ["nan" if p.startswith("0x") else p for p in parts]
    with np.errstate(over="ignore"):
        array = np.array(plain, dtype.numpy) if native else np.array([float(p) for p in plain]).astype(dtype.numpy)
    finite = np.isfinite(array.astype(np.float64))
    if wrong := next((p for p, ok in zip(plain, finite, strict=True) if not ok and p not in _NOT_FINITE), None):
        raise ValueError(f"{wrong} does not fit {dtype.value}")
    raw = array.view(f"u{array.dtype.itemsize}")
    for i, part in enumerate(parts):
        if part.startswith("0x"):
            raw[i] = int(part, 16)
    return array
