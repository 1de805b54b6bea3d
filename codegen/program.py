"""The program: what the plan makes of a graph and the tables write down for the runtime."""
from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from lepton.codegen.kernel import Kernel
from lepton.ir.core import Value
from lepton.ir.diagnostics import Location
from lepton.ir.dims import Dim
from lepton.ir.tensor import Array
from lepton.ir.types import TensorType


class Storage(IntEnum):
    """lpt_storage of runtime_c/src/internal.h."""

    INPUT = 0
    OUTPUT = 1
    CONSTANT = 2
    WORKSPACE = 3
    STATE = 4
    GROWING = 5          # memory of its own, as large as RESERVE steps say


def digest(array: Array) -> str:
    """Hash of an array's bytes, whatever its type: what the constants of an artifact are shared by."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return hashlib.sha256(data.data).hexdigest()


@dataclass(eq=False, slots=True)
class Buffer:
    """A piece of memory with a lifetime: from the start of step `first` to the end of step `last`."""

    storage: Storage
    index: int = 0                       # which input or output, which number of the session's state
    size: Dim = 0                        # bytes
    data: Array | None = None            # CONSTANT
    digest: str = ""                     # CONSTANT: hash of the bytes, by which equal ones are shared
    alignment: int = 64
    first: int = -1
    last: int = -1
    offset: int = 0                      # WORKSPACE of a static program: planned; STATE: its first value

    def touch(self, step: int) -> None:
        self.first = step if self.first < 0 else min(self.first, step)
        self.last = max(self.last, step)


class StepKind(IntEnum):
    """lpt_step_kind."""

    CALL = 0
    JUMP = 1
    JUMP_IF_FALSE = 2
    BIND = 3
    HOST_CALL = 4
    RESERVE = 5
    CHECK = 6
    ROUND = 7


@dataclass(eq=False, slots=True)
class Operand:
    buffer: Buffer
    offset: Dim = 0                      # bytes


@dataclass(frozen=True, eq=False, slots=True)
class HostCall:
    """A call of a C function: the runtime's own, or one that the host registers ("domain::Name")."""

    name: str
    attributes: bytes = b""                        # constant, aligned to 16 bytes; their meaning is the function's
    bound: tuple[Dim, ...] = ()                    # the symbols of the results' sizes that the function gives
    tensors: tuple[TensorType | None, ...] = ()    # of inputs (None: absent, no operand), then outputs
    n_inputs: int = 0

    @property
    def is_registered(self) -> bool:
        return "::" in self.name


@dataclass(frozen=True, slots=True)
class GuardRow:
    left: Dim
    right: Dim
    message: str


@dataclass(eq=False, slots=True)
class Step:
    kind: StepKind
    operands: tuple[Operand, ...] = ()
    kernel: Kernel | None = None
    target: int = 0                      # jumps: where to. CHECK: the end of the steps whose sizes it checks
    bound: Dim = 0                       # BIND: the symbol that gets its size here
    size: Dim = 0                        # RESERVE: bytes, of each of the second operand's number where there is one;
                                         # ROUND and BIND without operands: how many rounds, the size
    guards: dict[tuple[Dim, Dim], GuardRow] = field(default_factory=dict)  # CHECK
    call: HostCall | None = None         # HOST_CALL
    loc: tuple[Location, ...] = ()

    @property
    def name(self) -> str:
        if self.call is not None:
            return self.call.name
        return self.kernel.name if self.kernel is not None else self.kind.name.lower()


@dataclass(eq=False)
class Program:
    """Straight-line steps with jumps over buffers: the whole of a compiled model for one target."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    output_names: tuple[str, ...]
    buffers: list[Buffer] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    guards: list[GuardRow] = field(default_factory=list)  # of the inputs' shapes; CHECK steps hold the others
    strings: dict[bytes, int] = field(default_factory=lambda: {b"": 0})  # constants -> numbers, in order
    limits: dict[str, tuple[int, int]] = field(default_factory=dict)  # symbol -> least and most it was compiled for
    variants: list[Program] = field(default_factory=list)  # the same for certain sizes of the inputs, tried first
    workspace: int = 0                   # bytes; 0 where it depends on input shapes
    flushes: bool = False                # denormals are 0 in its kernels

    @property
    def kernels(self) -> Sequence[Kernel]:
        return [s.kernel for s in self.steps if s.kernel is not None]

    @property
    def is_static(self) -> bool:
        dims = [b.size for b in self.buffers]
        dims += [d for v in (*self.inputs, *self.outputs) for d in v.tensor.shape]
        dims += [d for k in self.kernels for d in (k.tasks, k.scratch, k.grain, *k.dims)]
        dims += [d for s in self.steps for d in (s.bound, s.size)]
        dims += [d for s in self.steps if s.call for t in s.call.tensors if t for d in t.shape]
        dims += [o.offset for s in self.steps for o in s.operands]
        return all(isinstance(d, int) for d in dims)

    def __str__(self) -> str:
        """One line per step, for `--emit` and dumps."""
        number = {b: i for i, b in enumerate(self.buffers)}
        lines = []
        for i, step in enumerate(self.steps):
            places = ", ".join(
                f"{o.buffer.storage.name[0].lower()}{number[o.buffer]}{f'+{o.offset}' if o.offset != 0 else ''}"
                for o in step.operands)
            tail = f" x {step.kernel.tasks}" if step.kernel else "" if step.call else f" -> {step.target}"
            lines.append(f"{i:4d}  {step.name}({places}){tail}")
        return "\n".join(lines)
