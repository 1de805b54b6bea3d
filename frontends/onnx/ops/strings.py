"""Operators on text: StringConcat, StringSplit, RegexFullMatch, StringNormalizer, and what Cast does with strings."""
from __future__ import annotations

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.shape import broadcast
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import dim_max
from lepton.ir.ops.strings import PRINTED, READ
from lepton.ir.strings import mapped
from lepton.ir.types import DType

CASES = {"LOWER": "lower", "UPPER": "upper", "NONE": ""}
DOTLESS = ("tr", "az")  # languages in which i without a dot is a letter of its own


@imports("StringConcat", since=20)
def string_concat(c: Call) -> Value:
    a, b = c.x(0), c.x(1)
    a = broadcast(c, a, b.tensor.shape)
    return c(ops.string_concat, a, broadcast(c, b, a.tensor.shape))


@imports("StringSplit", since=20)
def string_split(c: Call) -> list[Value]:
    """(the pieces, their number). A negative `maxsplit` is none, as in Python."""
    most = c.i("maxsplit", None) if c.has("maxsplit") else None
    limit = most if most is not None and most >= 0 else None
    return list(c.multi(ops.string_split, c.x(), delimiter=c.s("delimiter", ""), most=limit, symbol=c.fresh("pieces")))


@imports("RegexFullMatch", since=20)
def regex_full_match(c: Call) -> Value:
    return c(ops.regex_full_match, c.x(), pattern=c.s("pattern", REQUIRED))


@imports("StringNormalizer", since=10)
def string_normalizer(c: Call) -> Value:
    """[C] or [1,C] -> the elements that are no stop words, in another case; one empty string where none is left.

    Without `is_case_sensitive`, stop words are looked for after the change of case (in lower case if there is none)."""
    x, to, sensitive = c.x(), c.s("case_change_action", "NONE"), c.flag("is_case_sensitive")
    dotless = c.s("locale", "").partition("_")[0].lower() in DOTLESS
    words = list(c.strings("stopwords", ()))
    if to not in CASES:
        c.fail(f"case_change_action {to!r}")
    if x.tensor.rank not in (1, 2) or (x.tensor.rank == 2 and x.tensor.shape[0] != 1):
        c.fail(f"text of shape {x.tensor}, expected [C] or [1,C]")
    flat = c.reshape(x, x.tensor.shape[-1:])
    changed = c(ops.string_case, flat, to=CASES[to], dotless=dotless) if CASES[to] else flat
    if not words:
        return c.reshape(_or_empty(c, changed), (*x.tensor.shape[:-1], dim_max(flat.tensor.shape[0], 1)))
    looked = flat
    if not sensitive:
        looked = changed if CASES[to] else c(ops.string_case, flat, to="lower", dotless=dotless)
        words = [mapped(word, CASES[to] or "lower", dotless) for word in words]
    kept = _or_empty(c, _without(c, changed, looked, words))
    return c.reshape(kept, (*x.tensor.shape[:-1], kept.tensor.shape[0]))


def _without(c: Call, x: Value, looked: Value, words: list[str]) -> Value:
    """The elements of x [n] where `looked` holds none of these words."""
    column = c.reshape(looked, (*looked.tensor.shape, 1))
    same = c(ops.equal, column, c.const(sorted(set(words)), DType.STRING))
    found = c(ops.reduce_max, c.cast(same, DType.I32), axes=(1,), keepdims=False)
    places = c(ops.non_zero, c(ops.equal, found, c.const(0, DType.I32)), symbol=c.fresh("kept"))
    return c(ops.gather, x, c.reshape(places, places.tensor.shape[1:]), axis=0)


def _or_empty(c: Call, x: Value) -> Value:
    """x [n], or one empty string for n = 0."""
    size = dim_max(x.tensor.shape[0], 1)  # a count may be 0, other than the sizes that bounds.py knows
    if size == x.tensor.shape[0]:
        return x
    both = c(ops.concat, x, c.const([""], DType.STRING), axis=0)
    return c(ops.slice_, both, starts=(0,), sizes=(size,), steps=(1,))


def converted(c: Call, x: Value, to: DType) -> Value:
    """Cast from or to strings: numbers in decimal. Types that are not written or read go by way of a wider one."""
    source = x.tensor.dtype
    if to is DType.STRING:
        if source.is_integer and source not in PRINTED:
            x = c.cast(x, DType.I64)
        elif source not in PRINTED:
            c.fail(f"cast of {source.value} to strings")
        return c(ops.number_to_string, x)
    wide = to if to in READ else DType.I64 if to.is_integer else DType.F32
    if to.is_complex:
        c.fail(f"cast of strings to {to.value}")
    return c.cast(c(ops.string_to_number, x, to=wide), to)
