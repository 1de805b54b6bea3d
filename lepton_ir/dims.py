"""Dimensions: integers, symbols and expressions over them, in one normal form.

`Dim = int | Expr`. An `Expr` is a polynomial with integer coefficients whose atoms are symbols or opaque applications
(`a//b`, `a%b`, `min`, `max`, `stretch`) of normal forms, so equal expressions that differ only by algebra compare
equal. Expressions that reduce to a constant *are* Python ints. Symbols stand for sizes, hence for integers >= 0;
where a division needs it they are taken as >= 1 (an empty tensor divides nothing: a divisor of 0 counts as 1).

What cannot be proved equal may still be equal when the model runs: `unify` records such a pair as a guard.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import reduce
from math import gcd
from operator import mul
from typing import TypeAlias

from lepton.ir.diagnostics import ResourceError

LONGEST = 20_000  # characters of an expression's text: no model needs more
Monomial = tuple[tuple["Atom", int], ...]  # ((atom, power), ...) sorted; () is the constant term


@dataclass(frozen=True, slots=True)
class Symbol:
    """A size that is known when the model runs."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Apply:
    """An operation that the polynomial form does not see through: `//`, `%`, `min`, `max`, `stretch`."""

    op: str
    left: Dim
    right: Dim

    def __str__(self) -> str:
        return _atom_text(self)


Atom = Symbol | Apply


class Expr:
    """A polynomial over atoms. Immutable; made by arithmetic on `sym("N")`."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __add__(self, other: Dim) -> Dim:
        terms = dict(self.terms)
        for m, c in _terms(other):
            terms[m] = terms.get(m, 0) + c
        return _normal(terms)

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return _normal({m: -c for m, c in self.terms})

    def __sub__(self, other: Dim) -> Dim:
        return self + (-other)

    def __rsub__(self, other: int) -> Dim:
        return (-self) + other

    def __mul__(self, other: Dim) -> Dim:
        terms: dict[Monomial, int] = {}
        for ma, ca in self.terms:
            for mb, cb in _terms(other):
                m = _times(ma, mb)
                terms[m] = terms.get(m, 0) + ca * cb
        return _normal(terms)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: int) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: int) -> Dim:
        return mod(other, self)

    def __str__(self) -> str:
        parts = []
        for m, c in self.terms:
            factors = [_atom_text(a) for a, p in m for _ in range(p)]
            body = "*".join(factors)
            text = str(abs(c)) if not body else body if abs(c) == 1 else f"{abs(c)}*{body}"
            parts.append(("-" if c < 0 else "+") + text)
        return "".join(parts).removeprefix("+")

    __repr__ = __str__


Dim: TypeAlias = int | Expr


def sym(name: str) -> Expr:
    """The symbol `name`; letters, digits and underscores."""
    if not name.isidentifier():
        raise ValueError(f"not a symbol: {name!r}")
    return Expr((((((Symbol(name), 1),)), 1),))


def floordiv(a: Dim, b: Dim) -> Dim:
    """a // b, rounding down; b > 0 at run time."""
    if b in (0, 1) or a == 0:
        return a
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if a == b:
        return 1
    quotient, rest = _divide(a, b)
    if rest == 0:
        return quotient
    if isinstance(b, int):
        common = reduce(gcd, (c for _, c in _terms(rest)), b)
        if common > 1:  # (4N + 6) // 8  ->  (2N + 3) // 4
            return quotient + floordiv(_normal({m: c // common for m, c in _terms(rest)}), b // common)
        inner, plus = _atom_and_constant(rest)
        if isinstance(inner, Apply) and inner.op == "//" and isinstance(inner.right, int):
            # (x // 2 + k) // 3  ->  (x + 2k) // 6
            return quotient + floordiv(inner.left + plus * inner.right, inner.right * b)
    if isinstance(rest, int) and isinstance(b, int):
        return quotient + rest // b
    return quotient + _atom(Apply("//", rest, b))


def mod(a: Dim, b: Dim) -> Dim:
    """a % b with the sign of b; b > 0 at run time."""
    if b in (0, 1) or a == 0 or a == b:
        return 0
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    _, rest = _divide(a, b)
    if rest == 0:
        return 0
    if isinstance(rest, int) and isinstance(b, int):
        return rest % b
    return _atom(Apply("%", rest, b))


def ceildiv(a: Dim, b: Dim) -> Dim:
    """a / b rounded up."""
    return floordiv(a + b - 1, b)


def dim_max(a: Dim, b: Dim) -> Dim:
    return _extreme("max", a, b)


def dim_min(a: Dim, b: Dim) -> Dim:
    return _extreme("min", a, b)


def stretch(a: Dim, b: Dim) -> Dim:
    """What a size of a becomes beside one of b, as numpy broadcasts: b where a is 1, else a."""
    if a == 1 or operands("stretch", b)[0] == a:
        return b
    return a if b == 1 or isinstance(a, int) else _atom(Apply("stretch", a, b))


def product(dims: tuple[Dim, ...] | list[Dim]) -> Dim:
    return reduce(mul, dims, 1)


def symbols(dim: Dim) -> frozenset[str]:
    """Names of all symbols in `dim`."""
    names: set[str] = set()
    for m, _ in _terms(dim):
        for atom, _power in m:
            names |= {atom.name} if isinstance(atom, Symbol) else symbols(atom.left) | symbols(atom.right)
    return frozenset(names)


def substitute(dim: Dim, env: Mapping[str, Dim]) -> Dim:
    """`dim` with symbols replaced; symbols that `env` does not name stay."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for m, c in dim.terms:
        term: Dim = c
        for atom, power in m:
            if isinstance(atom, Symbol):
                value = env.get(atom.name, sym(atom.name))
            else:
                value = OPERATIONS[atom.op](substitute(atom.left, env), substitute(atom.right, env))
            for _ in range(power):
                term = term * value
        total = total + term
    return total


def evaluate(dim: Dim, env: Mapping[str, int]) -> int:
    """The number `dim` stands for. Raises KeyError naming a symbol that `env` lacks."""
    result = substitute(dim, env)
    if isinstance(result, int):
        return result
    raise KeyError(min(symbols(result)))


# --- what the model takes for granted -------------------------------------------------------------

Guard = tuple[Dim, Dim]
_guards: ContextVar[list[Guard] | None] = ContextVar("guards", default=None)


@contextmanager
def collect_guards() -> Iterator[list[Guard]]:
    """Collect the pairs that type rules `unify` without being able to prove them equal."""
    found: list[Guard] = []
    token = _guards.set(found)
    try:
        yield found
    finally:
        _guards.reset(token)


def unify(a: Dim, b: Dim) -> Dim | None:
    """The common value of two dims that must be equal, or None where they cannot be.

    An unproved pair is recorded as a guard; the simpler of the two stands for both."""
    if a == b:
        return a
    if _never_zero(a - b):
        return None
    if (found := _guards.get()) is not None:
        found.append((a, b))
    return min(a, b, key=lambda d: (not isinstance(d, int), len(str(d)), str(d)))


def _never_zero(dim: Dim) -> bool:
    """Whether a difference of two different dims is certain not to vanish: 3, and 2*N+1 (an odd number), but not N."""
    if isinstance(dim, int):
        return dim != 0
    constant = next((c for m, c in dim.terms if not m), 0)
    return constant % reduce(gcd, (c for m, c in dim.terms if m)) != 0


# --- the normal form ------------------------------------------------------------------------------


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(dim, Expr):
        return dim.terms
    return (((), dim),) if dim else ()


def _normal(terms: dict[Monomial, int]) -> Dim:
    kept = {m: c for m, c in terms.items() if c}
    if not kept.keys() - {()}:
        return kept.get((), 0)
    # highest degree first, then by name; the constant comes last: "N*H+2*N+1"
    return Expr(tuple(sorted(kept.items(), key=lambda t: (-sum(p for _, p in t[0]), str(t[0])))))


def _times(a: Monomial, b: Monomial) -> Monomial:
    powers = dict(a)
    for atom, p in b:
        powers[atom] = powers.get(atom, 0) + p
    return tuple(sorted(powers.items(), key=lambda item: str(item[0])))


def _atom(atom: Atom) -> Expr:
    return Expr(((((atom, 1),), 1),))


def _atom_and_constant(dim: Dim) -> tuple[Atom | None, int]:
    """(atom, k), where `dim` is atom + k."""
    match _terms(dim):
        case ((((atom, 1),), 1),):
            return atom, 0
        case ((((atom, 1),), 1), ((), constant)):
            return atom, constant
    return None, 0


def _divide(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """a = quotient * b + rest, moving into the quotient the terms that b (one term) divides exactly."""
    divisor = _terms(b)
    if len(divisor) != 1:
        return _divide_many(a, b)
    (bm, bc), powers = divisor[0], dict(divisor[0][0])
    quotient, rest = dict[Monomial, int](), dict[Monomial, int]()
    for m, c in _terms(a):
        have = dict(m)
        fits = all(have.get(atom, 0) >= p for atom, p in bm)
        if fits and (c % bc == 0 or not powers):
            whole = c // bc
            left = tuple((atom, p - powers.get(atom, 0)) for atom, p in m if p > powers.get(atom, 0))
            quotient[left] = quotient.get(left, 0) + whole
            if c - whole * bc:
                rest[m] = rest.get(m, 0) + c - whole * bc
        else:
            rest[m] = rest.get(m, 0) + c
    return _normal(quotient), _normal(rest)


def _divide_many(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """Long division by a polynomial of several terms, on its leading one; exact or not at all."""
    quotient: Dim = 0
    rest, lead = a, _normal({_terms(b)[0][0]: _terms(b)[0][1]})
    for _ in range(8):
        if isinstance(rest, int):
            break
        head = _normal({rest.terms[0][0]: rest.terms[0][1]})
        step, left = _divide(head, lead)
        if left != 0 or step == 0:
            break
        quotient, rest = quotient + step, rest - step * b
    return (quotient, 0) if rest == 0 else (0, a)


def _extreme(op: str, a: Dim, b: Dim) -> Dim:
    """The extreme of all that nested applications of `op` hold, without what cannot be it."""
    kept: list[Dim] = []
    for new in (*operands(op, a), *operands(op, b)):
        if any(_decided(op, old, new) for old in kept):
            continue
        kept = [old for old in kept if not _decided(op, new, old)] + [new]
    kept.sort(key=str)
    total = kept[-1]
    for d in kept[-2::-1]:
        total = _atom(Apply(op, d, total))
    if isinstance(total, Expr) and len(str(total)) > LONGEST:
        raise ResourceError(f"a size becomes too long an expression: {str(total)[:80]}…")
    return total


def operands(op: str, dim: Dim) -> tuple[Dim, ...]:
    """What nested applications of `op` hold: `dim` itself, where it is none."""
    atom, rest = _atom_and_constant(dim)
    if rest or not isinstance(atom, Apply) or atom.op != op:
        return (dim,)
    return (*operands(op, atom.left), *operands(op, atom.right))


def _decided(op: str, a: Dim, b: Dim) -> bool:
    """Whether `a` is certain to be the extreme of both: N + 1 and N, 2*N and 0, max(a, b) and min(a, c)."""
    inner = operands("min" if op == "max" else "max", b)
    return _never_negative(a - b if op == "max" else b - a) or not set(inner).isdisjoint((a, *operands(op, a)))


def _never_negative(dim: Dim) -> bool:
    """Whether `dim` is certain to be >= 0, because sizes are."""
    return all(c > 0 and all(_atom_never_negative(atom) for atom, _ in m) for m, c in _terms(dim))


def _atom_never_negative(atom: Atom) -> bool:
    match atom:
        case Symbol() | Apply("%"):
            return True
        case Apply("//", a):
            return _never_negative(a)
        case Apply(op, a, b):
            return (any if op == "max" else all)((_never_negative(a), _never_negative(b)))


def _atom_text(atom: Atom) -> str:
    match atom:
        case Symbol(name):
            return name
        case Apply("min" | "max" | "stretch" as op, a, b):
            return f"{op}({a},{b})"
        case Apply(op, a, b):
            return f"({_group(a)}{op}{_group(b)})"
    raise AssertionError(atom)


def _group(dim: Dim) -> str:
    text = str(dim)
    return text if text.isalnum() else f"({text})"


OPERATIONS: dict[str, Callable[[Dim, Dim], Dim]] = {
    "//": floordiv, "%": mod, "min": dim_min, "max": dim_max, "stretch": stretch}
