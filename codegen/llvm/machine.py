"""LLVM text -> object code, through llvmlite. No IR passes run: the emitters write the code they want."""
from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any, Literal, overload

from llvmlite import binding as llvm

from lepton.codegen.llvm.builder import Module
from lepton.codegen.target import Target

_once = threading.Lock()
_ready = False
_local = threading.local()


def initialize() -> None:
    """Make all of LLVM's targets known; any number of times, from any thread."""
    global _ready
    with _once:
        if not _ready:
            llvm.initialize_all_targets()
            llvm.initialize_all_asmprinters()
            _ready = True


def target_machine(target: Target) -> llvm.TargetMachine:
    """This thread's machine for `target` (one must not be used by two threads at once)."""
    initialize()
    machines: dict[Target, llvm.TargetMachine] = _local.__dict__.setdefault("machines", {})
    if target not in machines:
        machines[target] = llvm.Target.from_triple(target.triple).create_target_machine(
            cpu=target.cpu, features=target.features, opt=2, reloc="pic", codemodel="small")
    return machines[target]


@overload
def compile_module(module: Module | str, target: Target, *, asm: Literal[False] = False) -> bytes: ...
@overload
def compile_module(module: Module | str, target: Target, *, asm: Literal[True]) -> str: ...


def compile_module(module: Module | str, target: Target, *, asm: bool = False) -> bytes | str:
    """The relocatable object of a module (or its assembly text). Bad IR is a bug of an emitter: RuntimeError."""
    machine = target_machine(target)
    parsed = llvm.parse_assembly(str(module), context=llvm.create_context())
    parsed.triple = target.triple
    parsed.data_layout = str(machine.target_data)
    parsed.verify()
    result: bytes | str = machine.emit_assembly(parsed) if asm else machine.emit_object(parsed)
    return result


def link_here(objects: Sequence[bytes], triple: str) -> Any:
    """Objects linked into this process: an llvmlite ExecutionEngine, which owns their memory."""
    initialize()
    machine = llvm.Target.from_triple(triple).create_target_machine(jit=True)
    # llvmlite's own memory manager keeps an object's sections side by side. LLVM's takes any holes of the address
    # space, which in a large process lie over 2 GiB apart: out of a displacement's reach, and LLVM aborts.
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine, use_lmm=True)  # owns the machine from here on
    for data in objects:
        engine.add_object_file(llvm.ObjectFileRef.from_data(data))
    engine.finalize_object()
    return engine


_LABEL = re.compile(r"^([A-Za-z_.$][\w.$]*):")
_X86_SPILL = re.compile(
    r"^\s+v?mov\w*\s+(?:[-\w]*\((?:%rsp|%rbp)\).*%[xyz]mm\d+|%[xyz]mm\d+.*,\s*[-\w]*\((?:%rsp|%rbp)\))")
_ARM_SPILL = re.compile(r"^\s+(?:st|ld)[ur]?[rp]\s+q\d+.*\[sp")
_CALL = re.compile(r"^\s+(?:call\w*|bl)\s+([^\s#]+)")


def _by_function(asm: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in asm.splitlines():
        label = _LABEL.match(line)
        if label and not label[1].startswith((".L", "$")):
            current = found.setdefault(label[1], [])
        current.append(line)
    return found


def count_spills(asm: str) -> dict[str, int]:
    """Vector moves to and from the stack, per function: what a good microkernel has none of."""
    return {name: sum(bool(_X86_SPILL.match(line) or _ARM_SPILL.match(line)) for line in lines)
            for name, lines in _by_function(asm).items()}


def calls(asm: str) -> dict[str, list[str]]:
    """The functions each function calls, in order of appearance."""
    return {name: [m[1].removesuffix("@PLT") for line in lines if (m := _CALL.match(line))]
            for name, lines in _by_function(asm).items()}
