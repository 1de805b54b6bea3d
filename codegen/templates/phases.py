"""Several bodies as one kernel: the tasks of the first, then those of the second …"""
from __future__ import annotations

from dataclasses import dataclass

from lepton.codegen.kernel import Body, Size
from lepton.codegen.llvm.builder import KERNEL_ARGS, Function, Int, Module, Val
from lepton.codegen.target import Target
from lepton.codegen.templates.gemm import when
from lepton.codegen.templates.memory import size


@dataclass(frozen=True, slots=True)
class Phases:
    """Bodies that share operands, sizes and scratch, with their numbers of tasks."""

    parts: tuple[Body, ...]
    tasks: tuple[Size, ...]

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        fn = module.kernel(symbol)
        before: Int = 0
        for i, (part, count) in enumerate(zip(self.parts, self.tasks, strict=True)):
            part.emit(module, f"{symbol}_{i}", target)
            before = self.call(fn, f"{symbol}_{i}", before, size(fn, count))

    def call(self, fn: Function, symbol: str, before: Int, count: Int) -> Int:
        """Run what [lo, hi) has of tasks [before, before + count); the end of those."""
        after = fn.add(before, count)
        first = fn.i64(fn.sub(fn.max(Val("i64", "%lo"), before), before))
        last = fn.i64(fn.sub(fn.min(Val("i64", "%hi"), after), before))
        shared = ", ".join(f"{type} %{name}" for type, name in KERNEL_ARGS[:3])
        call = f"call void @{symbol}({shared}, {first}, {last})"
        when(fn, fn.compare("icmp slt", first, last), lambda: fn.emit(call))
        return after
