"""What a string is: bytes, by convention UTF-8, that Python shows as str.

Bytes that are not UTF-8 are kept: Python sees them as the surrogates of PEP 383 ("surrogateescape"), and they come back
as they were. The compiler, the border of artifacts and the interpreter all go through here.
"""
from __future__ import annotations


def to_bytes(text: object) -> bytes:
    """The bytes of a str (or of bytes, as they are). Raises ValueError for anything else and for lone surrogates."""
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is of type {type(text).__name__}")
    return text.encode("utf-8", "surrogateescape")


def to_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
