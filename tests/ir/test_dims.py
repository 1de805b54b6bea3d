"""Dims: one normal form, and it means what the operators mean on numbers."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton.ir import dims
from lepton.ir.diagnostics import ResourceError
from lepton.ir.dim_text import parse_dim
from lepton.ir.dims import Dim, Expr, ceildiv, dim_max, dim_min, floordiv, mod, sym

NAMES = ("N", "H", "W")
N, H, W = map(sym, NAMES)
POSITIVE = st.fixed_dictionaries({name: st.integers(1, 40) for name in NAMES})


@dataclass(frozen=True)
class Term:
    """An expression as it was written: its dim, and its number for given sizes (None: it divides by nothing)."""

    dim: Dim
    number: Callable[[dict[str, int]], int]


def leaf() -> st.SearchStrategy[Term]:
    names = st.sampled_from(NAMES).map(lambda n: Term(sym(n), lambda env: env[n]))
    return names | st.integers(-6, 12).map(lambda k: Term(k, lambda env: k))


def combine(children: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    def binary(make: Callable[[Dim, Dim], Dim], compute: Callable[[int, int], int], a: Term, b: Term) -> Term:
        return Term(make(a.dim, b.dim), lambda env: compute(a.number(env), b.number(env)))

    free: list[tuple[Callable[[Dim, Dim], Dim], Callable[[int, int], int]]] = [
        (lambda a, b: a + b, int.__add__), (lambda a, b: a - b, int.__sub__), (lambda a, b: a * b, int.__mul__),
        (dim_max, max), (dim_min, min)]
    # Divisors are positive whenever the model runs.
    divisors = st.integers(1, 9).map(lambda k: Term(k, lambda env: k)) | st.sampled_from(NAMES).map(
        lambda n: Term(sym(n), lambda env: env[n])) | st.sampled_from(NAMES).map(
        lambda n: Term(2 * sym(n) + 1, lambda env: 2 * env[n] + 1))
    divided: list[tuple[Callable[[Dim, Dim], Dim], Callable[[int, int], int]]] = [
        (floordiv, int.__floordiv__), (mod, int.__mod__)]
    return st.one_of(
        st.builds(lambda f, a, b: binary(f[0], f[1], a, b), st.sampled_from(free), children, children),
        st.builds(lambda f, a, b: binary(f[0], f[1], a, b), st.sampled_from(divided), children, divisors),
    )


TERMS = st.recursive(leaf(), combine, max_leaves=10)


@settings(max_examples=1500, deadline=None)
@given(TERMS, st.fixed_dictionaries({name: st.integers(0, 40) for name in NAMES}))
def test_means_what_was_written(term: Term, env: dict[str, int]) -> None:
    """For sizes of 0 too, but where those divide."""
    try:
        number = term.number(env)
    except ZeroDivisionError:
        return
    assert dims.evaluate(term.dim, env) == number


@settings(max_examples=800, deadline=None)
@given(TERMS)
def test_text_round_trip(term: Term) -> None:
    assert parse_dim(str(term.dim)) == term.dim


@settings(max_examples=400, deadline=None)
@given(TERMS, TERMS, TERMS)
def test_one_normal_form(a: Term, b: Term, c: Term) -> None:
    """What differs only by the laws of a ring, or by the order of min and max, is equal."""
    x, y, z = a.dim, b.dim, c.dim
    assert x + y == y + x
    assert x * y == y * x
    assert (x + y) + z == x + (y + z)
    assert x * (y + z) == x * y + x * z
    assert x - x == 0
    assert x + 0 == x
    assert x * 1 == x
    assert x * 0 == 0
    assert dim_max(x, y) == dim_max(y, x)
    assert dim_min(x, y) == dim_min(y, x)
    assert dim_max(x, x) == x == dim_min(x, x)


@settings(max_examples=400, deadline=None)
@given(TERMS, TERMS, POSITIVE)
def test_equal_hash_and_unify(a: Term, b: Term, env: dict[str, int]) -> None:
    if a.dim == b.dim:
        assert hash(a.dim) == hash(b.dim)
    with dims.collect_guards() as guards:
        common = dims.unify(a.dim, b.dim)
    x, y = dims.evaluate(a.dim, env), dims.evaluate(b.dim, env)
    if common is None:
        assert x != y
    elif x == y:
        assert dims.evaluate(common, env) == x
    else:
        assert guards == [(a.dim, b.dim)]


@settings(max_examples=400, deadline=None)
@given(TERMS, TERMS, POSITIVE)
def test_substitution_is_evaluation_in_two_steps(term: Term, value: Term, env: dict[str, int]) -> None:
    inner = dims.evaluate(value.dim, env)
    if inner < 1:
        return
    replaced = dims.substitute(term.dim, {"N": value.dim})
    assert dims.evaluate(replaced, env) == term.number(env | {"N": inner})


@pytest.mark.parametrize(("dim", "text"), [
    (N + 1, "N+1"), (1 - N, "-N+1"), (2 * N * N + H, "2*N*N+H"), (floordiv(N, 2), "(N//2)"), (N * H - N, "H*N-N"),
    (floordiv(N + 1, 2) * 2, "2*((N+1)//2)"), (mod(N, 4), "(N%4)"), (dim_max(N - 3, 0), "max(0,N-3)"),
    (dim_min(N, H), "min(H,N)"), (N - N, "0"),
])
def test_text(dim: Dim, text: str) -> None:
    assert str(dim) == text


@pytest.mark.parametrize(("left", "right"), [
    (floordiv(4 * N, 2), 2 * N),
    (floordiv(4 * N + 6, 8), floordiv(2 * N + 3, 4)),
    (floordiv(N * H, N), H),
    (floordiv(N * H + N, N), H + 1),
    (floordiv((N + 1) * (H + 2), N + 1), H + 2),
    (floordiv(floordiv(N, 2) + 1, 2), floordiv(N + 2, 4)),
    (floordiv(floordiv(N, 2), 3), floordiv(N, 6)),
    (floordiv(N + 6, 3), floordiv(N, 3) + 2),
    (ceildiv(N, 1), N), (ceildiv(2 * N, 2), N),
    (mod(4 * N, 2), 0), (mod(4 * N + 3, 2), 1), (mod(N + 6, 3), mod(N, 3)), (mod(N * H, H), 0),
    (floordiv(N - 1, 2) + 1, floordiv(N + 1, 2)),
    (dim_max(N, N + 1), N + 1), (dim_min(N, N + 1), N), (dim_max(N, 0), N), (dim_max(N * H, 0), N * H),
    (dim_min(N, 0), 0), (dim_max(N * H + N, N), N * H + N), (dim_min(N, N + H), N),
    (dim_max(floordiv(N, 2), 0), floordiv(N, 2)),
    (dim_max(mod(N, 4), 0), mod(N, 4)), (dim_max(dim_max(N - H, 0), 0), dim_max(N - H, 0)),
])
def test_simplifies(left: Dim, right: Dim) -> None:
    assert left == right


def test_what_stays_open() -> None:
    """A size may be 0, and differences may be negative."""
    assert str(dim_max(N, 1)) == "max(1,N)"
    assert str(dim_max(N - 1, 0)) == "max(0,N-1)"
    assert str(dim_max(dim_max(N - H, W - 2 * N), 0)) == "max(-2*N+W,max(-H+N,0))"
    assert str(dim_max(N * H, N)) == "max(H*N,N)"
    assert str(dim_min(dim_min(N - H, H - W), 0)) == "min(-H+N,min(0,H-W))"


def double(dim: Dim) -> None:
    for k in range(60):
        dim = dim_min(dim_max(dim - k % 3, H), dim_max(dim, W))


def test_nested_extremes_stay_short() -> None:
    """What slices of slices make, and what doubles with each step."""
    dim: Dim = N
    for k in range(40):
        dim = dim_min(dim_max(dim_min(dim, H) - k % 3, 0), H)
    assert len(str(dim)) < 1000
    with pytest.raises(ResourceError, match="too long an expression"):
        double(N)
    x, y = dim_max(N, H), dim_min(N, H)
    assert dim_max(dim_min(N, W), N) == N
    assert dim_min(x, y) == y
    assert dim_max(y, x) == x


def test_a_divisor_of_nothing_counts_as_one() -> None:
    assert mod(N, 0) == 0
    assert floordiv(N, 0) == N
    assert parse_dim("N%0") == 0
    assert dims.evaluate(floordiv(N, H), {"N": 7, "H": 0}) == 7


def test_stretch() -> None:
    size = dims.stretch(N, H)
    assert str(size) == "stretch(N,H)"
    assert parse_dim(str(size)) == size
    for n, h, out in ((1, 5, 5), (5, 1, 5), (5, 5, 5), (1, 0, 0), (0, 1, 0), (1, 1, 1)):
        assert dims.evaluate(size, {"N": n, "H": h}) == out
    assert dims.stretch(1, N) == dims.stretch(N, 1) == dims.stretch(N, N) == N
    assert dims.stretch(4, N) == 4


def test_constants_are_ints() -> None:
    assert isinstance(N - N + 3, int)
    assert isinstance(floordiv(7 * N, N), int)
    assert isinstance(N + 0, Expr)


BAD = ["", "N+", "1.5", "f(N)", "N**2", "a.b", "N if H else W", "max(N)", "True", "N/2", "'N'"]


@pytest.mark.parametrize("text", BAD)
def test_not_a_dimension(text: str) -> None:
    with pytest.raises(ValueError, match="not a dimension"):
        parse_dim(text)


def test_parse_is_bounded() -> None:
    with pytest.raises(ValueError, match="not a dimension"):
        parse_dim("(" * 5000 + "N" + ")" * 5000)


def test_symbols_and_missing_sizes() -> None:
    dim = floordiv(N + H, 2) * W
    assert dims.symbols(dim) == {"N", "H", "W"}
    assert dims.symbols(3) == frozenset()
    with pytest.raises(KeyError) as caught:
        dims.evaluate(dim, {"N": 1, "W": 2})
    assert caught.value.args == ("H",)
    with pytest.raises(ValueError, match="not a symbol"):
        sym("a-b")


def test_unify() -> None:
    with dims.collect_guards() as guards:
        assert dims.unify(N, N) is N
        assert dims.unify(3, 4) is None
        assert dims.unify(N, N + 1) is None
        assert dims.unify(2 * N, 3) is None
        assert guards == []
        assert dims.unify(N, 3) == 3 == dims.unify(3, N)
        assert dims.unify(N, H * 2) == N
    assert guards == [(N, 3), (3, N), (N, 2 * H)]
    assert dims.unify(N, 3) == 3   # outside, guards go nowhere
