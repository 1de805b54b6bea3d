"""Index expressions as sums of products, and what they are in one variable."""
from __future__ import annotations

from collections.abc import Iterable, Mapping

from lepton.codegen import loops
from lepton.codegen.loops import Apply, Cast, Const, Expr, Ref, i64
from lepton.ir.types import DType

Lets = Mapping[str, Expr]


def terms(e: Expr, lets: Lets) -> list[Expr]:
    """`e` (i64) as a sum: products are multiplied out, names of sums are replaced by them."""
    match e:
        case Apply("add", (a, b)):
            return terms(a, lets) + terms(b, lets)
        case Apply("sub", (a, b)):
            return terms(a, lets) + [product(t, i64(-1)) for t in terms(b, lets)]
        case Apply("mul", (a, b)):
            return [product(x, y) for x in terms(a, lets) for y in terms(b, lets)]
        case Cast(value, DType.I64) if value.dtype is DType.I64:
            return terms(value, lets)
        case Ref(name) if isinstance(lets.get(name), Apply | Ref) and _is_sum(lets[name]):
            return terms(lets[name], lets)
        case Const(0):
            return []
    return [e]


def _is_sum(e: Expr) -> bool:
    return isinstance(e, Ref) or (isinstance(e, Apply) and e.op in ("add", "sub", "mul"))


def product(a: Expr, b: Expr) -> Expr:
    """a * b with the constant last."""
    match a, b:
        case Const(), Const():
            return loops.mul(a, b)
        case Const(), _:
            return product(b, a)
        case Apply("mul", (x, Const() as c)), _:
            return loops.mul(x, loops.mul(c, b)) if isinstance(b, Const) else product(loops.mul(x, b), c)
    return loops.mul(a, b)


def factors(e: Expr) -> list[Expr]:
    match e:
        case Apply("mul", (a, b)):
            return factors(a) + factors(b)
    return [e]


def total(parts: Iterable[Expr]) -> Expr:
    result: Expr = i64(0)
    for part in parts:
        result = loops.add(result, part)
    return result


def free_names(e: Expr) -> frozenset[str]:
    return frozenset(x.name for x in loops.walk(e) if isinstance(x, Ref))


def linear(e: Expr, var: str, varying: frozenset[str] | set[str], lets: Lets) -> tuple[Expr, list[Expr]] | None:
    """(k, rest): e = k * var + the sum of `rest`, where neither k nor rest names anything of `varying`; else None."""
    coefficient: Expr = i64(0)
    rest: list[Expr] = []
    for term in terms(e, lets):
        if not varies(term, varying):
            rest.append(term)
            continue
        parts = factors(term)
        which = [p for p in parts if varies(p, varying)]
        if len(which) != 1 or not (isinstance(which[0], Ref) and which[0].name == var):
            return None
        others: Expr = i64(1)
        for p in parts:
            if p is not which[0]:
                others = product(others, p)
        coefficient = loops.add(coefficient, others)
    return coefficient, rest


def varies(e: Expr, varying: frozenset[str] | set[str]) -> bool:
    return any(isinstance(x, Ref) and x.name in varying for x in loops.walk(e))
