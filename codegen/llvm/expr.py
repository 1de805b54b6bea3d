"""Spell a `loops.Expr` for any number of lanes: what the loop emitter and the templates' epilogues share."""
from __future__ import annotations

from collections.abc import Callable

from lepton.codegen import loops
from lepton.codegen.llvm.arith import Arith
from lepton.codegen.llvm.builder import Function, Val, element_of, lanes_of, literal
from lepton.codegen.llvm.convert import cast, register_type
from lepton.codegen.target import Target
from lepton.ir.types import DType

Lookup = Callable[[loops.Ref], Val]
LoadFn = Callable[[loops.Load], Val]


def broadcast(f: Function, value: Val, lanes: int) -> Val:
    """`value` in every lane (as it is if it has lanes); literals stay literals."""
    if lanes == 1 or lanes_of(value.type) > 1:
        return value
    if not value.text.startswith("%"):
        text = {"true": "1", "false": "0"}.get(value.text, value.text)
        return Val(f"<{lanes} x {value.type}>", f"splat ({value.type} {text})")
    return f.splat(value, lanes)


class ScalarEmitter:
    """Emits expressions into a function. A result is a scalar where it is the same in all lanes, else a vector.

    `lookup` gives the value of a Ref, `load` that of a Load, both as a scalar or as a vector of `lanes` lanes, in the
    register type of the dtype (see convert.py: bool is i1, halves are float). A node that is shared (the same object,
    not an equal one) is emitted once; make one emitter per straight piece of code."""

    def __init__(self, f: Function, target: Target, lookup: Lookup, load: LoadFn) -> None:
        self.f, self.target = f, target
        self.lookup, self.load = lookup, load
        self.arith = Arith(f, target)
        self._done: dict[int, tuple[loops.Expr, Val]] = {}

    def emit(self, e: loops.Expr) -> Val:
        if id(e) in self._done:
            return self._done[id(e)][1]
        value = self.spell(e)
        if not isinstance(e, loops.Ref):
            self._done[id(e)] = e, value
        return value

    def spell(self, e: loops.Expr) -> Val:
        match e:
            case loops.Const(value, dtype):
                return literal(register_type(dtype), value)
            case loops.Ref():
                return self.lookup(e)
            case loops.Load():
                return self.load(e)
            case loops.Dim(index):
                return self.f.dim(index)
            case loops.Select(condition, then, otherwise):
                return self._select(*self._aligned(self.emit(condition), self.emit(then), self.emit(otherwise)))
            case loops.Cast(value, dtype):
                return cast(self.f, self.emit(value), value.dtype, dtype)
            case loops.Apply(op, (x,), dtype) if op.startswith("bitcast_"):
                raw = self.emit(x)
                return self.f.convert("bitcast", raw, register_type(dtype, lanes_of(raw.type)))
            case loops.Apply(op, args, _):
                return self.arith.apply(op, self._aligned(*map(self.emit, args)), args[0].dtype)
        raise TypeError(e)

    def _select(self, condition: Val, then: Val, otherwise: Val) -> Val:
        return self.f.select(condition, then, otherwise)

    def _aligned(self, *values: Val) -> list[Val]:
        lanes = max(lanes_of(v.type) for v in values)
        return [broadcast(self.f, v, lanes) for v in values]


def emit_expr(f: Function, target: Target, e: loops.Expr, lanes: int, lookup: Lookup, load: LoadFn) -> Val:
    """`e` for `lanes` lanes, e.g. a fused epilogue on one accumulator vector. Always a vector of `lanes` lanes."""
    return broadcast(f, ScalarEmitter(f, target, lookup, load).emit(e), lanes)


def dtype_lanes(target: Target, dtypes: set[DType]) -> int:
    """How many lanes suit a loop over these types: those of its narrowest type of 4 bytes or more, or, where all are
    narrower, of the widest. Wider types then take several registers, narrower ones a part of one."""
    widths = {register_bytes(d) for d in dtypes} or {4}
    wide = [w for w in widths if w >= 4]
    return max(1, target.vector_bytes // (min(wide) if wide else max(widths)))


def register_bytes(dtype: DType) -> int:
    """Bytes a value takes in a register; bool goes by what it is compared from."""
    name = element_of(register_type(dtype))
    return {"float": 4, "double": 8, "i1": 1}.get(name) or int(name[1:]) // 8
