"""The one emitter of loop kernels: `loops.Kernel` -> an LLVM function with the kernel ABI.

Vectors are explicit. What does not change in a loop is computed before it; addresses are base pointer + invariant part
(advanced once per enclosing loop) + the loop's own term. Accumulators are phis.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lepton.codegen import loops
from lepton.codegen.llvm.affine import free_names, linear, terms, varies
from lepton.codegen.llvm.builder import Function, Int, Module, Val, lanes_of, vec
from lepton.codegen.llvm.convert import from_memory, memory_type, to_memory
from lepton.codegen.llvm.expr import ScalarEmitter, broadcast
from lepton.codegen.llvm.lanes import Lanes
from lepton.codegen.llvm.vector_loop import vector_loop
from lepton.codegen.loops import (
    Apply,
    Cast,
    Const,
    Dim,
    Expr,
    For,
    If,
    Let,
    Load,
    LoopKind,
    Ref,
    Select,
    Store,
    Update,
    Var,
)
from lepton.codegen.target import Target
from lepton.ir.types import DType


@dataclass(frozen=True, slots=True)
class LoopBody:
    """A kernel body that is a loop kernel (codegen.kernel.Body)."""

    kernel: loops.Kernel

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        spell(self.kernel, module, symbol, target)


def spell(kernel: loops.Kernel, module: Module, symbol: str, target: Target) -> None:
    """Add function `symbol` to the module."""
    Speller(kernel, module.kernel(symbol), target).run()


@dataclass
class Scope:
    """What is known in a block: values by name, and what was computed there already."""

    values: dict[str, Val] = field(default_factory=dict)
    memo: dict[object, Val] = field(default_factory=dict)


class Speller(ScalarEmitter):
    def __init__(self, kernel: loops.Kernel, f: Function, target: Target) -> None:
        super().__init__(f, target, self._lookup, self._load)
        self.kernel = kernel
        self.buffers = {b.name: b for b in kernel.buffers}
        self.readonly = {b.name for b in kernel.buffers if not b.written and b.scratch is None}
        self.scopes = [Scope()]
        self.depth: dict[str, int] = {}
        self.lets: dict[str, Expr] = {}
        self.counters: set[str] = set()        # loop variables: never negative
        self.variables: dict[str, Val] = {}    # the current value of each Var
        self.types: dict[str, DType] = {}
        self.lanes: Lanes | None = None
        self.pointers: dict[str, Val] = {}
        self.dims: list[Val] = []

    def run(self) -> None:
        position = 0
        for b in self.kernel.buffers:
            if b.scratch is None:
                self.pointers[b.name] = self.f.buffer(position)
                position += 1
            else:
                self.pointers[b.name] = self.f.gep(Val("ptr", "%scratch"), b.scratch)
        self.dims = [self.f.dim(i) for i in range(self.kernel.n_dims)]
        self.block(self.kernel.body)

    # --- expressions ---

    def emit(self, e: Expr) -> Val:
        if isinstance(e, Const | Ref | Dim) or not self._stable(e):
            return self.spell(e)
        for scope in reversed(self.scopes):
            if e in scope.memo:
                return scope.memo[e]
        value = self.scopes[-1].memo[e] = self.spell(e)
        return value

    def spell(self, e: Expr) -> Val:
        match e:
            case Dim(index):
                return self.dims[index]
            case Apply("floordiv" | "floormod" as op, (a, b), DType.I64) if self._never_negative(a):
                name = "udiv" if op == "floordiv" else "urem"
                return self.arith.apply(name, self._aligned(self.emit(a), self.emit(b)), DType.I64)
        return super().spell(e)

    def _stable(self, e: Expr) -> bool:
        """Whether `e` means the same wherever its names are in scope: it reads nothing that changes."""
        return not any((isinstance(x, Ref) and x.name in self.types)
                       or (isinstance(x, Load) and x.buffer not in self.readonly) for x in loops.walk(e))

    def _never_negative(self, e: Expr) -> bool:
        match e:
            case Const(value):
                return value >= 0
            case Ref(name):
                return name in self.counters or (name in self.lets and self._never_negative(self.lets[name]))
            case Apply("add" | "mul" | "floordiv" | "minimum" | "maximum", args):
                return all(map(self._never_negative, args))
            case Apply("floormod"):
                return True
            case Cast(value, DType.I64):
                return value.dtype.is_unsigned or (value.dtype is DType.I64 and self._never_negative(value))
        return False

    def _lookup(self, ref: Ref) -> Val:
        if ref.name in self.variables:
            return self.variables[ref.name]
        for scope in reversed(self.scopes):
            if ref.name in scope.values:
                return scope.values[ref.name]
        if self.lanes is None or self.lanes.var != ref.name:
            raise ValueError(f"{ref.name!r} is not bound in loop kernel {self.kernel.name!r}")
        steps = Val(vec(self.lanes.lanes, "i64"), "<" + ", ".join(f"i64 {i}" for i in range(self.lanes.lanes)) + ">")
        value = self.f.op("add", broadcast(self.f, self.lanes.base, self.lanes.lanes), steps)
        self.scopes[-1].values[ref.name] = value
        return value

    def _bind(self, name: str, value: Val) -> None:
        self.scopes[-1].values[name] = value
        self.depth[name] = len(self.scopes)

    # --- memory ---

    def _pointer(self, buffer: str, parts: Sequence[Expr]) -> Val:
        """The address of an element: terms are added from the outermost loop's inwards, sums of outer ones shared."""
        element = memory_type(self.buffers[buffer].dtype)
        levels: dict[int, list[Expr]] = {}
        constant = 0
        for term in parts:
            if isinstance(term, Const):
                constant += int(term.value)
            else:
                levels.setdefault(max((self.depth.get(n, 10**6) for n in free_names(term)), default=0), []).append(term)
        pointer, key = self.pointers[buffer], [buffer]
        for level in sorted(levels):
            key = [*key, *sorted(map(repr, levels[level]))]
            pointer = self._advance(tuple(key), pointer, element, levels[level])
        if constant:
            pointer = self._gep(element, pointer, Val("i64", str(constant)))
        return pointer

    def _advance(self, key: tuple[str, ...], pointer: Val, element: str, parts: list[Expr]) -> Val:
        for scope in reversed(self.scopes):
            if key in scope.memo:
                return scope.memo[key]
        offset = self.emit(parts[0])
        for part in parts[1:]:
            offset = self.f.op("add", offset, self.emit(part))
        result = self._gep(element, pointer, offset)
        if all(map(self._stable, parts)):
            self.scopes[-1].memo[key] = result
        return result

    def _gep(self, element: str, pointer: Val, index: Val) -> Val:
        return self.f.value("ptr", f"getelementptr {element}, {pointer}, {index}")

    def _varies(self, e: Expr) -> bool:
        return self.lanes is not None and self.lanes.lanes > 1 and varies(e, self.lanes.facts.varying)

    def _load(self, e: Load) -> Val:
        dtype = self.buffers[e.buffer].dtype
        if not self._varies(e.index):
            pointer = self._pointer(e.buffer, terms(e.index, self.lets))
            raw = self.f.load(memory_type(dtype), pointer, align=dtype.bytes)
            return from_memory(self.f, self.target, raw, dtype)
        assert self.lanes is not None
        form = linear(e.index, self.lanes.var, self.lanes.facts.varying, self.lets)
        if form is not None and form[0] == loops.i64(0):
            return self._load(Load(e.buffer, loops.i64(0), e.dtype)) if not form[1] else self._splat_load(e, form[1])
        if form is not None and form[0] == loops.i64(1):
            pointer = self._gep(memory_type(dtype), self._pointer(e.buffer, form[1]), self.lanes.base)
            return from_memory(self.f, self.target, self._load_vector(pointer, dtype), dtype)
        element = memory_type(dtype)
        raw = Val(vec(self.lanes.lanes, element), "poison")
        for lane, pointer in enumerate(self._lane_pointers(e.buffer, e.index)):
            one = self.f.load(element, pointer, align=dtype.bytes)
            raw = self.f.value(raw.type, f"insertelement {raw}, {one}, i64 {lane}")
        return from_memory(self.f, self.target, raw, dtype)

    def _splat_load(self, e: Load, parts: list[Expr]) -> Val:
        dtype = self.buffers[e.buffer].dtype
        raw = self.f.load(memory_type(dtype), self._pointer(e.buffer, parts), align=dtype.bytes)
        return from_memory(self.f, self.target, raw, dtype)

    def _load_vector(self, pointer: Val, dtype: DType) -> Val:
        assert self.lanes is not None
        type = memory_type(dtype, self.lanes.lanes)
        if self.lanes.mask is None:
            return self.f.load(type, pointer, align=dtype.bytes)
        return self.f.masked_load(type, pointer, self.lanes.mask, dtype.bytes)

    def _lane_pointers(self, buffer: str, index: Expr) -> list[Val]:
        assert self.lanes is not None
        element = memory_type(self.buffers[buffer].dtype)
        form = linear(index, self.lanes.var, self.lanes.facts.varying, self.lets)
        if form is None:
            wide = self.emit(index)
            lanes = [self.f.value("i64", f"extractelement {wide}, i64 {i}") for i in range(self.lanes.lanes)]
            return [self._gep(element, self.pointers[buffer], i) for i in lanes]
        step = self.emit(form[0])
        start = self._gep(element, self._pointer(buffer, form[1]), self.f.op("mul", self.lanes.base, step))
        offsets: list[Int] = [self.f.mul(i, int(step.text) if not step.text.startswith("%") else step)
                              for i in range(self.lanes.lanes)]
        return [self._gep(element, start, self.f.i64(o)) if o != 0 else start for o in offsets]

    def _store(self, s: Store) -> None:
        dtype = self.buffers[s.buffer].dtype
        value = to_memory(self.f, self.target, self.emit(s.value), dtype)
        if not self._varies(s.index):
            if lanes_of(value.type) > 1:
                raise ValueError(f"the lanes of a vector loop all store to one place of {s.buffer!r}")
            self.f.store(value, self._pointer(s.buffer, terms(s.index, self.lets)), align=dtype.bytes)
            return
        assert self.lanes is not None
        value = broadcast(self.f, value, self.lanes.lanes)
        form = linear(s.index, self.lanes.var, self.lanes.facts.varying, self.lets)
        if form is not None and form[0] == loops.i64(1):
            pointer = self._gep(memory_type(dtype), self._pointer(s.buffer, form[1]), self.lanes.base)
            self._store_vector(value, pointer, dtype)
            return
        for lane, pointer in enumerate(self._lane_pointers(s.buffer, s.index)):
            one = self.f.value(memory_type(dtype), f"extractelement {value}, i64 {lane}")
            self.f.store(one, pointer, align=dtype.bytes)

    def _store_vector(self, value: Val, pointer: Val, dtype: DType) -> None:
        assert self.lanes is not None
        if self.lanes.mask is None:
            self.f.store(value, pointer, align=dtype.bytes)
            return
        self.f.masked_store(value, pointer, self.lanes.mask, dtype.bytes)

    # --- statements ---

    def block(self, body: Sequence[loops.Stmt]) -> None:
        for s in body:
            match s:
                case Let(name, value):
                    if value.dtype is DType.I64:
                        self.lets[name] = value
                    self._bind(name, self.emit(value))
                case Var(name, value):
                    self.types[name] = value.dtype
                    self.depth[name] = len(self.scopes)
                    lanes = self.lanes.lanes if self.lanes else 1
                    self.variables[name] = broadcast(self.f, self.emit(value), lanes)
                case Update():
                    self._update(s)
                case Store():
                    self._store(s)
                case If():
                    self._if(s)
                case For():
                    self._for(s)

    def _update(self, s: Update) -> None:
        old = self.variables[s.name]
        value = broadcast(self.f, self.emit(s.value), lanes_of(old.type))
        if s.op != "set":
            value = self.arith.apply(s.op, [old, value], self.types[s.name])
            if self.lanes and self.lanes.mask and s.name in self.lanes.facts.accumulators:
                value = self.f.select(self.lanes.mask, value, old)
        self.variables[s.name] = value

    def _if(self, s: If) -> None:
        condition = self.emit(s.condition)
        if condition.text in ("0", "1"):
            self.block(s.then if condition.text == "1" else s.otherwise)
            return
        names = list(dict.fromkeys([*loops.updated(s.then), *loops.updated(s.otherwise)]))
        before = dict(self.variables)
        yes, no, done = (self.f.new_label(n) for n in ("then", "else", "end"))
        self.f.branch_if(condition, yes, no)
        rows = []
        for label, body in ((yes, s.then), (no, s.otherwise)):
            self.f.label(label)
            self.variables = dict(before)
            self.scopes.append(Scope())
            self.block(body)
            self.scopes.pop()
            rows.append((self.f.block, {n: self.variables[n] for n in names}))
            self.f.branch(done)
        self.f.label(done)
        self.variables = before
        for n in names:
            edges = ", ".join(f"[ {values[n].text}, %{block} ]" for block, values in rows)
            self.variables[n] = self.f.value(before[n].type, f"phi {before[n].type} {edges}")

    def _for(self, s: For) -> None:
        if s.kind is LoopKind.VECTOR and self.lanes is None:
            vector_loop(self, s)
            return
        if s.kind is LoopKind.TASKS:
            self.hoist(s)
            self.carry(s, Val("i64", "%lo"), Val("i64", "%hi"), 1)
            return
        count = self.extent(s)
        if s.kind is LoopKind.UNROLL:
            assert isinstance(count, int), "UNROLL needs a known extent"
            for i in range(count):
                self.turn(s, i, [])
            return
        self.hoist(s)
        self.carry(s, 0, count, 1)

    def extent(self, s: For) -> Int:
        value = self.emit(s.extent)
        return value if value.text.startswith("%") else int(value.text)

    def carry(self, s: For, start: Int, count: Int, step: int) -> None:
        """A loop whose updated variables are phis."""
        names = [n for n in loops.updated(s.body) if n in self.variables]
        results = self.f.loop(count, lambda i, values: self.turn(s, i, names, values),
                              [self.variables[n] for n in names], start=start, step=step)
        self.variables.update(zip(names, results, strict=True))

    def turn(self, s: For, index: Int, names: Sequence[str], values: Sequence[Val] = ()) -> list[Val]:
        """One turn of a loop's body; gives the values of the variables `names` after it."""
        self.scopes.append(Scope())
        self.variables.update(zip(names, values, strict=True))
        if self.lanes is not None and self.lanes.var == s.var:
            self.lanes = replace(self.lanes, base=self.f.i64(index))
        else:
            self._bind(s.var, self.f.i64(index))
        self.depth[s.var] = len(self.scopes)
        self.counters.add(s.var)
        self.block(s.body)
        self.scopes.pop()
        return [self.variables[n] for n in names]

    def hoist(self, s: For) -> None:
        """Compute before the loop what does not change in it."""
        # What varies across lanes has no one address: inside a VECTOR loop it stays where it is.
        across = self.lanes.facts.varying if self.lanes is not None else frozenset()
        inner = loops.bound(s.body) | {s.var} | across
        lets = self.lets | {x.name: x.value for x in loops.statements(s.body)
                            if isinstance(x, Let) and x.value.dtype is DType.I64}
        for inside in loops.statements(s.body):
            if isinstance(inside, Store):
                self._hoist_pointer(inside.buffer, inside.index, inner, lets)
            for e in loops.expressions(inside):
                self._hoist_expr(e, inner, lets)

    def _hoist_expr(self, e: Expr, inner: frozenset[str], lets: dict[str, Expr]) -> None:
        if isinstance(e, Load):
            self._hoist_pointer(e.buffer, e.index, inner, lets)
        elif isinstance(e, Apply | Select | Cast):
            names = free_names(e)
            if names & inner or not self._stable(e) or any(isinstance(x, Load) for x in loops.walk(e)):
                for child in loops.children(e):
                    self._hoist_expr(child, inner, lets)
            elif names:
                self.emit(e)

    def _hoist_pointer(self, buffer: str, index: Expr, inner: frozenset[str], lets: dict[str, Expr]) -> None:
        parts = terms(index, lets)
        ready = [t for t in parts if not isinstance(t, Const) and not free_names(t) & inner and self._stable(t)
                 and not any(isinstance(x, Load) for x in loops.walk(t))]
        if ready:
            self._pointer(buffer, ready)

