"""Matrix products: MatMul, Gemm, Einsum."""
from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError


@imports("MatMul")
def matmul(c: Call) -> Value:
    return c(ops.matmul, c.x(0), c.x(1))


def swapped(c: Call, x: Value) -> Value:
    """x with its last two axes exchanged."""
    rank = x.tensor.rank
    return c(ops.transpose, x, perm=(*range(rank - 2), rank - 1, rank - 2))


def scaled(c: Call, x: Value, factor: float) -> Value:
    """factor * x; integers, which have no fractions, take the factor cut."""
    return x if factor == 1 else c(ops.mul, x, c.like(factor, x))


@imports("Gemm")
def gemm(c: Call) -> Value:
    """alpha * A' @ B' + beta * C, where ' transposes if so set."""
    c.ignore("broadcast")  # until opset 6: C may be broadcast
    a, b = c.x(0), c.x(1)
    if a.tensor.rank != 2 or b.tensor.rank != 2:
        raise LeptonError(f"{a.tensor} and {b.tensor} are not matrices", where=c.where)
    a = swapped(c, a) if c.flag("transA") else a
    b = swapped(c, b) if c.flag("transB") else b
    alpha, beta = c.f("alpha", 1.0), c.f("beta", 1.0)
    product = scaled(c, c(ops.matmul, a, b), alpha)
    if c.opt(2) is None or beta == 0:
        return product
    return c(ops.add, product, scaled(c, c.x(2), beta))


# --- Einsum ---------------------------------------------------------------------------------------


@imports("Einsum", since=12)
def einsum(c: Call) -> Value:
    """Operands are contracted pair by pair, from the left, as batched matrix products."""
    values = c.all()
    terms, result = _labels(c, c.s("equation", REQUIRED), [v.tensor.rank for v in values])
    values, terms = _without_repeats(c, values, terms)
    value, term = values[0], terms[0]
    for i in range(1, len(values)):
        later = set(result).union(*terms[i + 1:])
        value, term = _contract(c, value, term, values[i], terms[i], later)
    extra = [a for a, label in enumerate(term) if label not in result]
    if extra:
        value = c(ops.reduce_sum, value, axes=tuple(extra), keepdims=False)
        term = "".join(label for label in term if label in result)
    perm = tuple(term.index(label) for label in result)
    return value if perm == tuple(range(len(perm))) else c(ops.transpose, value, perm=perm)


def _labels(c: Call, equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """One string of labels per operand, and the result's; an ellipsis becomes labels of its own."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise LeptonError(f"equation {equation!r} for {len(ranks)} operands", where=c.where)
    free = [label for label in ascii_letters if label not in equation]
    widest = max((r - len(t.replace("...", "")) for t, r in zip(terms, ranks, strict=True) if "..." in t), default=0)
    if widest > len(free):
        c.fail("an Einsum with more than 52 labels")
    dots = "".join(free[:widest])
    if not arrow:
        plain = left.replace("...", "").replace(",", "")
        right = ("..." if "..." in left else "") + "".join(sorted({t for t in plain if plain.count(t) == 1}))
    full = []
    for term, rank in zip(terms, ranks, strict=True):
        named = term.replace("...", "")
        count = rank - len(named)
        if count < 0 or ("..." not in term and count) or (not named.isalpha() and named):
            raise LeptonError(f"equation {equation!r}: {term!r} for rank {rank}", where=c.where)
        full.append(term.replace("...", dots[widest - count:]))
    result = right.replace("...", dots)
    if set(result) - set("".join(full)) or len(set(result)) != len(result):
        raise LeptonError(f"equation {equation!r}: the result has labels that no operand has, or has them twice",
                          where=c.where)
    return full, result


def _without_repeats(c: Call, values: list[Value], terms: list[str]) -> tuple[list[Value], list[str]]:
    """Operands with a label twice (diagonals) multiplied by an identity and summed over one of the two axes."""
    values, terms = list(values), list(terms)
    for i, term in enumerate(terms):
        while len(set(term)) < len(term):
            second = next(a for a, label in enumerate(term) if label in term[:a])
            first = term.index(term[second])
            shape = values[i].tensor.shape
            rank = len(shape)
            rows, columns = (
                c.reshape(c(ops.iota, size=shape[axis], dtype=values[i].tensor.dtype),
                          [shape[axis] if a == axis else 1 for a in range(rank)]) for axis in (first, second))
            zero = c.like(0, values[i])
            diagonal = c(ops.where, c(ops.equal, rows, columns), values[i], zero)
            values[i] = c(ops.reduce_sum, diagonal, axes=(second,), keepdims=False)
            term = term[:second] + term[second + 1:]
        terms[i] = term
    return values, terms


def _contract(c: Call, a: Value, left: str, b: Value, right: str, later: set[str]) -> tuple[Value, str]:
    """One product over the labels that nobody needs later."""
    a, left = _summed(c, a, left, later | set(right))
    b, right = _summed(c, b, right, later | set(left))
    batch = [t for t in left if t in right and t in later]
    inner = [t for t in left if t in right and t not in later]
    rows = [t for t in left if t not in right]
    columns = [t for t in right if t not in left]
    x, heads, row_dims, sums = _arranged(c, a, left, batch, rows, inner)
    y, others, column_dims, same_sums = _arranged(c, b, right, batch, columns, inner)
    x = c.reshape(x, (*heads, dims.product(row_dims), dims.product(sums)))
    y = swapped(c, c.reshape(y, (*others, dims.product(column_dims), dims.product(same_sums))))
    product = c(ops.matmul, x, y)
    shape = (*product.tensor.shape[:len(batch)], *row_dims, *column_dims)
    return c.reshape(product, shape), "".join(batch + rows + columns)


def _summed(c: Call, x: Value, term: str, kept: set[str]) -> tuple[Value, str]:
    """x summed over the labels that neither the result nor another operand has."""
    axes = tuple(a for a, label in enumerate(term) if label not in kept)
    if not axes:
        return x, term
    return (c(ops.reduce_sum, x, axes=axes, keepdims=False), "".join(t for t in term if t in kept))


def _arranged(
    c: Call, x: Value, term: str, batch: list[str], free: list[str], inner: list[str]
) -> tuple[Value, list[dims.Dim], list[dims.Dim], list[dims.Dim]]:
    """x with its axes in the order batch, free, inner; and the sizes of the three groups."""
    perm = tuple(term.index(label) for label in (*batch, *free, *inner))
    if perm != tuple(range(len(perm))):
        x = c(ops.transpose, x, perm=perm)
    shape = list(x.tensor.shape)
    m, n = len(batch), len(batch) + len(free)
    return x, shape[:m], shape[m:n], shape[n:]
