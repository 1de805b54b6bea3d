"""What a string is: bytes, by convention UTF-8, that Python shows as str.

Bytes that are not UTF-8 are kept: Python sees them as the surrogates of PEP 383 ("surrogateescape"), and they come back
as they were. The compiler, the border of artifacts and the interpreter all go through here.
"""
from __future__ import annotations

import math
import sys
from functools import cache
from typing import Any


def to_bytes(text: object) -> bytes:
    """The bytes of a str (or of bytes, as they are). Raises ValueError for anything else and for lone surrogates."""
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is of type {type(text).__name__}")
    return text.encode("utf-8", "surrogateescape")


def to_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


@cache
def cases(to: str, dotless: bool = False) -> dict[str, str]:
    """The characters that another case changes -> what they become, each by itself. `to`: "lower" or "upper"."""
    change = str.lower if to == "lower" else str.upper
    table = {c: change(c) for c in map(chr, range(sys.maxunicode + 1)) if change(c) != c}
    if dotless:
        table |= {"I": "ı", "İ": "i"} if to == "lower" else {"i": "İ", "ı": "I"}
    return table


def mapped(text: str, to: str, dotless: bool = False) -> str:
    """The text in another case, character by character."""
    table = cases(to, dotless)
    return "".join(table.get(c, c) for c in text)


def digits(value: Any, dtype: Any) -> str:
    """A float by the fewest decimal digits that read back as the same number of its numpy dtype, as Python writes them:
    with an exponent below 1e-4 and from 1e16 on, else with at least one digit behind the point."""
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        return str(number)
    sign, size = "-" if math.copysign(1.0, number) < 0 else "", abs(number)
    for count in range(1, 18):
        head, _, tail = f"{size:.{count - 1}e}".partition("e")
        whole, exponent = int(head.replace(".", "")), int(tail)
        for candidate in (whole, whole + 1):  # below a power of two, numbers lie closer than above it
            if dtype.type(float(f"{candidate}e{exponent - count + 1}")) == abs(value):
                return sign + laid_out(str(candidate), exponent + len(str(candidate)) - count)
    raise AssertionError(value)


def laid_out(figures: str, exponent: int) -> str:
    """Decimal figures d.ddd times ten to the exponent, as Python's repr writes a float."""
    figures = figures.rstrip("0") or "0"
    if not -4 <= exponent < 16:
        return f"{figures[0]}{'.' if len(figures) > 1 else ''}{figures[1:]}e{exponent:+03d}"
    if exponent < 0:
        return f"0.{'0' * (-exponent - 1)}{figures}"
    whole = figures[:exponent + 1].ljust(exponent + 1, "0")
    return f"{whole}.{figures[exponent + 1:] or '0'}"
