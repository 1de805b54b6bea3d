"""Element types and tensor types: small frozen values, compared by content."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

from lepton.ir.dim_text import parse_dim
from lepton.ir.dims import Dim


class DType(Enum):
    """Every ONNX element type (opset 28). The value is its spelling in text IR."""

    F32 = "f32"
    F64 = "f64"
    F16 = "f16"
    BF16 = "bf16"
    I8 = "i8"
    I16 = "i16"
    I32 = "i32"
    I64 = "i64"
    U8 = "u8"
    U16 = "u16"
    U32 = "u32"
    U64 = "u64"
    BOOL = "bool"
    STRING = "str"
    C64 = "c64"
    C128 = "c128"
    F8E4M3FN = "f8e4m3fn"
    F8E4M3FNUZ = "f8e4m3fnuz"
    F8E5M2 = "f8e5m2"
    F8E5M2FNUZ = "f8e5m2fnuz"
    F8E8M0 = "f8e8m0"
    F4E2M1 = "f4e2m1"
    I4 = "i4"
    U4 = "u4"
    I2 = "i2"
    U2 = "u2"

    @property
    def numpy(self) -> np.dtype[Any]:
        return _numpy(self)

    @property
    def bits(self) -> int:
        return _BITS.get(self) or self.numpy.itemsize * 8

    @property
    def bytes(self) -> int:
        """Storage of one element in a buffer; sub-byte types are stored one per byte inside the compiler."""
        return max(1, self.bits // 8)

    @property
    def is_float(self) -> bool:
        return self.value[0] == "f" or self is DType.BF16

    @property
    def is_signed(self) -> bool:
        return self.value[0] == "i"

    @property
    def is_unsigned(self) -> bool:
        return self.value[0] == "u"

    @property
    def is_integer(self) -> bool:
        return self.is_signed or self.is_unsigned

    @property
    def is_complex(self) -> bool:
        return self.value[0] == "c"

    @classmethod
    def of(cls, dtype: Any) -> DType:
        """The element type of a numpy dtype or array. Raises KeyError for one that ONNX does not have."""
        dtype = np.dtype(getattr(dtype, "dtype", dtype))
        if dtype.kind in "OSUT":
            return DType.STRING
        return _by_numpy()[dtype]


_BITS = {DType.I4: 4, DType.U4: 4, DType.I2: 2, DType.U2: 2, DType.F4E2M1: 4}

_ML = {
    DType.BF16: "bfloat16", DType.F8E4M3FN: "float8_e4m3fn", DType.F8E4M3FNUZ: "float8_e4m3fnuz",
    DType.F8E5M2: "float8_e5m2", DType.F8E5M2FNUZ: "float8_e5m2fnuz", DType.F8E8M0: "float8_e8m0fnu",
    DType.F4E2M1: "float4_e2m1fn", DType.I4: "int4", DType.U4: "uint4", DType.I2: "int2", DType.U2: "uint2",
}
_KINDS = {"f": "float", "i": "int", "u": "uint", "c": "complex"}


@cache
def _numpy(dtype: DType) -> np.dtype[Any]:
    if dtype in _ML:
        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _ML[dtype]))
        return found
    if dtype is DType.BOOL:
        return np.dtype(np.bool_)
    if dtype is DType.STRING:
        return np.dtype(object)
    plain: np.dtype[Any] = np.dtype(_KINDS[dtype.value[0]] + dtype.value[1:])
    return plain


@cache
def _by_numpy() -> dict[np.dtype[Any], DType]:
    return {d.numpy: d for d in DType if d is not DType.STRING}


@dataclass(frozen=True, slots=True)
class TensorType:
    """`f32[N,3,224,224]`: an element type and a shape of ints and symbolic dims. The rank is always known."""

    dtype: DType
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        return all(isinstance(d, int) for d in self.shape)

    @property
    def size(self) -> Dim:
        """Number of elements."""
        total: Dim = 1
        for d in self.shape:
            total = total * d
        return total

    def with_shape(self, shape: Sequence[Dim]) -> TensorType:
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        return f"{self.dtype.value}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class SequenceType:
    """`seq<f32[N,4]>`: a list of tensors of one type."""

    element: Type

    def __str__(self) -> str:
        return f"seq<{self.element}>"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """`opt<f32[N]>`: a value or nothing."""

    element: Type

    def __str__(self) -> str:
        return f"opt<{self.element}>"


@dataclass(frozen=True, slots=True)
class MapType:
    """`map<str,f32[2]>`: values by keys. Only at a model's border, where it is a tensor of an element for each key."""

    key: DType
    values: TensorType

    def __str__(self) -> str:
        return f"map<{self.key.value},{self.values}>"


Type = TensorType | SequenceType | OptionalType | MapType


def parse_type(text: str) -> Type:
    """The inverse of `str`. Raises ValueError."""
    text = text.strip()
    for prefix, kind in (("seq<", SequenceType), ("opt<", OptionalType)):
        if text.startswith(prefix) and text.endswith(">"):
            return kind(parse_type(text[len(prefix):-1]))
    if text.startswith("map<") and text.endswith(">"):
        key, _, values = text[4:-1].partition(",")
        inner = parse_type(values)
        if not isinstance(inner, TensorType):
            raise ValueError(f"not a type: {text!r}")
        return MapType(DType(key), inner)
    head, bracket, tail = text.partition("[")
    if not bracket or not tail.endswith("]"):
        raise ValueError(f"not a type: {text!r}")
    body = tail[:-1].strip()
    return TensorType(DType(head), tuple(parse_dim(d) for d in split_commas(body)) if body else ())


def split_commas(text: str) -> list[str]:
    """Split at the commas that stand outside all brackets."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        if c in "([<{":
            depth += 1
        elif c in ")]>}":
            depth -= 1
        elif c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]
