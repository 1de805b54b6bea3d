"""LLVM IR as text. llvmlite's own builder lacks bfloat, string attributes and vector fma; text has them all.

A `Val` is an SSA value or a constant with its LLVM type. Integer arithmetic on Python ints folds here, so a kernel with
static sizes carries constants and one with dynamic sizes carries SSA values through the same code.
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from lepton.ir.types import DType

KERNEL_ARGS = (("ptr", "bufs"), ("ptr", "dims"), ("ptr", "scratch"), ("i64", "lo"), ("i64", "hi"))


@dataclass(frozen=True, slots=True)
class Val:
    """`type text`, as LLVM writes operands: Val("i64", "%t3"), Val("<8 x float>", "zeroinitializer")."""

    type: str
    text: str

    def __str__(self) -> str:
        return f"{self.type} {self.text}"


Int: TypeAlias = "int | Val"  # an i64: known now, or when the kernel runs


def vec(lanes: int, element: str) -> str:
    """The vector type; one lane is the scalar."""
    return element if lanes == 1 else f"<{lanes} x {element}>"


def lanes_of(type: str) -> int:
    return int(type[1:].split(" x ")[0]) if type[0] == "<" else 1


def element_of(type: str) -> str:
    return type[1:-1].split(" x ")[1] if type[0] == "<" else type


def f32(value: float) -> str:
    """An exact float literal (LLVM spells floats as the double of the same value, in hex)."""
    with np.errstate(over="ignore"):
        return f"0x{struct.unpack('<Q', struct.pack('<d', float(np.float32(value))))[0]:016X}"


def f64(value: float) -> str:
    return f"0x{struct.unpack('<Q', struct.pack('<d', float(value)))[0]:016X}"


def literal(type: str, value: float | int) -> Val:
    """A constant of a scalar or vector type, all lanes equal."""
    element = element_of(type)
    match element:
        case "float":
            text = f32(value)
        case "double":
            text = f64(value)
        case "half" | "bfloat":
            if value != 0:
                raise ValueError("half types are computed in float")
            text = "0xH0000" if element == "half" else "0xR0000"
        case "ptr":
            text = "null"
        case _:
            text = str(int(value))
    return Val(type, text if element == type else f"splat ({element} {text})")


def mangle(type: str) -> str:
    """How intrinsics spell a type: v16f32, f32, v8i64, p0."""
    names = {"float": "f32", "double": "f64", "half": "f16", "bfloat": "bf16", "ptr": "p0"}
    element = names.get(element_of(type), element_of(type))
    return element if lanes_of(type) == 1 else f"v{lanes_of(type)}{element}"


class Module:
    """One LLVM module under construction. `attributes` end every function's head."""

    def __init__(self, attributes: str = "nounwind") -> None:
        self.attributes = attributes
        self.functions: dict[str, Function] = {}
        self.declarations: dict[str, str] = {}
        self.globals: dict[str, str] = {}

    def function(self, name: str, args: Sequence[tuple[str, str]], *, internal: bool = False, result: str = "void",
                 attributes: str = "") -> Function:
        """A new function; `args` are (type with attributes, name)."""
        if name in self.functions:
            raise ValueError(f"function {name!r} is defined twice")
        linkage = "internal" if internal else "hidden"
        head = ", ".join(f"{t} %{n}" for t, n in args)
        function = Function(self, f"define {linkage} {result} @{name}({head}) {self.attributes} {attributes}".rstrip())
        self.functions[name] = function
        return function

    def kernel(self, name: str) -> Function:
        """A new function with the kernel ABI; arguments are %bufs %dims %scratch %lo %hi."""
        types = ["ptr noalias readonly", "ptr noalias readonly", "ptr noalias", "i64", "i64"]
        return self.function(name, [(t, n) for t, (_, n) in zip(types, KERNEL_ARGS, strict=True)])

    def constant(self, name: str, definition: str) -> Val:
        """A private global, e.g. constant("table", "[4 x float] [...]"). Same name, same content."""
        self.globals[name] = f"@{name} = private unnamed_addr constant {definition}, align 64"
        return Val("ptr", f"@{name}")

    def __str__(self) -> str:
        declared = [d for n, d in sorted(self.declarations.items()) if n not in self.functions]
        return "\n".join([*self.globals.values(), *declared, "", *map(str, self.functions.values())])


class Function:
    """Appends instructions; every method that makes a value returns it."""

    def __init__(self, module: Module, head: str) -> None:
        self.module, self.head = module, head
        self.lines: list[str] = []
        self.block = "entry"
        self.halves: dict[str, tuple[DType, Val]] = {}   # rounded values: what they are in memory
        self._values = 0
        self._labels = 0

    def __str__(self) -> str:
        return "\n".join([self.head + " {", "entry:", *self.lines, "  ret void" if not self._returns else "", "}", ""])

    _returns = False

    # --- raw ---
    def emit(self, text: str) -> None:
        self.lines.append("  " + text)

    def value(self, type: str, expression: str) -> Val:
        self._values += 1
        name = f"%v{self._values}"
        self.emit(f"{name} = {expression}")
        return Val(type, name)

    def ret(self, value: Val) -> None:
        self._returns = True
        self.emit(f"ret {value}")

    def new_label(self, stem: str) -> str:
        self._labels += 1
        return f"{stem}{self._labels}"

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")
        self.block = name

    def branch(self, target: str) -> None:
        self.emit(f"br label %{target}")

    def branch_if(self, condition: Val, then: str, otherwise: str) -> None:
        self.emit(f"br {condition}, label %{then}, label %{otherwise}")

    # --- integers that may be known ---
    def i64(self, value: Int) -> Val:
        return Val("i64", str(value)) if isinstance(value, int) else value

    def add(self, a: Int, b: Int) -> Int:
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        if a == 0 or b == 0:
            return b if a == 0 else a
        return self.value("i64", f"add i64 {self.i64(a).text}, {self.i64(b).text}")

    def sub(self, a: Int, b: Int) -> Int:
        if isinstance(a, int) and isinstance(b, int):
            return a - b
        return a if b == 0 else self.value("i64", f"sub i64 {self.i64(a).text}, {self.i64(b).text}")

    def mul(self, a: Int, b: Int) -> Int:
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        if a == 0 or b == 0:
            return 0
        if a == 1 or b == 1:
            return b if a == 1 else a
        return self.value("i64", f"mul i64 {self.i64(a).text}, {self.i64(b).text}")

    def div(self, a: Int, b: Int) -> Int:
        """Rounded down; a >= 0, b > 0."""
        if isinstance(a, int) and isinstance(b, int):
            return a // b
        return a if b == 1 else self.value("i64", f"udiv i64 {self.i64(a).text}, {self.i64(b).text}")

    def rem(self, a: Int, b: Int) -> Int:
        """a >= 0, b > 0."""
        if isinstance(a, int) and isinstance(b, int):
            return a % b
        return 0 if b == 1 else self.value("i64", f"urem i64 {self.i64(a).text}, {self.i64(b).text}")

    def min(self, a: Int, b: Int) -> Int:
        if isinstance(a, int) and isinstance(b, int):
            return min(a, b)
        return self.call("i64", "llvm.smin.i64", [self.i64(a), self.i64(b)])

    def max(self, a: Int, b: Int) -> Int:
        if isinstance(a, int) and isinstance(b, int):
            return max(a, b)
        return self.call("i64", "llvm.smax.i64", [self.i64(a), self.i64(b)])

    # --- memory ---
    def gep(self, pointer: Val, offset: Int) -> Val:
        """pointer + offset bytes."""
        if isinstance(offset, int) and offset == 0:
            return pointer
        return self.value("ptr", f"getelementptr inbounds i8, ptr {pointer.text}, i64 {self.i64(offset).text}")

    def load(self, type: str, pointer: Val, offset: Int = 0, align: int = 1) -> Val:
        return self.value(type, f"load {type}, {self.gep(pointer, offset)}, align {align}")

    def store(self, value: Val, pointer: Val, offset: Int = 0, align: int = 1) -> None:
        self.emit(f"store {value}, {self.gep(pointer, offset)}, align {align}")

    def masked_load(self, type: str, pointer: Val, mask: Val, align: int = 1) -> Val:
        """Lanes whose mask bit is clear are zero and their memory is not read."""
        name = f"llvm.masked.load.{mangle(type)}.p0"
        self.module.declarations[name] = f"declare {type} @{name}(ptr, {mask.type}, {type})"
        return self.value(type, f"call {type} @{name}(ptr align {align} {pointer.text}, {mask}, {literal(type, 0)})")

    def masked_store(self, value: Val, pointer: Val, mask: Val, align: int = 1) -> None:
        """Memory of lanes whose mask bit is clear is not touched.

        One lane that is known now is stored by itself: LLVM stores such a lane of a truncation with the width it had
        before, past the end of it."""
        known = [part.split()[-1] in ("1", "true") for part in mask.text.strip("<>").split(",")]
        if mask.text.startswith("<") and sum(known) == 1:
            lane, element = known.index(True), element_of(value.type)
            one = self.value(element, f"extractelement {value}, i64 {lane}")
            place = self.value("ptr", f"getelementptr {element}, ptr {pointer.text}, i64 {lane}")
            self.emit(f"store {one}, {place}, align {align}")
            return
        name = f"llvm.masked.store.{mangle(value.type)}.p0"
        self.module.declarations[name] = f"declare void @{name}({value.type}, ptr, {mask.type})"
        self.emit(f"call void @{name}({value}, ptr align {align} {pointer.text}, {mask})")

    def buffer(self, index: int) -> Val:
        """bufs[index] of the kernel ABI."""
        return self.load("ptr", Val("ptr", "%bufs"), 8 * index, 8)

    def dim(self, index: int) -> Val:
        """dims[index] of the kernel ABI."""
        return self.load("i64", Val("ptr", "%dims"), 8 * index, 8)

    # --- values ---
    def op(self, name: str, a: Val, b: Val) -> Val:
        """A binary instruction: fadd, fmul, and, shl …"""
        return self.value(a.type, f"{name} {a.type} {a.text}, {b.text}")

    def compare(self, kind: str, a: Val, b: Val) -> Val:
        """kind: "fcmp olt", "icmp slt" …; an i1 (vector)."""
        return self.value(vec(lanes_of(a.type), "i1"), f"{kind} {a.type} {a.text}, {b.text}")

    def select(self, condition: Val, a: Val, b: Val) -> Val:
        return self.value(a.type, f"select {condition}, {a}, {b}")

    def convert(self, name: str, a: Val, type: str) -> Val:
        """sext, zext, trunc, sitofp, fptosi, fpext, bitcast …"""
        return self.value(type, f"{name} {a} to {type}")

    def splat(self, scalar: Val, lanes: int) -> Val:
        if lanes == 1:
            return scalar
        type = vec(lanes, scalar.type)
        one = self.value(type, f"insertelement {type} poison, {scalar}, i64 0")
        return self.value(type, f"shufflevector {one}, {type} poison, <{lanes} x i32> zeroinitializer")

    def call(self, result: str, name: str, args: Sequence[Val], *, immediates: Sequence[int] = ()) -> Val:
        """Call a function or intrinsic, declaring it; `immediates` are indices of immarg arguments."""
        self.module.declarations[name] = f"declare {result} @{name}({', '.join(a.type for a in args)})"
        text = f"call {result} @{name}({', '.join(map(str, args))})"
        if result == "void":
            self.emit(text)
            return Val("void", "")
        return self.value(result, text)

    def intrinsic(self, name: str, *args: Val) -> Val:
        """An overloaded intrinsic on one type: intrinsic("llvm.sqrt", x)."""
        return self.call(args[0].type, f"{name}.{mangle(args[0].type)}", args)

    # --- control ---
    def loop(self, count: Int, body: Callable[[Int, list[Val]], Sequence[Val] | None], carried: Sequence[Val] = (),
             *, start: Int = 0, step: int = 1) -> list[Val]:
        """for i in range(start, count, step); `body(i, carried)` gives the carried values of the next turn.

        Tested at the top: zero turns are fine. A loop of at most one known turn is no loop at all."""
        if isinstance(count, int) and isinstance(start, int):
            if count <= start:
                return list(carried)
            if start + step >= count:
                return list(body(start, list(carried)) or [])
        known = isinstance(count, int) and isinstance(start, int)
        before, head, done = self.block, self.new_label("loop"), self.new_label("done")
        if not known:
            enter = self.compare("icmp slt", self.i64(start), self.i64(count))
            self.branch_if(enter, head, done)
        else:
            self.branch(head)
        self.label(head)
        place = len(self.lines)
        self._values += 1
        index = Val("i64", f"%i{self._values}")
        phis = [Val(c.type, f"%p{self._values}_{n}") for n, c in enumerate(carried)]
        results = list(body(index, list(phis)) or [])
        following = self.value("i64", f"add nuw nsw i64 {index.text}, {step}")
        again = self.compare("icmp slt", following, self.i64(count))
        latch = self.block
        self.branch_if(again, head, done)
        rows = [f"  {index.text} = phi i64 [ {self.i64(start).text}, %{before} ], [ {following.text}, %{latch} ]"]
        rows += [f"  {p.text} = phi {p.type} [ {c.text}, %{before} ], [ {r.text}, %{latch} ]"
                 for p, c, r in zip(phis, carried, results, strict=True)]
        self.lines[place:place] = rows
        self.label(done)
        if known:
            return results
        return [self.value(c.type, f"phi {c.type} [ {c.text}, %{before} ], [ {r.text}, %{latch} ]")
                for c, r in zip(carried, results, strict=True)]

    def when(self, condition: Val, then: Callable[[], Sequence[Val]], otherwise: Sequence[Val] = ()) -> list[Val]:
        """if condition: values of `then()` else `otherwise`."""
        before, yes, done = self.block, self.new_label("then"), self.new_label("end")
        self.branch_if(condition, yes, done)
        self.label(yes)
        results = list(then())
        latch = self.block
        self.branch(done)
        self.label(done)
        return [self.value(r.type, f"phi {r.type} [ {o.text}, %{before} ], [ {r.text}, %{latch} ]")
                for r, o in zip(results, otherwise, strict=True)]
