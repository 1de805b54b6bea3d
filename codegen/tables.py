"""Program -> the constant tables the runtime interprets (runtime_c/src/internal.h), as LLVM IR text.

The env: slot 0 holds 0, slot 1 holds 1, then constants, symbols and derived sizes as they are asked for. The derived
ones of a dynamic program are computed by a shape function, emitted here too.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence

from lepton.codegen.cuda.device import DeviceCode, rows
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.builder import Function, Int, Module, Val
from lepton.codegen.program import Buffer, GuardRow, HostCall, Program, Step, StepKind, Storage
from lepton.codegen.target import Target
from lepton.ir.core import Value
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.dims import Apply, Dim, Expr, Symbol, dim_min, product, sym, symbols
from lepton.ir.types import DType

# lepton_dtype of runtime_c/include/lepton.h
DTYPE_CODES: dict[DType, int] = {d: i for i, d in enumerate((
    DType.F32, DType.F64, DType.F16, DType.BF16, DType.I8, DType.I16, DType.I32, DType.I64, DType.U8, DType.U16,
    DType.U32, DType.U64, DType.BOOL, DType.STRING, DType.C64, DType.C128, DType.F8E4M3FN, DType.F8E4M3FNUZ,
    DType.F8E5M2, DType.F8E5M2FNUZ, DType.F8E8M0, DType.F4E2M1, DType.I4, DType.U4, DType.I2, DType.U2), 1)}
MAX_RANK = 16
LATE = 1 << 31  # LPT_SLOT_LATE

TYPES = """\
%lepton_port = type { ptr, i32, i32, [16 x i64], ptr }
%lpt_port_slots = type { [16 x i32] }
%lpt_buffer = type { i32, i32, i64, i32, i32, i32, i32 }
%lpt_operand = type { i32, i32 }
%lpt_step = type { ptr, ptr, i32, i32, i32, i32, i32, i32, i32, i32 }
%lpt_symbol = type { i32, i32, i32, i32, i64, i64 }
%lpt_guard = type { i32, i32, ptr }
%lpt_call_tensor = type { i32, i32, %lpt_port_slots }
%lpt_host_call = type { ptr, ptr, i64, ptr, ptr, i32, i32, i32, i32 }
%lepton_string = type { ptr, i64 }
%lpt_program = type { ptr, ptr, i64, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, \
ptr, i64, i64, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, ptr, ptr, i32, i32, i32 }
%lpt_cuda_image = type { ptr, i64, i32, i32 }
%lpt_cuda_kernel = type { ptr, i32, i32, i32, i32, i32, i32, i32, i32 }
%lpt_artifact_table = type { ptr, i64, ptr, i64 }
"""


def needed_tasks(kernel: Kernel) -> Dim:
    """The kernel's tasks, none where all that it writes has no elements: rows of nothing may be very many."""
    size = sum((product(v.tensor.shape) for v in kernel.writes), start=0)
    if isinstance(size, int):
        return kernel.tasks if size or not kernel.writes else 0
    known = {name for d in (kernel.tasks, *kernel.dims) for name in symbols(d)}
    return kernel.tasks * dim_min(1, size) if symbols(size) <= known else kernel.tasks


class Env:
    """Hands out slots for sizes; equal sizes share one, runs of sizes lie side by side."""

    def __init__(self) -> None:
        self.contents: list[Dim] = [0, 1]
        self._slots: dict[Dim, int] = {0: 0, 1: 1}
        self._runs: dict[tuple[Dim, ...], int] = {}

    def slot(self, dim: Dim) -> int:
        if dim not in self._slots:
            self._slots[dim] = len(self.contents)
            self.contents.append(dim)
        return self._slots[dim]

    def fresh(self, count: int) -> int:
        """The first of so many slots that hold 0, for nobody else."""
        self.contents += [0] * count
        return len(self.contents) - count

    def run(self, dims: tuple[Dim, ...]) -> int:
        """The first of len(dims) slots that hold them in order."""
        if not dims:
            return 0
        if dims not in self._runs:
            self._runs[dims] = len(self.contents)
            for i, d in enumerate(dims):
                self._slots.setdefault(d, len(self.contents) + i)
            self.contents += dims
        return self._runs[dims]


def artifact_table(module: Module, programs: Sequence[str], model_of: Sequence[int]) -> None:
    """Define `lpt_artifact`: the programs of an artifact, for each model best first, and which model each computes."""
    count = len(programs)
    rows, places = ", ".join(f"ptr @{p}" for p in programs), ", ".join(f"i32 {m}" for m in model_of)
    module.globals["lpt_programs"] = f"@lpt_programs = hidden constant [{count} x ptr] [{rows}]"
    module.globals["lpt_model_of"] = f"@lpt_model_of = hidden constant [{count} x i32] [{places}]"
    module.globals["lpt_artifact"] = (
        f"@lpt_artifact = hidden constant %lpt_artifact_table {{ ptr @lpt_programs, i64 {count}, "
        f"ptr @lpt_model_of, i64 {max(model_of) + 1} }}")


class Tables:
    """Writes one program's tables into a module. `kernels` gives the symbol of each step's code; a CUDA program's is
    `device`."""

    def __init__(self, module: Module, program: Program, target: Target, prefix: str,
                 device: DeviceCode | None = None) -> None:
        self.device = device
        self.module, self.program, self.target, self.prefix = module, program, target, prefix
        self.env = Env()
        self.late: set[str] = set()      # symbols that LPT_BIND steps give their sizes
        self.guards = [self._guard(g) for g in program.guards]
        self.buffer_index = {b: i for i, b in enumerate(program.buffers)}

    def write(self, kernels: Sequence[str], offsets: dict[Buffer, int], weights_size: int, metadata: str,
              threads: int = 0, weights_symbol: str = "", variants: Sequence[str] = ()) -> str:
        """Define everything; the name of the `lpt_program` global. `variants` names those of the program's."""
        program = self.program
        ports = [self._ports("inputs", program.inputs, [v.name or f"input{i}" for i, v in enumerate(program.inputs)]),
                 self._ports("outputs", program.outputs, program.output_names)]
        buffers = self._array("buffers", "%lpt_buffer", (self._buffer(b, offsets) for b in program.buffers))
        operands: list[str] = []
        self.late = {str(d) for s in program.steps for d in (s.call.bound if s.call else (s.bound,))} - {"0"}
        calls = [s.call for s in program.steps if s.call is not None]
        self.call_index = {c: i for i, c in enumerate(calls)}
        call_table = self._array("calls", "%lpt_host_call", [self._call(i, c) for i, c in enumerate(calls)])
        steps = self._array("steps", "%lpt_step", [
            self._step(s, i, k, operands) for i, (s, k) in enumerate(zip(program.steps, kernels, strict=True))])
        table = self._array("operands", "%lpt_operand", operands)
        guards = self._array("guards", "%lpt_guard", self.guards)
        slots = [self._slots("input_slots", program.inputs), self._slots("output_slots", program.outputs)]
        bound = self._symbols()
        shape = self._shape_function(bound)
        env = self._array("env", "i64", [f"i64 {d if isinstance(d, int) else 0}" for d in self.env.contents])
        functions = list(dict.fromkeys(c.name for c in calls if c.is_registered))
        strings = program.strings if calls or len(program.strings) > 1 else {}
        if weights_symbol:
            self.module.globals.setdefault("~" + weights_symbol, f"@{weights_symbol} = external hidden global i8")
        fields = [
            f"ptr {self._text(self.target.name)}", f"ptr {self._text(metadata)}", f"i64 {self.target.needs}",
            *(f"ptr {p}" for p in (*ports, *slots, buffers, table, steps)),
            f"ptr {self._array('symbols', '%lpt_symbol', bound.values())}", f"ptr {guards}", f"ptr {env}",
            f"ptr {shape}", f"ptr {call_table}",
            f"ptr {self._array('functions', 'ptr', [f'ptr {self._text(n)}' for n in functions])}",
            f"ptr {self._strings(strings)}",
            f"ptr {self._array('variants', 'ptr', [f'ptr @{v}' for v in variants])}",
            f"ptr {f'@{weights_symbol}' if weights_symbol else 'null'}",
            f"i64 {weights_size}", f"i64 {program.workspace}",
            *(f"i32 {n}" for n in (
                len(program.inputs), len(program.outputs), len(program.buffers), len(operands), len(program.steps),
                len(bound), len(self.guards), len(self.env.contents),
                len(calls), len(functions), len(strings), len(variants), threads,
                max((len(s.operands) for s in program.steps), default=0))),
            *self._device(), f"i32 {int(program.flushes)}",
        ]
        return self._define("program", "%lpt_program", "%lpt_program { " + ", ".join(fields) + " }")

    # --- rows ---

    def _buffer(self, buffer: Buffer, offsets: dict[Buffer, int]) -> str:
        offset = offsets[buffer] if buffer.storage is Storage.CONSTANT else buffer.offset
        return (f"%lpt_buffer {{ i32 {int(buffer.storage)}, i32 {buffer.index}, i64 {offset}, "
                f"i32 {self.env.slot(buffer.size)}, i32 {max(buffer.first, 0)}, i32 {max(buffer.last, 0)}, i32 0 }}")

    def _device(self) -> list[str]:
        """The fields of a CUDA program."""
        if self.device is None:
            return ["i32 0", "ptr null", "ptr null", "i32 0", "i32 0"]
        images = [f"%lpt_cuda_image {{ ptr {self._bytes(f'image{i}', image.data)}, i64 {len(image.data)}, "
                  f"i32 {image.arch}, i32 {image.kind} }}" for i, image in enumerate(self.device.images)]
        kernels = rows(self.device, [self._text(k.symbol) for k in self.device.kernels])
        return ["i32 1", f"ptr {self._array('images', '%lpt_cuda_image', images)}",
                f"ptr {self._array('kernels', '%lpt_cuda_kernel', kernels)}", f"i32 {len(images)}",
                f"i32 {len(kernels)}"]

    def _step(self, step: Step, index: int, symbol: str, operands: list[str]) -> str:
        first, kernel = len(operands), step.kernel
        operands += [f"%lpt_operand {{ i32 {self.buffer_index[o.buffer]}, i32 {self.env.slot(o.offset)} }}"
                     for o in step.operands]
        count = len(step.operands)
        sized = step.kind in (StepKind.RESERVE, StepKind.ROUND, StepKind.BIND)
        slots = [self.env.slot(step.bound), self.env.slot(step.size) if sized else 1, 0, 1]
        if step.kind is StepKind.ROUND:
            slots[0] = self.env.fresh(2)
        if step.kind is StepKind.CHECK:
            first, count = len(self.guards), len(step.guards)
            self.guards += [self._guard(g, late=LATE) for g in step.guards.values()]
        if kernel is not None:
            sizes = needed_tasks(kernel), kernel.scratch, kernel.grain
            slots = [self.env.run(kernel.dims), *map(self.env.slot, sizes)]
        name = f"{step.name}:{step.loc[0].name}" if step.loc else step.name
        code = f"@{symbol}" if symbol else "null"
        target = self.call_index[step.call] if step.call is not None else step.target
        if self.device is not None and kernel is not None:
            target = self.device.steps[index]
            slots[2] = slots[2] if self.device.kernels[target].has_scratch else 0
        return (f"%lpt_step {{ ptr {code}, ptr {self._text(name)}, i32 {int(step.kind)}, i32 {first}, "
                f"i32 {count}, {', '.join(f'i32 {s}' for s in slots)}, i32 {target} }}")

    def _guard(self, guard: GuardRow, late: int = 0) -> str:
        return (f"%lpt_guard {{ i32 {self.env.slot(guard.left) - late}, i32 {self.env.slot(guard.right)}, "
                f"ptr {self._text(guard.message)} }}")

    def _call(self, index: int, call: HostCall) -> str:
        rows = []
        for i, type in enumerate(call.tensors):
            shape = type.shape if type is not None else ()
            given = call.bound if i >= call.n_inputs else ()  # the sizes this call binds are unknown before it
            slots = [self.env.slot(d) - (LATE if symbols(d) & {str(b) for b in given} else 0) for d in shape]
            code = DTYPE_CODES[type.dtype] if type is not None else 0
            if len(shape) > MAX_RANK:
                raise UnsupportedError(f"'{call.name}' takes {type}; at most {MAX_RANK} dimensions can be called with")
            rows.append(f"%lpt_call_tensor {{ i32 {code}, i32 {len(shape)}, {self._padded(slots)} }}")
        tensors = self._array(f"call{index}_tensors", "%lpt_call_tensor", rows)
        bound = self._array(f"call{index}_bound", "i32", [f"i32 {self.env.slot(d)}" for d in call.bound])
        attributes = self._bytes(f"call{index}_attributes", call.attributes) if call.attributes else "null"
        return (f"%lpt_host_call {{ ptr {self._text(call.name)}, ptr {attributes}, i64 {len(call.attributes)}, "
                f"ptr {tensors}, ptr {bound}, i32 {call.n_inputs}, i32 {len(call.tensors) - call.n_inputs}, "
                f"i32 {len(call.bound)}, i32 0 }}")

    def _strings(self, strings: Iterable[bytes]) -> str:
        """Rows that point into one run of bytes."""
        rows, pool = [], bytearray()
        for text in strings:
            place = f"getelementptr (i8, ptr @{self.prefix}letters, i64 {len(pool)})" if text else "null"
            rows.append(f"%lepton_string {{ ptr {place}, i64 {len(text)} }}")
            pool += text
        if pool:
            self._bytes("letters", bytes(pool))
        return self._array("strings", "%lepton_string", rows)

    def _ports(self, stem: str, values: Sequence[Value], names: Sequence[str]) -> str:
        rows: list[str] = []
        for value, name in zip(values, names, strict=True):
            type = value.tensor
            if type.rank > MAX_RANK:
                raise UnsupportedError(f"{name!r} has rank {type.rank}; at most {MAX_RANK} can cross the border")
            sizes = [d if isinstance(d, int) else -1 for d in type.shape] + [0] * (MAX_RANK - type.rank)
            words = self._array(f"{stem}_dims{len(rows)}", "ptr", [f"ptr {self._text(str(d))}" for d in type.shape])
            rows.append(f"%lepton_port {{ ptr {self._text(name)}, i32 {DTYPE_CODES[type.dtype]}, i32 {type.rank}, "
                        f"[16 x i64] [{', '.join(f'i64 {s}' for s in sizes)}], ptr {words} }}")
        return self._array(stem, "%lepton_port", rows)

    def _slots(self, stem: str, values: Sequence[Value]) -> str:
        rows: list[str] = []
        for value in values:
            slots = [self._maybe_late(d) for d in value.tensor.shape]
            rows.append(self._padded(slots))
        return self._array(stem, "%lpt_port_slots", rows)

    def _padded(self, slots: Sequence[int]) -> str:
        words = ", ".join(f"i32 {s}" for s in [*slots, *[0] * (MAX_RANK - len(slots))])
        return f"%lpt_port_slots {{ [16 x i32] [{words}] }}"

    def _symbols(self) -> dict[str, str]:
        """Symbol name -> its table row: the first input dimension that is just this symbol."""
        rows: dict[str, str] = {}
        for i, value in enumerate(self.program.inputs):
            for axis, d in enumerate(value.tensor.shape):
                if isinstance(d, Expr) and (name := str(d)).isidentifier() and name not in rows:
                    low, high = self.program.limits.get(name, (0, 0))
                    rows[name] = (f"%lpt_symbol {{ i32 {self.env.slot(d)}, i32 {i}, i32 {axis}, i32 0, i64 {low}, "
                                  f"i64 {high} }}")
        needed: set[str] = set().union(*(symbols(d) for d in self.env.contents))
        if lost := sorted(needed - rows.keys() - self.late):
            raise UnsupportedError(f"sizes {', '.join(lost)} follow neither from an input's shape nor from a count")
        return rows

    def _maybe_late(self, dim: Dim) -> int:
        """The slot of a port's size, marked (as the sign of an i32) if a bind decides it."""
        slot = self.env.slot(dim)
        return slot - LATE if symbols(dim) & self.late else slot

    # --- the shape function ---

    def _shape_function(self, bound: dict[str, str]) -> str:
        derived = [(i, d) for i, d in enumerate(self.env.contents) if isinstance(d, Expr)]
        if not derived:
            return "null"
        name = f"{self.prefix}shape"
        fn = self.module.function(name, [("ptr", "env")])
        given = {*bound, *self.late}
        spell = _Sizes(fn, {name: self.env.slot(sym(name)) for name in sorted(given)})
        for slot, d in derived:
            if str(d) in given and self.env.slot(d) == slot:
                continue
            fn.store(fn.i64(spell(d)), Val("ptr", "%env"), 8 * slot, 8)
        return f"@{name}"

    # --- globals ---

    def _define(self, stem: str, type: str, body: str) -> str:
        name = f"{self.prefix}{stem}"
        self.module.globals[name] = f"@{name} = hidden constant {body}"
        return name

    def _array(self, stem: str, type: str, rows: Iterable[str]) -> str:
        rows = list(rows)
        if not rows:
            return "null"
        return "@" + self._define(stem, type, f"[{len(rows)} x {type}] [{', '.join(rows)}]")

    def _bytes(self, stem: str, data: bytes) -> str:
        """A pointer to these bytes."""
        return "@" + self._define(stem, "", f"{_spelled(data)}, align 16")

    def _text(self, text: str) -> str:
        """A pointer to a zero-terminated string; equal strings share one."""
        data = text.encode() + b"\0"
        known = self.module.globals.setdefault
        name = f"{self.prefix}text{len(self.module.globals)}"
        body = _spelled(data)
        key = f"text:{self.prefix}:{text}"
        line = known(key, f"@{name} = private unnamed_addr constant {body}")
        return line.split(" ", 1)[0]


def _spelled(data: bytes) -> str:
    escaped = "".join(chr(c) if 32 <= c < 127 and c not in b'"\\' else f"\\{c:02X}" for c in data)
    return f'[{len(data)} x i8] c"{escaped}"'


class _Sizes:
    """Spells dimension expressions as i64 arithmetic, each sub-expression once.

    Products and sums saturate: a size beyond 64 bits is refused like any other that is too large, where a wrapped one
    would look small."""

    def __init__(self, fn: Function, slots: dict[str, int]) -> None:
        self.fn, self.slots = fn, slots
        self.known: dict[object, Int] = {}

    def __call__(self, dim: Dim) -> Int:
        if isinstance(dim, int):
            return dim
        if dim not in self.known:
            total: Int = 0
            for monomial, coefficient in dim.terms:
                term: Int = coefficient
                for atom, power in monomial:
                    for _ in range(power):
                        term = self._times(term, self._atom(atom))
                total = self._plus(total, term)
            self.known[dim] = total
        return self.known[dim]

    def _times(self, a: Int, b: Int) -> Int:
        if isinstance(a, int) and (a in (0, 1) or isinstance(b, int)):
            return a * b if isinstance(b, int) else self.fn.mul(a, b)
        return self.fn.call("i64", "llvm.smul.fix.sat.i64", [self.fn.i64(a), self.fn.i64(b), Val("i32", "0")],
                            immediates=(2,))

    def _plus(self, a: Int, b: Int) -> Int:
        if isinstance(a, int) and (a == 0 or isinstance(b, int)):
            return self.fn.add(a, b)
        return self.fn.call("i64", "llvm.sadd.sat.i64", [self.fn.i64(a), self.fn.i64(b)])

    def _atom(self, atom: Symbol | Apply) -> Int:
        if atom not in self.known:
            self.known[atom] = self._spell(atom)
        return self.known[atom]

    def _spell(self, atom: Symbol | Apply) -> Int:
        fn = self.fn
        if isinstance(atom, Symbol):
            return fn.load("i64", Val("ptr", "%env"), 8 * self.slots[atom.name], 8)
        a, b = fn.i64(self(atom.left)), fn.i64(self(atom.right))
        match atom.op:
            case "min":
                return fn.min(a, b)
            case "max":
                return fn.max(a, b)
            case "stretch":
                return fn.select(fn.compare("icmp eq", a, Val("i64", "1")), b, a)
        # Rounded down, and a divisor of 0 (an empty tensor) is taken as 1: nothing is computed with the result.
        b = fn.i64(fn.max(b, 1))
        rest = fn.value("i64", f"srem i64 {a.text}, {b.text}")
        lifted = fn.select(fn.compare("icmp slt", rest, Val("i64", "0")), fn.i64(fn.add(rest, b)), rest)
        if atom.op == "%":
            return lifted
        return fn.value("i64", f"sdiv i64 {fn.i64(fn.sub(a, lifted)).text}, {b.text}")
