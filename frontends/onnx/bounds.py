"""What is certain about a dimension's value: a lower bound, and with it comparisons.

The inputs' symbols are taken as >= 1 here: a model that is exported with symbolic sizes means non-empty tensors, and
`x[:-1]` shall have N-1 elements, not max(N-1, 0). The runtime refuses negative sizes and reads of empty axes
(`rules.not_empty`), so nothing worse than an error comes of an empty input. Sizes that are found in data may well be
0: `found_sizes` says which those are.
"""
from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from contextvars import ContextVar

from lepton.ir import dims
from lepton.ir.dims import Apply, Dim, Expr, Symbol

_DEEP = 6
_found: ContextVar[Set[str]] = ContextVar("found", default=frozenset())


@contextmanager
def found_sizes(names: Set[str]) -> Iterator[None]:
    """Within this, the symbols in `names` (which may grow) are sizes that may be 0."""
    token = _found.set(names)
    try:
        yield
    finally:
        _found.reset(token)


def _moved(dim: Dim, by: int) -> Dim:
    """`dim` with every symbol that counts from 1 moved."""
    return dims.substitute(dim, {name: dims.sym(name) + by for name in dims.symbols(dim) - _found.get()})


def lower(dim: Dim, deep: int = _DEEP) -> int | None:
    """A number `dim` is never below, or None where none is found."""
    if isinstance(dim, int):
        return dim
    if deep == 0:
        return None
    found = [bound for d in _without_one_negative(dim) if (bound := lower(d, deep - 1)) is not None]
    return max(found) if found else _of_terms(dim, deep)


def _of_terms(dim: Expr, deep: int) -> int | None:
    """The sum of the terms' bounds, with symbols counted from 1 so that N*M - N is not negative."""
    shifted = _moved(dim, 1)
    if isinstance(shifted, int):
        return shifted
    total = 0
    for monomial, factor in shifted.terms:
        if not monomial:
            total += factor
        elif factor < 0:
            return None
        else:
            least = _monomial(monomial, deep - 1)
            if least is None:
                return None
            total += factor * least
    return total


def certainly(a: Dim, relation: str, b: Dim) -> bool | None:
    """`a < b`, `a <= b` or `a == b`: True, False, or None where it depends."""
    above, below = lower(b - a), lower(a - b)
    match relation:
        case "<":
            return True if above is not None and above >= 1 else False if below is not None and below >= 0 else None
        case "<=":
            return True if above is not None and above >= 0 else False if below is not None and below >= 1 else None
    if a == b:
        return True
    apart = (above is not None and above >= 1) or (below is not None and below >= 1)
    return False if apart else None


def smaller(a: Dim, b: Dim) -> Dim:
    """min(a, b), without the `min` where it is known which."""
    return a if certainly(a, "<=", b) else b if certainly(b, "<=", a) else dims.dim_min(a, b)


def larger(a: Dim, b: Dim) -> Dim:
    """max(a, b), without the `max` where it is known which."""
    return b if certainly(a, "<=", b) else a if certainly(b, "<=", a) else dims.dim_max(a, b)


def _monomial(monomial: dims.Monomial, deep: int) -> int | None:
    """A lower bound of a product of atoms, all of which must be known not to be negative."""
    result = 1
    for atom, power in monomial:
        least = 0 if isinstance(atom, Symbol) else _apply(atom, deep)  # symbols have been shifted to start at 0
        if least is None or least < 0:
            return None
        result *= least**power
    return result


def _apply(atom: Apply, deep: int) -> int | None:
    # The symbols inside were shifted by one already: shift back, for `lower` shifts again.
    left, right = _moved(atom.left, -1), _moved(atom.right, -1)
    if atom.op == "%":
        return 0
    a, b = lower(left, deep), lower(right, deep)
    match atom.op:
        case "//":
            return None if a is None or a < 0 else a // right if isinstance(right, int) else 0
        case "max":
            return max((v for v in (a, b) if v is not None), default=None)
        case "min":
            return None if a is None or b is None else min(a, b)
        case "stretch":
            return None if a is None or b is None else a if a > 1 else min(a, b)
    return None


def _without_one_negative(dim: Expr) -> list[Dim]:
    """Expressions that are not above `dim`: -min(a,b) >= -a, -2*(a//2) >= -a, -(a % k) >= 1-k."""
    found: list[Dim] = []
    for monomial, factor in dim.terms:
        if factor >= 0 or len(monomial) != 1 or monomial[0][1] != 1 or not isinstance(monomial[0][0], Apply):
            continue
        atom = monomial[0][0]
        rest = dim - Expr(((monomial, factor),))
        match atom.op, atom.right:
            case "min", _:
                found += [rest + atom.left * factor, rest + atom.right * factor]
            case "//", int(k) if factor % k == 0:
                found.append(rest + atom.left * (factor // k))
            case "%", int(k):
                found.append(rest + factor * (k - 1))
    return found
