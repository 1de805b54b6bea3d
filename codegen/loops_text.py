"""Loop kernels as text, and back. One statement a line, blocks by indentation:

    kernel k(x: f32, y: f32 written, tmp: f32 scratch 0) dims 1
      tasks t
        vector i < d0
          let v = add(x[add(t, i)], 1.5:f32)
          y[i] = exp(v)

References to names need no type: a loop variable is i64, a let or var has its value's dtype, a load its buffer's.
"""
from __future__ import annotations

import ast
from collections.abc import Iterator

from lepton.codegen.llvm.arith import reread_as
from lepton.codegen.loops import (
    Apply,
    Buffer,
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
from lepton.ir.diagnostics import ParseError
from lepton.ir.types import DType, split_commas

COMPARISONS = frozenset({"equal", "less", "less_equal", "greater", "greater_equal", "is_nan"})


def print_kernel(kernel: Kernel) -> str:
    """The kernel as text; `parse_kernel` gives an equal kernel back."""
    heads = []
    for b in kernel.buffers:
        where = f" scratch {b.scratch}" if b.scratch is not None else ""
        heads.append(f"{b.name}: {b.dtype.value}{' written' if b.written else ''}{where}")
    lines = [f"kernel {kernel.name}({', '.join(heads)}) dims {kernel.n_dims}"]
    lines += [f"  {line}" for line in _block(kernel.body)]
    return "\n".join(lines) + "\n"


def _block(body: tuple[Stmt, ...]) -> Iterator[str]:
    for s in body:
        inner: tuple[Stmt, ...] = ()
        match s:
            case Let(name, value):
                yield f"let {name} = {print_expr(value)}"
            case Var(name, value):
                yield f"var {name} = {print_expr(value)}"
            case Update(name, op, value):
                yield f"{name} {op}= {print_expr(value)}"
            case Store(buffer, index, value):
                yield f"{buffer}[{print_expr(index)}] = {print_expr(value)}"
            case For(name, _, inner, LoopKind.TASKS):
                yield f"tasks {name}"
            case For(name, extent, inner, kind):
                yield f"{kind.value} {name} < {print_expr(extent)}"
            case If(condition, inner, _):
                yield f"if {print_expr(condition)}"
        yield from (f"  {line}" for line in _block(inner))
        if isinstance(s, If) and s.otherwise:
            yield "else"
            yield from (f"  {line}" for line in _block(s.otherwise))


def print_expr(e: Expr) -> str:
    match e:
        case Const(value, DType.I64):
            return str(value)
        case Const(value, dtype):
            return f"{value!r}:{dtype.value}"
        case Ref(name):
            return name
        case Dim(index):
            return f"d{index}"
        case Load(buffer, index):
            return f"{buffer}[{print_expr(index)}]"
        case Apply(op, args):
            return f"{op}({', '.join(map(print_expr, args))})"
        case Select(c, t, o):
            return f"select({print_expr(c)}, {print_expr(t)}, {print_expr(o)})"
        case Cast(value, dtype):
            return f"{dtype.value}({print_expr(value)})"
    raise TypeError(e)


def parse_kernel(text: str) -> Kernel:
    """The inverse of `print_kernel`. Raises ParseError naming the line."""
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    parser = _Parser(lines)
    return parser.kernel()


class _Parser:
    def __init__(self, lines: list[tuple[int, str]]) -> None:
        self.lines, self.at = lines, 0
        self.buffers: dict[str, Buffer] = {}
        self.names: dict[str, DType] = {}

    def fail(self, what: str) -> ParseError:
        number, line = self.lines[min(self.at, len(self.lines) - 1)]
        return ParseError(f"<loops>:{number}: {what}: {line.strip()!r}")

    def kernel(self) -> Kernel:
        head = self.lines[0][1].strip()
        if not head.startswith("kernel ") or ") dims " not in head:
            raise self.fail("not a kernel's head")
        name, _, rest = head.removeprefix("kernel ").partition("(")
        operands, _, dims = rest.rpartition(") dims ")
        for part in split_commas(operands) if operands else ():
            label, _, kind = part.strip().partition(": ")
            words = kind.split()
            scratch = int(words[-1]) if "scratch" in words else None
            self.buffers[label] = Buffer(label, DType(words[0]), "written" in words, scratch)
        self.at = 1
        return Kernel(name, tuple(self.buffers.values()), int(dims), self.block(1))

    def block(self, depth: int) -> tuple[Stmt, ...]:
        found: list[Stmt] = []
        while self.at < len(self.lines):
            line = self.lines[self.at][1]
            indent = (len(line) - len(line.lstrip())) // 2
            if indent < depth or line.strip() == "else":
                break
            if indent > depth:
                raise self.fail("unexpected indentation")
            found.append(self.statement(line.strip(), depth))
        return tuple(found)

    def statement(self, line: str, depth: int) -> Stmt:
        word, _, rest = line.partition(" ")
        if word in ("tasks", "serial", "vector", "unroll"):
            name, _, extent = rest.partition(" < ")
            size: Expr = Const(0, DType.I64) if word == "tasks" else self.expr(extent)
            self.names[name] = DType.I64
            self.at += 1
            return For(name, size, self.block(depth + 1), LoopKind(word))
        if word == "if":
            condition = self.expr(rest)
            self.at += 1
            then, otherwise = self.block(depth + 1), tuple[Stmt, ...]()
            if self.at < len(self.lines) and self.lines[self.at][1].strip() == "else":
                self.at += 1
                otherwise = self.block(depth + 1)
            return If(condition, then, otherwise)
        target, equals, text = line.partition("= ")
        if not equals:
            raise self.fail("not a statement")
        value = self.expr(text)
        self.at += 1
        if word in ("let", "var"):
            name = target.removeprefix(word).strip()
            self.names[name] = value.dtype
            return Let(name, value) if word == "let" else Var(name, value)
        if target.strip().endswith("]"):
            buffer, _, index = target.strip()[:-1].partition("[")
            self.at -= 1
            place = self.expr(index)
            self.at += 1
            return Store(buffer, place, value)
        name, op = target.split()
        return Update(name, op, value)

    def expr(self, text: str) -> Expr:
        text = text.strip()
        if text.endswith(")"):
            return self.call(text)
        if text.endswith("]"):
            name, _, index = text[:-1].partition("[")
            if name not in self.buffers:
                raise self.fail(f"no buffer {name!r}")
            dtype = self.buffers[name].dtype
            return Load(name, self.expr(index), DType.F32 if dtype in (DType.F16, DType.BF16) else dtype)
        if text in self.names:
            return Ref(text, self.names[text])
        if text[:1] == "d" and text[1:].isdigit():
            return Dim(int(text[1:]))
        number, _, dtype_name = text.partition(":")
        try:
            dtype = DType(dtype_name or "i64")
            return Const(_number(number), dtype)
        except ValueError:
            raise self.fail(f"unknown {text!r} in") from None

    def call(self, text: str) -> Expr:
        name, _, inside = text[:-1].partition("(")
        args = tuple(self.expr(a) for a in split_commas(inside))
        if name == "select":
            return Select(*args)
        if name in _DTYPES:
            return Cast(args[0], _DTYPES[name])
        dtype = DType.BOOL if name in COMPARISONS else args[0].dtype
        return Apply(name, args, reread_as(name) or dtype)


_DTYPES = {d.value: d for d in DType}


def _number(text: str) -> float | int | bool:
    if text in ("inf", "-inf", "nan"):
        return float(text)
    value = ast.literal_eval(text)
    if isinstance(value, bool | int | float):
        return value
    raise ValueError(text)
