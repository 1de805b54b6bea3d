"""What must hold of every loop kernel; the emitters and the interpreter take it for granted."""
from __future__ import annotations

from lepton.codegen import loops
from lepton.codegen.llvm.arith import OPS, reread_as
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import (
    UPDATES,
    Apply,
    Cast,
    Const,
    Dim,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Load,
    LoopKind,
    Ref,
    Select,
    Stmt,
    Store,
    Update,
    Var,
)
from lepton.codegen.loops_text import print_expr
from lepton.ir.types import DType

PREDICATES = frozenset({"equal", "less", "less_equal", "greater", "greater_equal", "is_nan"})


def verify(kernel: Kernel) -> None:
    """Raises ValueError for: names bound twice or not at all, dtypes that disagree, stores to operands that are not
    written, vector loops inside vector loops, tasks that are not outermost."""
    _Verifier(kernel).block(kernel.body, {}, (), vector=False)


class _Verifier:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.buffers = {b.name: b for b in kernel.buffers}
        self.seen: set[str] = set()
        if len(self.buffers) != len(kernel.buffers):
            raise ValueError(f"{kernel.name}: two buffers of one name")

    def fail(self, text: str) -> ValueError:
        return ValueError(f"loop kernel {self.kernel.name!r}: {text}")

    def bind(self, name: str, scope: dict[str, tuple[DType, bool]], dtype: DType, variable: bool = False) -> None:
        if name in self.seen:
            raise self.fail(f"{name!r} is bound twice")
        self.seen.add(name)
        scope[name] = dtype, variable

    def block(self, body: tuple[Stmt, ...], outer: dict[str, tuple[DType, bool]], path: tuple[LoopKind, ...],
              vector: bool) -> None:
        scope = dict(outer)
        for s in body:
            for e in loops.expressions(s):
                self.expr(e, scope)
            match s:
                case Let(name, value) | Var(name, value):
                    self.bind(name, scope, value.dtype, isinstance(s, Var))
                case Update(name, op, value):
                    dtype, variable = scope.get(name, (None, False))
                    if not variable or op not in UPDATES or dtype is not value.dtype:
                        raise self.fail(f"cannot update {name!r} by {op} {print_expr(value)}")
                case Store(name, index, value):
                    b = self.buffers.get(name)
                    if b is None or not (b.written or b.scratch is not None):
                        raise self.fail(f"store to {name!r}, which is not written")
                    if index.dtype is not DType.I64 or value.dtype is not widened(b.dtype):
                        raise self.fail(f"{value.dtype.value} stored in {b.dtype.value} {name!r}")
                case If(condition, then, otherwise):
                    if condition.dtype is not DType.BOOL:
                        raise self.fail(f"condition {print_expr(condition)} is not bool")
                    self.block(then, scope, path, vector)
                    self.block(otherwise, scope, path, vector)
                case For():
                    self.loop(s, scope, path, vector)

    def loop(self, s: For, scope: dict[str, tuple[DType, bool]], path: tuple[LoopKind, ...], vector: bool) -> None:
        if s.kind is LoopKind.TASKS and path:
            raise self.fail(f"tasks {s.var!r} is not outermost")
        if s.kind is LoopKind.VECTOR and vector:
            raise self.fail(f"vector loop {s.var!r} inside a vector loop")
        if s.kind is LoopKind.UNROLL and not isinstance(s.extent, Const):
            raise self.fail(f"unrolled loop {s.var!r} of unknown extent")
        inner = dict(scope)
        self.bind(s.var, inner, DType.I64)
        self.block(s.body, inner, (*path, s.kind), vector or s.kind is LoopKind.VECTOR)

    def expr(self, e: Expr, scope: dict[str, tuple[DType, bool]]) -> None:
        for x in loops.children(e):
            self.expr(x, scope)
        good = True
        match e:
            case Ref(name, dtype):
                good = name in scope and scope[name][0] is dtype
            case Dim(index):
                good = 0 <= index < self.kernel.n_dims
            case Load(name, index, dtype):
                b = self.buffers.get(name)
                good = b is not None and widened(b.dtype) is dtype and index.dtype is DType.I64
            case Apply(op, args, dtype):
                wanted = DType.BOOL if op in PREDICATES else args[0].dtype
                wanted = reread_as(op) or wanted
                good = op in OPS and dtype is wanted and len({a.dtype for a in args}) == 1
            case Select(c, t, o):
                good = c.dtype is DType.BOOL and t.dtype is o.dtype
            case Cast(_, dtype):
                good = widened(dtype) is dtype
        if not good:
            raise self.fail(f"bad expression {print_expr(e)}")
