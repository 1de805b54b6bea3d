"""Text: taking strings apart, putting them together, comparing, numbers to and from them.

Elements are Python strings whose bytes are their UTF-8 (lepton.ir.strings). Order is that of the bytes, which for UTF-8
is that of the code points."""
from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from lepton.ir import dims
from lepton.ir.op import op
from lepton.ir.ops.rules import fail, one_dtype, same_shape, tensor
from lepton.ir.regex import Dfa
from lepton.ir.strings import digits, mapped, to_bytes
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType, Type

CASES = ("lower", "upper")
PRINTED = (DType.F64, DType.F32, DType.F16, DType.BF16, DType.I64, DType.U64, DType.BOOL)
READ = (DType.F64, DType.F32, DType.I64, DType.U64, DType.BOOL)


def text(dtype: DType) -> bool:
    """strings"""
    return dtype is DType.STRING


def printed(dtype: DType) -> bool:
    """f64, f32, f16, bf16, i64, u64 or bool"""
    return dtype in PRINTED


def _each(function: Callable[[str], Any], x: Array, dtype: Any = object) -> Array:
    out: Array = np.empty(x.shape, dtype)
    out.reshape(-1)[:] = [function(t) for t in x.reshape(-1)]
    return out


def _concat_type(x: Type, y: Type) -> TensorType:
    t, u = tensor(x, text), tensor(y, text)
    one_dtype(t, u)
    return t.with_shape(same_shape(t.shape, u.shape, "shapes", x, y))


@op(_concat_type)
def string_concat(x: Array, y: Array) -> Array:
    """Each string of y behind that of x."""
    return np.asarray(x + y, object)


def _split_type(x: Type, *, delimiter: str, most: int | None, symbol: str) -> tuple[TensorType, TensorType]:
    t = tensor(x, text)
    return t.with_shape((*t.shape, dims.sym(symbol))), t.with_dtype(DType.I64)


@op(_split_type)
def string_split(x: Array, *, delimiter: str, most: int | None = None, symbol: str) -> tuple[Array, Array]:
    """(the pieces of each string str[..., n], padded with ""; how many there are, i64[...]). n is the largest number of
    pieces, known only when the model runs and named `symbol`.

    `delimiter`: what stands between pieces; "": any run of white space (as Python's str.split takes it), and none of it
    at the ends. `most`: the number of splits, from the left; None: no limit."""
    limit = -1 if most is None else most
    pieces = [t.split(delimiter or None, limit) for t in x.reshape(-1)]
    counts = np.array([len(p) for p in pieces], np.int64)
    width = int(counts.max(initial=0))
    out: Array = np.full((len(pieces), width), "", object)
    for row, found in zip(out, pieces, strict=True):
        row[:len(found)] = found
    return out.reshape(*x.shape, width), counts.reshape(x.shape)


def _match_type(x: Type, *, pattern: str) -> TensorType:
    Dfa.of(pattern)
    return tensor(x, text).with_dtype(DType.BOOL)


@op(_match_type)
def regex_full_match(x: Array, *, pattern: str) -> Array:
    """Whether all of each string matches the regular expression, in RE2's syntax (lepton.ir.regex_syntax)."""
    dfa = Dfa.of(pattern)
    return _each(lambda t: dfa.matches(to_bytes(t)), x, np.bool_)


def _case_type(x: Type, *, to: str, dotless: bool) -> TensorType:
    if to not in CASES:
        raise fail(f"case {to!r} is none of {', '.join(CASES)}", x)
    return tensor(x, text)


@op(_case_type)
def string_case(x: Array, *, to: str, dotless: bool = False) -> Array:
    """Each character in lower or upper case, by itself: what Unicode's full mapping makes of it without what stands
    around it (so the final sigma is no special case, and ß in upper case is SS). `dotless`: i and I as in Turkish."""
    return _each(lambda t: mapped(t, to, dotless), x)


def _rank_type(x: Type) -> TensorType:
    return tensor(x, text).with_dtype(DType.I64)


@op(_rank_type)
def string_rank(x: Array) -> Array:
    """Numbers that are ordered as the strings are: how many different strings of x stand before each."""
    flat = [to_bytes(t) for t in x.reshape(-1)]
    ranks = {t: i for i, t in enumerate(sorted(set(flat)))}
    return np.array([ranks[t] for t in flat], np.int64).reshape(x.shape)


def _number_to_string_type(x: Type) -> TensorType:
    return tensor(x, printed).with_dtype(DType.STRING)


@op(_number_to_string_type)
def number_to_string(x: Array) -> Array:
    """Numbers in decimal, floats by the fewest digits that read back as the same number of their type, laid out as
    Python does: 1.0, 1e-05, 0.1, inf, nan. Bools are True and False."""
    if x.dtype == np.bool_ or x.dtype.kind in "iu":
        return _each(str, x)
    return _each(lambda value: digits(value, x.dtype), x)


def _string_to_number_type(x: Type, *, to: DType) -> TensorType:
    if to not in READ:
        raise fail(f"strings are not read as {to.value}", x)
    return tensor(x, text).with_dtype(to)


_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?|nan)", re.IGNORECASE | re.ASCII)
_BLANKS = " \t\n\r\f\v"


@op(_string_to_number_type)
def string_to_number(x: Array, *, to: DType) -> Array:
    """Decimal numbers, with or without an exponent, INF and NaN in any case, blanks around them. To integers they are
    truncated; to bool: other than 0, or "true" and "false". Anything else, and what i64 or u64 cannot hold, is an
    error."""
    return _each(lambda t: _number(t, to), x, to.numpy)


def _number(text: str, to: DType) -> Any:
    word = text.strip(_BLANKS)
    if to is DType.BOOL and word.lower() in ("true", "false"):
        return word.lower() == "true"
    if not _NUMBER.fullmatch(word):
        raise ValueError(f"{text!r} is no number")
    if to is DType.BOOL:
        return float(word) != 0
    if to.is_float:
        return to.numpy.type(word)
    value = int(word) if re.fullmatch(r"[+-]?\d+", word) else _truncated(text, float(word))
    low, high = (-2**63, 2**63 - 1) if to is DType.I64 else (0, 2**64 - 1)
    if not low <= value <= high:
        raise ValueError(f"{text!r} does not fit {to.value}")
    return value


def _truncated(text: str, value: float) -> int:
    if not np.isfinite(value):
        raise ValueError(f"{text!r} is no integer")
    return int(value)
