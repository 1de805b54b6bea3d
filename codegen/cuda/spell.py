"""Loop kernels as CUDA C: which threads run what.

A kernel is spelled in one of two ways:

    THREAD   a task is one thread's. VECTOR loops are plain loops. For tasks without wide loops inside.
    BLOCK    a task is a block's. All threads run the statements outside VECTOR loops alike; the turns of a VECTOR loop
             are dealt out to them, its accumulators are combined at its end. A store outside is one thread's.

Memory where the order of accesses counts (see `ordered`) needs barriers: around each VECTOR loop and each single store
that touches it. All threads reach every barrier, as what stands outside VECTOR loops depends on nothing that differs
among them.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from lepton.codegen import loops
from lepton.codegen.cuda.ctext import MEMORY, apply, c_type, expr, from_memory, literal, to_memory
from lepton.codegen.loops import Apply, Const, For, If, Let, Load, LoopKind, Ref, Stmt, Store, Update, Var
from lepton.ir.dims import Dim
from lepton.ir.types import DType

WARP = 32
REDUCE_ROOM = 33 * 8           # bytes of shared memory that lp_reduce needs
SHARED_LIMIT = 48 * 1024 - 512  # what every GPU grants without being asked
LOCAL_LIMIT = 512              # bytes of scratch that a thread may hold by itself
NARROW_LOOP = 8                # VECTOR loops up to here are one thread's work


class Scheme(Enum):
    THREAD = "thread"
    BLOCK = "block"


class ScratchIn(Enum):
    """Where a kernel's scratch memory lies."""

    NONE = "none"
    LOCAL = "local"      # per thread, in its own frame
    SHARED = "shared"    # per block
    GLOBAL = "global"    # per block, in the workspace: blocks x bytes


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a kernel is launched."""

    threads: int                         # of a block; a multiple of 32
    tasks_per_block: int                 # 1, or as many as threads
    shared_bytes: int                    # dynamic shared memory
    scratch: ScratchIn = ScratchIn.NONE
    max_blocks: int = 0                  # of a grid; 0: the runtime decides


@dataclass(frozen=True, slots=True)
class Spelled:
    text: str
    geometry: Geometry


def spell(kernel: loops.Kernel, symbol: str, scratch: Dim = 0) -> Spelled:
    """The kernel as a `__global__` function:
    symbol(operand pointers…, unsigned char *scratch, i64 scratch_stride, i64 sizes…, i64 tasks)."""
    kernel = loops.Kernel(kernel.name, kernel.buffers, kernel.n_dims, flattened(kernel))
    scheme = choose(kernel, scratch)
    place = _scratch_place(scheme, scratch)
    threads = _threads(kernel) if scheme is Scheme.BLOCK else 128
    shared = REDUCE_ROOM if scheme is Scheme.BLOCK else 0
    if place is ScratchIn.SHARED:
        assert isinstance(scratch, int)
        shared = -(-shared // 16) * 16 + scratch
    geometry = Geometry(threads, threads if scheme is Scheme.THREAD else 1, shared, place)
    return Spelled(_Speller(kernel, scheme, place, scratch).run(symbol, geometry), geometry)


def choose(kernel: loops.Kernel, scratch: Dim) -> Scheme:
    """How the work is dealt out."""
    wide = [s for s in loops.statements(kernel.body) if isinstance(s, For) and s.kind is LoopKind.VECTOR
            and not (isinstance(s.extent, Const) and s.extent.value <= NARROW_LOOP)]
    fits = isinstance(scratch, int) and scratch <= LOCAL_LIMIT
    return Scheme.THREAD if not wide and fits else Scheme.BLOCK


def _scratch_place(scheme: Scheme, scratch: Dim) -> ScratchIn:
    if scratch == 0:
        return ScratchIn.NONE
    if scheme is Scheme.THREAD:
        return ScratchIn.LOCAL
    fits = isinstance(scratch, int) and scratch + REDUCE_ROOM + 16 <= SHARED_LIMIT
    return ScratchIn.SHARED if fits else ScratchIn.GLOBAL


def _threads(kernel: loops.Kernel) -> int:
    """As many as the widest VECTOR loop keeps busy, up to 256."""
    extents = [s.extent.value if isinstance(s.extent, Const) else 128 for s in loops.statements(kernel.body)
               if isinstance(s, For) and s.kind is LoopKind.VECTOR]
    widest = max((int(e) for e in extents), default=WARP)
    return min(256, max(WARP, -(-widest // WARP) * WARP))


# --- perfect nests become one VECTOR loop ---------------------------------------------------------


def flattened(kernel: loops.Kernel) -> tuple[Stmt, ...]:
    """SERIAL loops whose turns are as independent as those of the one VECTOR loop inside are merged into it."""
    both = ordered(kernel)
    return tuple(_flat(s, both) for s in kernel.body)


def _flat(s: Stmt, both: frozenset[str]) -> Stmt:
    match s:
        case For(var, extent, body, kind):
            body = tuple(_flat(x, both) for x in body)
            if kind is LoopKind.SERIAL and len(body) == 1 and _independent(body[0], both, var):
                inner = body[0]
                assert isinstance(inner, For)
                both_at = Ref(f"{var}_{inner.var}", DType.I64)
                lets = (Let(var, Apply("floordiv", (both_at, inner.extent), DType.I64)),
                        Let(inner.var, Apply("floormod", (both_at, inner.extent), DType.I64)))
                return For(both_at.name, loops.mul(extent, inner.extent), (*lets, *inner.body), LoopKind.VECTOR)
            return For(var, extent, body, kind)
        case If(condition, then, otherwise):
            return If(condition, tuple(_flat(x, both) for x in then), tuple(_flat(x, both) for x in otherwise))
    return s


def _independent(s: Stmt, both: frozenset[str], outer: str) -> bool:
    """Whether `s` is a VECTOR loop that only stores to what the kernel does not read, in any order of turns."""
    if not isinstance(s, For) or s.kind is not LoopKind.VECTOR:
        return False
    if any(isinstance(e, Ref) and e.name == outer for e in loops.walk(s.extent)):
        return False
    inside = list(loops.statements(s.body))
    stored = {x.buffer for x in inside if isinstance(x, Store)}
    return not stored & both and not loops.updated(s.body)


def ordered(kernel: loops.Kernel) -> frozenset[str]:
    """The buffers for which the order of accesses counts: those that are loaded from and stored to, stored to by
    several statements, or stored to where loaded indices say, perhaps twice at one place."""
    loaded, stored, again, scattered, from_memory = set[str](), set[str](), set[str](), set[str](), set[str]()
    for s in loops.statements(kernel.body):
        if isinstance(s, Let | Var | Update) and _reads(s.value, from_memory):
            from_memory.add(s.name)
        if isinstance(s, Store):
            (again if s.buffer in stored else stored).add(s.buffer)
            if _reads(s.index, from_memory):
                scattered.add(s.buffer)
        loaded |= {x.buffer for e in loops.expressions(s) for x in loops.walk(e) if isinstance(x, Load)}
    return frozenset((loaded & stored) | again | scattered)


def _reads(e: loops.Expr, names: set[str]) -> bool:
    """Whether `e` depends on memory; `names` do."""
    return any(isinstance(x, Load) or (isinstance(x, Ref) and x.name in names) for x in loops.walk(e))


def head(buffers: Sequence[loops.Buffer], n_dims: int, symbol: str, threads: int) -> list[str]:
    """The first lines of a kernel on these operands."""
    pointers = [f"{'' if b.written else 'const '}{MEMORY[b.dtype]} *{b.name}" for b in buffers if b.scratch is None]
    sizes = [f"i64 d{i}" for i in range(n_dims)]
    parameters = [*pointers, "unsigned char *scratch", "i64 scratch_stride", *sizes, "i64 tasks"]
    return [f"LP_KERNEL({threads}) {symbol}({', '.join(parameters)}) {{", "  lp_begin();"]


def text_of(buffers: Sequence[loops.Buffer], body: Sequence[Stmt],
            value: loops.Expr | None = None) -> tuple[list[str], str]:
    """A thread's statements, and an expression behind them; names begin with v_."""
    speller = _Speller(loops.Kernel("", tuple(buffers), 0, tuple(body)), Scheme.THREAD, ScratchIn.NONE, 0, depth=0)
    speller.block(body)
    return speller.lines, "" if value is None else speller.expr(value)


# --- text -----------------------------------------------------------------------------------------


@dataclass
class _Speller:
    kernel: loops.Kernel
    scheme: Scheme
    place: ScratchIn
    scratch: Dim
    lines: list[str] = field(default_factory=list)
    depth: int = 1
    inside: bool = False                                     # a VECTOR loop of the BLOCK scheme
    renamed: dict[str, str] = field(default_factory=dict)    # accumulators inside it
    types: dict[str, DType] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.buffers = {b.name: b for b in self.kernel.buffers}
        self.both = ordered(self.kernel)

    def run(self, symbol: str, geometry: Geometry) -> str:
        self.prologue()
        self.block(self.kernel.body)
        first = head(self.kernel.buffers, self.kernel.n_dims, symbol, geometry.threads)
        return "\n".join([*first, *self.lines, "}"]) + "\n"

    def prologue(self) -> None:
        if self.scheme is Scheme.BLOCK:
            self.say("LP_SHARED")
        match self.place:
            case ScratchIn.LOCAL:
                self.say(f"alignas(16) unsigned char lp_own[{self.scratch}];")
                base = "lp_own"
            case ScratchIn.SHARED:
                base = f"(lp_shared + {-(-REDUCE_ROOM // 16) * 16})"
            case _:
                base = "(scratch + LP_BLOCK * scratch_stride)"
        for b in self.kernel.buffers:
            if b.scratch is not None:
                name = MEMORY[b.dtype]
                self.say(f"{name} *{b.name} = ({name} *)({base} + {b.scratch});")

    def say(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    def expr(self, e: loops.Expr) -> str:
        return expr(e, self.load, self.name)

    def name(self, name: str) -> str:
        return self.renamed.get(name, f"v_{name}")

    def load(self, e: Load) -> str:
        return from_memory(f"{e.buffer}[{self.expr(e.index)}]", self.buffers[e.buffer].dtype)

    def block(self, body: Sequence[Stmt]) -> None:
        for s in body:
            self.statement(s)

    def nested(self, body: Sequence[Stmt]) -> None:
        self.depth += 1
        self.block(body)
        self.depth -= 1

    def statement(self, s: Stmt) -> None:
        match s:
            case Let(name, value):
                self.types[name] = value.dtype
                self.say(f"const {c_type(value.dtype)} {self.name(name)} = {self.expr(value)};")
            case Var(name, value):
                self.types[name] = value.dtype
                self.say(f"{c_type(value.dtype)} {self.name(name)} = {self.expr(value)};")
            case Update(name, op, value):
                now, new = self.name(name), self.expr(value)
                self.say(f"{now} = {new if op == 'set' else apply(op, [now, new], [value.dtype] * 2, value.dtype)};")
            case Store():
                self.store(s)
            case If(condition, then, otherwise):
                self.say(f"if ({self.expr(condition)}) {{")
                self.nested(then)
                if otherwise:
                    self.say("} else {")
                    self.nested(otherwise)
                self.say("}")
            case For():
                self.loop(s)

    def store(self, s: Store) -> None:
        text = f"{s.buffer}[{self.expr(s.index)}] = {to_memory(self.expr(s.value), self.buffers[s.buffer].dtype)};"
        if self.scheme is Scheme.THREAD or self.inside:
            self.say(text)
            return
        shared = s.buffer in self.both
        if shared:
            # The value may come from what is overwritten: all have read it before one writes.
            self.say("lp_sync();")
        self.say(f"if (LP_THREAD == 0) {text}")
        if shared:
            self.say("lp_sync();")

    def loop(self, s: For) -> None:
        var, block = self.name(s.var), self.scheme is Scheme.BLOCK
        if s.kind is LoopKind.TASKS:
            start, step = ("LP_BLOCK", "LP_BLOCKS") if block else (
                "LP_BLOCK * LP_THREADS + LP_THREAD", "LP_BLOCKS * LP_THREADS")
            self.say(f"for (i64 {var} = {start}; {var} < tasks; {var} += {step}) {{")
            self.nested(s.body)
            if block and self.both:
                self.say("  lp_sync();")
            self.say("}")
        elif s.kind is LoopKind.VECTOR and block:
            self.vector(s)
        else:
            if s.kind is LoopKind.UNROLL:
                self.say("LP_UNROLL")
            self.say(f"for (i64 {var} = 0, n = {self.expr(s.extent)}; {var} < n; ++{var}) {{")
            self.nested(s.body)
            self.say("}")

    def vector(self, s: For) -> None:
        touched = {x.buffer for x in loops.statements(s.body) if isinstance(x, Store)}
        touched |= {x.buffer for y in loops.statements(s.body) for e in loops.expressions(y) for x in loops.walk(e)
                    if isinstance(x, Load)}
        barrier = bool(touched & self.both)
        extent, var = self.expr(s.extent), self.name(s.var)
        own = {name: op for name, op in _accumulators(s).items()}
        if barrier:
            self.say("lp_sync();")
        self.say("{")
        self.depth += 1
        for name, op in own.items():
            neutral = loops.neutral(op, self.types[name])
            self.say(f"{c_type(self.types[name])} p_{name} = {literal(neutral.value, neutral.dtype)};")
        self.renamed.update({name: f"p_{name}" for name in own})
        self.inside = True
        self.say(f"for (i64 {var} = LP_THREAD, n = {extent}; {var} < n; {var} += LP_THREADS) {{")
        self.nested(s.body)
        self.say("}")
        self.inside = False
        for name, op in own.items():
            del self.renamed[name]
            self.combine(name, op)
        self.depth -= 1
        self.say("}")
        if barrier:
            self.say("lp_sync();")

    def combine(self, name: str, op: str) -> None:
        """The threads' shares of an accumulator, and what it held before."""
        dtype = self.types[name]
        t, neutral = c_type(dtype), loops.neutral(op, dtype)
        both = apply(op, ["x", "y"], [dtype, dtype], dtype)
        total = (f"lp_reduce<{t}>(p_{name}, {literal(neutral.value, dtype)}, lp_shared, "
                 f"[]({t} x, {t} y) {{ return {both}; }})")
        now = self.name(name)
        self.say(f"{now} = {apply(op, [now, total], [dtype, dtype], dtype)};")


def _accumulators(s: For) -> dict[str, str]:
    """The outer variables that a VECTOR loop updates, and by which op."""
    outer = loops.updated(s.body)
    return {x.name: x.op for x in loops.statements(s.body) if isinstance(x, Update) and x.name in outer}
