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


class Linked:
    """Objects linked into this process, which live as long as this does. `linked["symbol"]`: an address.

    By LLVM's JITLink, which keeps an object's sections side by side. MCJIT takes any holes of the address space: in a
    large process these lie over 2 GiB apart, out of a displacement's reach, and LLVM aborts."""

    def __init__(self, objects: Sequence[bytes], triple: str, symbols: Sequence[str]) -> None:
        """Raises RuntimeError where a symbol is missing."""
        initialize()
        machine = llvm.Target.from_triple(triple).create_target_machine(jit=True)
        self._jit = llvm.create_lljit_compiler(machine, use_jit_link=True, suppress_errors=True)
        library = llvm.JITLibraryBuilder().add_current_process()
        for data in objects:
            library.add_object_img(data)
        for symbol in symbols:
            library.export_symbol(symbol)
        self._library: Any = library.link(self._jit, "linked")

    def __getitem__(self, symbol: str) -> int:
        address: int = self._library[symbol]
        return address


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
