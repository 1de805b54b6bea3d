"""The loop IR: how a kernel computes. One page of grammar, frozen data, compared by content.

    kernel  = Kernel(buffers, dims, body)            void k(bufs, dims, scratch, lo, hi)
    stmt    = For(var, extent, body, kind)           for var in [0, extent); kind TASKS: for var in [lo, hi)
            | Let(name, value)                       a name for a value, in scope to the end of the block
            | Var(name, dtype, value)                a variable with its first value
            | Update(name, op, value)                name = op(name, value); op of UPDATES, or "set"
            | Store(buffer, index, value)            buffer[index] = value
            | If(condition, then, otherwise)         condition is uniform (does not vary across vector lanes)
    expr    = Const | Ref | Dim | Load | Apply | Select | Cast

Names are unique in a kernel. Index expressions are exprs of dtype i64, in elements, from the operand's first element.
Loops of kind VECTOR run several turns at once in the lanes of a vector: every turn must be independent but for
`Update`s by an associative op of a Var declared outside, which become vector accumulators combined after the loop.
UNROLL repeats the body in the code.

Meaning of hard cases: integers wrap; i64 index arithmetic never overflows (sizes were checked); float ops are IEEE,
never reassociated except by VECTOR accumulation; `Load` of a bool buffer gives bool (one byte, 0 or 1); f16 and bf16
buffers are read as f32 and rounded to nearest even when stored, so no expr has a half type.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from lepton.ir.types import DType


class LoopKind(Enum):
    TASKS = "tasks"      # the parallel range [lo, hi); at most one, outermost
    SERIAL = "serial"
    VECTOR = "vector"
    UNROLL = "unroll"    # extent must be an integer


@dataclass(frozen=True, slots=True)
class Const:
    value: float | int | bool
    dtype: DType


@dataclass(frozen=True, slots=True)
class Ref:
    """A loop variable (i64), a Let or a Var."""

    name: str
    dtype: DType


@dataclass(frozen=True, slots=True)
class Dim:
    """A size known when the kernel runs: dims[index] of the ABI, i64."""

    index: int

    @property
    def dtype(self) -> DType:
        return DType.I64


@dataclass(frozen=True, slots=True)
class Load:
    buffer: str
    index: Expr
    dtype: DType         # of the value: the buffer's, with half types widened to f32


@dataclass(frozen=True, slots=True)
class Apply:
    """A scalar op: arithmetic and math functions by the names of lepton.ir.ops (add, exp, maximum, less …), on operands
    of one dtype; comparisons give bool. On i64 indices also floordiv and floormod by positive divisors."""

    op: str
    args: tuple[Expr, ...]
    dtype: DType


@dataclass(frozen=True, slots=True)
class Select:
    condition: Expr
    then: Expr
    otherwise: Expr

    @property
    def dtype(self) -> DType:
        return self.then.dtype


@dataclass(frozen=True, slots=True)
class Cast:
    value: Expr
    dtype: DType


Expr: TypeAlias = Const | Ref | Dim | Load | Apply | Select | Cast


@dataclass(frozen=True, slots=True)
class For:
    var: str
    extent: Expr
    body: tuple[Stmt, ...]
    kind: LoopKind = LoopKind.SERIAL


@dataclass(frozen=True, slots=True)
class Let:
    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Var:
    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Update:
    name: str
    op: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Store:
    buffer: str
    index: Expr
    value: Expr


@dataclass(frozen=True, slots=True)
class If:
    condition: Expr
    then: tuple[Stmt, ...]
    otherwise: tuple[Stmt, ...] = ()


Stmt: TypeAlias = For | Let | Var | Update | Store | If

# The neutral element of each accumulating op is its meaning on nothing.
UPDATES = ("add", "mul", "maximum", "larger", "minimum", "logical_and", "logical_or", "set")


@dataclass(frozen=True, slots=True)
class Buffer:
    """An operand: bufs[i] of the ABI for the i-th buffer, or private scratch at a byte offset."""

    name: str
    dtype: DType
    written: bool = False
    scratch: int | None = None   # byte offset in the thread's scratch; None: an operand


@dataclass(frozen=True, slots=True)
class Kernel:
    name: str
    buffers: tuple[Buffer, ...]
    n_dims: int
    body: tuple[Stmt, ...]


def i64(value: int) -> Const:
    return Const(value, DType.I64)


def add(a: Expr, b: Expr) -> Expr:
    """a + b of one dtype; folds integer constants and zeros."""
    match a, b:
        case Const(int(x), DType.I64), Const(int(y), DType.I64):
            return i64(x + y)
        case _, Const(0, DType.I64):
            return a
        case Const(0, DType.I64), _:
            return b
    return Apply("add", (a, b), a.dtype)


def mul(a: Expr, b: Expr) -> Expr:
    """a * b of one dtype; folds integer constants, zeros and ones."""
    match a, b:
        case Const(int(x), DType.I64), Const(int(y), DType.I64):
            return i64(x * y)
        case (Const(0, DType.I64), _) | (_, Const(0, DType.I64)):
            return i64(0)
        case _, Const(1, DType.I64):
            return a
        case Const(1, DType.I64), _:
            return b
    return Apply("mul", (a, b), a.dtype)


def children(e: Expr) -> tuple[Expr, ...]:
    match e:
        case Load(_, index, _):
            return (index,)
        case Apply(_, args, _):
            return args
        case Select(c, t, o):
            return (c, t, o)
        case Cast(value, _):
            return (value,)
    return ()


def walk(e: Expr) -> Iterator[Expr]:
    """`e` and everything below it."""
    yield e
    for child in children(e):
        yield from walk(child)


def expressions(s: Stmt) -> tuple[Expr, ...]:
    """The expressions a statement itself holds, without those of the statements inside it."""
    match s:
        case For(_, extent, _, _):
            return (extent,)
        case Let(_, value) | Var(_, value) | Update(_, _, value):
            return (value,)
        case Store(_, index, value):
            return (index, value)
        case If(condition, _, _):
            return (condition,)
    raise TypeError(s)


def blocks(s: Stmt) -> tuple[tuple[Stmt, ...], ...]:
    """The blocks inside a statement."""
    match s:
        case For(_, _, body, _):
            return (body,)
        case If(_, then, otherwise):
            return (then, otherwise)
    return ()


def statements(body: tuple[Stmt, ...]) -> Iterator[Stmt]:
    """All statements of a block and of the blocks inside, in order."""
    for s in body:
        yield s
        for block in blocks(s):
            yield from statements(block)


def bound(body: tuple[Stmt, ...]) -> frozenset[str]:
    """The names that statements of a block and the blocks inside bring into being."""
    found = set()
    for s in statements(body):
        match s:
            case For(name, _, _, _) | Let(name, _) | Var(name, _):
                found.add(name)
    return frozenset(found)


def updated(body: tuple[Stmt, ...]) -> tuple[str, ...]:
    """The variables of an outer block that `body` changes, in order of appearance."""
    inner = bound(body)
    return tuple(dict.fromkeys(s.name for s in statements(body) if isinstance(s, Update) and s.name not in inner))


def neutral(op: str, dtype: DType) -> Const:
    """What an accumulating op leaves unchanged: the value of an empty reduction. Raises KeyError for "set"."""
    match op, dtype:
        case ("maximum" | "minimum"), DType.BOOL:
            return Const(op == "minimum", dtype)
        case ("maximum" | "larger" | "minimum"), _ if dtype.is_float:
            return Const(float("inf" if op == "minimum" else "-inf"), dtype)
        case ("maximum" | "minimum"), _:
            least = -(1 << (dtype.bits - 1)) if dtype.is_signed else 0
            return Const(least if op == "maximum" else least + (1 << dtype.bits) - 1, dtype)
    return Const({"add": 0, "mul": 1, "logical_and": True, "logical_or": False}[op], dtype)
