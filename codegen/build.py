"""Programs -> objects and weights: kernels are spelled, deduplicated and compiled; tables tie them together."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from lepton.codegen.cuda.device import DeviceCode
from lepton.codegen.kernel import Body, align
from lepton.codegen.llvm.builder import Module
from lepton.codegen.llvm.machine import compile_module
from lepton.codegen.memory import plan_tight, verify_plan
from lepton.codegen.program import Buffer, Program, StepKind, Storage
from lepton.codegen.tables import TYPES, Tables, artifact_table
from lepton.codegen.target import Target
from lepton.ir.tensor import Array

KERNEL_TYPE = "(ptr, ptr, ptr, i64, i64)"
WEIGHTS_SYMBOL = "lpt_weights"
# Of constants that say where to read: kernels trust those that Lepton made.
STEERING = (np.dtype(np.int32), np.dtype(np.int64))


@dataclass(eq=False)
class Weights:
    """The constants of an artifact, each once, at 64-byte aligned offsets. Those that steer kernels come first: they
    are part of what is checked before the artifact is used."""

    chunks: list[tuple[int, Array]] = field(default_factory=list)
    size: int = 0
    steering: int = 0                # bytes of them
    _known: dict[str, int] = field(default_factory=dict)

    def add(self, buffer: Buffer) -> int:
        """The offset of a constant buffer's bytes."""
        assert buffer.data is not None
        if buffer.digest not in self._known:
            data = np.ascontiguousarray(buffer.data).reshape(-1).view(np.uint8)
            self._known[buffer.digest] = self.size
            self.chunks.append((self.size, data))
            self.size = align(self.size + len(data))
        return self._known[buffer.digest]

    def add_steering(self, program: Program) -> None:
        """Offsets, tables and trees of a program and its variants, before any other constants."""
        for variant in program.variants:
            self.add_steering(variant)
        for buffer in program.buffers:
            if buffer.storage is Storage.CONSTANT and buffer.data is not None and buffer.data.dtype in STEERING:
                self.add(buffer)
        self.steering = self.size

    def write_to(self, blob: Array) -> None:
        for offset, data in self.chunks:
            blob[offset:offset + len(data)] = data

    def pieces(self) -> Iterator[memoryview]:
        """The blob in order, padding included."""
        position = 0
        for offset, data in self.chunks:
            if offset > position:
                yield memoryview(bytes(offset - position))
            yield data.data
            position = offset + len(data)
        if self.size > position:
            yield memoryview(bytes(self.size - position))


@dataclass(eq=False)
class Objects:
    """What the linker or the JIT needs: object files of one triple, the weights, the program tables' names."""

    triple: str
    objects: list[bytes]
    weights: Weights
    programs: list[str]              # symbols of the lpt_program tables, best target first
    llvm: list[str]                  # the modules' text, for --emit llvm
    code_bytes: int = 0


def plan_memory(program: Program) -> None:
    """Give the workspace buffers of a static program their offsets."""
    if not program.is_static:
        return
    buffers = [b for b in program.buffers if b.storage is Storage.WORKSPACE]
    sizes = [b.size for b in buffers if isinstance(b.size, int)]
    lifetimes = [(b.first, b.last) for b in buffers]
    offsets, total = plan_tight(sizes, lifetimes)
    verify_plan(sizes, lifetimes, offsets, total)
    for buffer, offset in zip(buffers, offsets, strict=True):
        buffer.offset = offset
    program.workspace = total


def module_of(target: Target) -> Module:
    """An empty module whose functions are for this machine."""
    return Module(f'nounwind "target-cpu"="{target.cpu}" "target-features"="{target.features}"')


def spell(program: Program, target: Target, prefix: str) -> tuple[Module, list[str]]:
    """One module with every distinct kernel body once; the symbol of each step ('' for jumps)."""
    module = module_of(target)
    symbols: dict[Body, str] = {}
    names: list[str] = []
    for step in program.steps:
        if step.kind is not StepKind.CALL:
            names.append("")
            continue
        assert step.kernel is not None
        body = step.kernel.body
        if body not in symbols:
            symbols[body] = f"{prefix}k{len(symbols)}_{step.kernel.name}"
            body.emit(module, symbols[body], target)
        names.append(symbols[body])
    return module, names


@dataclass(eq=False)
class _Pieces:
    """Code and tables of several programs of one triple, over one set of weights."""

    linked: bool
    threads: int
    weights: Weights = field(default_factory=Weights)
    objects: list[bytes] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    tables: Module = field(default_factory=Module)

    def add(self, program: Program, target: Target, prefix: str, words: str, device: DeviceCode | None = None) -> str:
        """Spell and compile a program after its variants; the name of its table."""
        variants = [self.add(v, target, f"{prefix}for{i}_", words) for i, v in enumerate(program.variants)]
        module, kernels = spell(program, target, prefix) if device is None else (Module(), [""] * len(program.steps))
        self.texts.append(str(module))
        self.objects.append(compile_module(self.texts[-1], target))
        offsets = {b: self.weights.add(b) for b in program.buffers if b.storage is Storage.CONSTANT}
        for symbol in dict.fromkeys(k for k in kernels if k):
            self.tables.declarations[symbol] = f"declare hidden void @{symbol}{KERNEL_TYPE}"
        writer = Tables(self.tables, program, target, prefix, device)
        return writer.write(kernels, offsets, self.weights.size, words, self.threads,
                            WEIGHTS_SYMBOL if self.linked else "", variants)


def build(programs: Sequence[tuple[Program, Target]], metadata: Sequence[str], threads: int = 0,
          linked: bool = True, devices: Sequence[DeviceCode | None] = (), model_of: Sequence[int] = ()) -> Objects:
    """Compile programs of one triple, for each model best target first. `linked`: weights are a symbol the linker
    resolves. Beside each program stand what CUDA programs run (`devices`) and which model of the file it computes."""
    made = _Pieces(linked, threads)
    each = [*devices, *[None] * (len(programs) - len(devices))]
    models = [*model_of] or [0] * len(programs)
    for program, _ in programs:
        made.weights.add_steering(program)
    names = [made.add(program, target, _prefix(target, model), words, device)
             for (program, target), words, device, model in zip(programs, metadata, each, models, strict=True)]
    artifact_table(made.tables, names, models)
    made.texts.append(TYPES + str(made.tables))
    made.objects.append(compile_module(made.texts[-1], programs[0][1]))
    return Objects(programs[0][1].triple, made.objects, made.weights, names, made.texts, sum(map(len, made.objects)))


def _prefix(target: Target, model: int) -> str:
    """Of a program's symbols: programs of one file differ in their target or in their model."""
    return f"lpt_{f'm{model}_' if model else ''}{target.name.replace('-', '_')}_"
