"""Whole models with CUDA's kernels, in this process and without a GPU: the kernels' text goes through g++ and the
simulator, everything else (tables, shapes, control flow, memory) is the runtime's own.

    python -m tests.conformance.run_suite --backend tests.cuda.engine:prepare --include 'test_softmax'
"""
from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import lepton.codegen.cuda.lowering  # noqa: F401  (fills the family's lowerings)
from lepton import backend, driver
from lepton.artifact import Model, from_program
from lepton.codegen.build import build
from lepton.codegen.cuda.spell import ScratchIn, Spelled
from lepton.codegen.jit import Loaded
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.builder import Module
from lepton.codegen.program import Program
from lepton.codegen.target import TARGETS, Target
from lepton.ir.core import clone
from tests.cuda.simulated import CUDA, call_text, library, spelled_of

BLOCKS = 5


@dataclass(frozen=True)
class Simulated:
    """A kernel body that is a function at an address, with the CPU's kernel ABI (codegen.kernel.Body)."""

    address: int

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        f = module.kernel(symbol)
        f.emit(f"call void inttoptr (i64 {self.address} to ptr)(ptr %bufs, ptr %dims, ptr %scratch, i64 %lo, i64 %hi)")


def wrapped(spelled: Spelled, symbol: str, n_operands: int, n_dims: int) -> str:
    """The kernel and `cpu_<symbol>`, which launches its grid."""
    g = spelled.geometry
    signature = spelled.text[spelled.text.index(f" {symbol}(") + len(symbol) + 2:spelled.text.index(") {")]
    grid = "1" if g.scratch is ScratchIn.GLOBAL else (
        f"(hi + {g.tasks_per_block - 1}) / {g.tasks_per_block} < {BLOCKS} ? (hi + {g.tasks_per_block - 1}) / "
        f"{g.tasks_per_block} : {BLOCKS}")
    fill = "".join(f"words[{i}] = bufs[{i}]; " for i in range(n_operands))
    fill += f"words[{n_operands}] = scratch; words[{n_operands + 1}] = nullptr; "
    fill += "".join(f"words[{n_operands + 2 + i}] = (void *)dims[{i}]; " for i in range(n_dims))
    count = n_operands + n_dims + 3
    call = call_text(signature, symbol).replace("lp_call", f"call_{symbol}")
    return (f"{spelled.text}{call}extern \"C\" void cpu_{symbol}(void **bufs, const i64 *dims, void *scratch, i64 lo, "
            f"i64 hi) {{\n  if (lo != 0) lp_sim::fail(\"a part of a grid\");\n  void *words[{count}];\n  {fill}"
            f"words[{count - 1}] = (void *)hi;\n  lp_sim::launch({grid}, {g.threads}, {g.shared_bytes}, "
            f"[&] {{ call_{symbol}(words); }});\n}}\n")


def simulate(program: Program) -> None:
    """Replace the bodies of a CUDA program's kernels by functions that simulate them."""
    symbols: dict[object, str] = {}
    texts: list[str] = []
    kernels: dict[int, Kernel] = {}
    for i, step in enumerate(program.steps):
        kernel = step.kernel
        if kernel is None:
            continue
        key = kernel.body, kernel.scratch
        if key not in symbols:
            symbols[key] = f"k{len(symbols)}"
            spelled = spelled_of(kernel, symbols[key])
            texts.append(wrapped(spelled, symbols[key], len(kernel.operands), len(kernel.dims)))
        kernels[i] = kernel
    if not texts:
        return
    code = library("\n".join(texts))
    for i, kernel in kernels.items():
        function = getattr(code, f"cpu_{symbols[kernel.body, kernel.scratch]}")
        address = ctypes.cast(function, ctypes.c_void_p).value
        assert address is not None
        program.steps[i].kernel = replace(kernel, body=Simulated(address), grain=1 << 40)
    _keep().append(code)


@cache
def _keep() -> list[Any]:
    """Loaded code stays for as long as the process does."""
    return []


def compile(source: Any, **options: Any) -> Model:
    """As `lepton.compile`, with CUDA's kernels on the simulator."""
    made = driver.Options.of({"threads": 1, **options})
    original = driver.checked(source, made)
    (pipeline,) = driver.pipelines((CUDA,), made)
    graph = driver.optimise(clone(original), pipeline, made)
    program = driver.program_of(graph, CUDA, made)
    simulate(program)
    host = TARGETS["x86-avx2"]
    done = driver.Compiled(original, [graph], [(program, host)], driver.Report())
    done.report.targets[host.name] = {}
    objects = build([(program, host)], ["{}"], 1, linked=False)
    loaded = Loaded(objects)
    return from_program(loaded.program, loaded.weights, keep_alive=loaded)


def prepare(model: Any) -> Any:
    """For the conformance suite: the backend's own way, with this compiler."""
    backend.compile = compile  # type: ignore[assignment, attr-defined]
    return backend.prepare(model)
