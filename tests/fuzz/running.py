"""Compile a program in several ways, run it, and compare with its meaning."""
from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import lepton
from lepton.codegen.target import CUDA_TARGETS, TARGETS, runs_here
from lepton.ir import dims
from lepton.ir.core import clone
from lepton.ir.diagnostics import Exit, LeptonError
from lepton.ir.printer import show
from lepton.ir.tensor import Array
from tests.conformance.compare import Mismatch
from tests.fuzz.judge import expect
from tests.fuzz.programs import Program

HERE = tuple(t.name for t in TARGETS.values() if runs_here(t))
GPUS = tuple(CUDA_TARGETS)   # on the simulator behind the fake driver, which `on_simulator` installs


@dataclass(frozen=True)
class Form:
    """One way to compile and run."""

    target: str
    level: int
    math: str
    threads: int
    linked: bool = False   # a .so instead of this process' memory

    def __str__(self) -> str:
        how = ", .so" if self.linked else ""
        return f"-O{self.level} --target {self.target} --math {self.math}, {self.threads} threads{how}"


def on_simulator() -> None:
    """From now on CUDA's targets run in this process and in its children, for as long as it lives."""
    from tests.cuda import on_fake
    from tests.cuda.simulated import header

    assert on_fake.kept
    header()


def arrange(target: str, late: bool) -> None:
    """The simulator: a GPU of this target, and when asynchronous copies happen. Nothing on a CPU."""
    if target in GPUS:
        from tests.cuda.fakecuda import fake_driver

        fake_driver().set(capability=int(target.removeprefix("cuda-sm")))
        fake_driver().mode(late=late, seed=1 + late)


def forms(seed: int, count: int, targets: Sequence[str] = HERE) -> list[Form]:
    """`count` different ways; the first is -O0 or -O3."""
    choose = random.Random(seed)
    if set(targets) <= set(GPUS):
        targets = (choose.choice(targets),)  # a process sees one GPU: the driver is asked once which
    made = []
    for i in range(count):
        level = choose.choice(((0, 3), (1, 2, 3), (0, 1, 2, 3))[min(i, 2)])
        made.append(Form(choose.choice(targets), level, choose.choice(("default", "default", "strict")),
                         choose.choice((1, 1, 2, 3)), choose.random() < 0.01))
    return made


def answers(program: Program, form: Form) -> list[list[Array]]:
    """The outputs of each run; computed twice, in fresh memory and in memory of ours, which must agree, and nothing may
    be written around them. Raises LeptonError, Mismatch."""
    options: dict[str, Any] = {"target": form.target, "level": form.level, "math": form.math,
                               "repro_dir": tempfile.gettempdir()}
    arrange(form.target, late=True)
    with tempfile.TemporaryDirectory() as folder:
        if form.linked:
            path = Path(folder) / "p.so"
            lepton.compile_to(clone(program.graph), path, **options)
            model = lepton.load(path)
        else:
            model = lepton.compile(clone(program.graph), **options)
        session = model.session(form.threads)
        names = [p.name for p in model.inputs]
        known = {name for v in program.graph.inputs for d in v.tensor.shape for name in dims.symbols(d)}
        feeds = [dict(zip(names, arrays, strict=True)) for arrays in program.runs]
        first = [session.run(feed) for feed in feeds]
        arrange(form.target, late=False)
        for feed, results in zip(feeds, first, strict=True):
            again = {p.name: Placed(results[p.name]) for p, v in zip(model.outputs, program.graph.outputs, strict=True)
                     if all(dims.symbols(d) <= known for d in v.tensor.shape)}
            session.run(feed, {name: placed.array for name, placed in again.items()})
            for name, placed in again.items():
                placed.check(name, results[name])
    return [[results[p.name] for p in model.outputs] for results in first]


class Placed:
    """Memory for an output, at an odd place between bytes that must not change."""

    AROUND = 67

    def __init__(self, like: Array) -> None:
        size = like.dtype.itemsize
        before = -(-self.AROUND // size) * size
        self.memory = np.full(before + like.nbytes + self.AROUND, 0xA5, np.uint8)
        inside = self.memory[before:before + like.nbytes]
        self.array: Array = inside.view(like.dtype).reshape(like.shape)
        self.around = (self.memory[:before], self.memory[before + like.nbytes:])

    def check(self, name: str, want: Array) -> None:
        """Raises Mismatch."""
        if any((part != 0xA5).any() for part in self.around):
            raise Mismatch(f"wrote outside output '{name}'")
        if self.array.tobytes() != want.tobytes():
            raise Mismatch(f"two runs of one session differ in output '{name}'")


def check(program: Program, ways: Sequence[Form]) -> None:
    """Raises Mismatch for a wrong answer; what else Lepton raises is passed on, refusals of forms excepted."""
    meant = cache(lambda run, lax: expect(program.graph, program.runs[run], lax=lax))
    for form in ways:
        try:
            got = answers(program, form)
        except LeptonError as error:
            if error.exit in (Exit.UNSUPPORTED, Exit.RESOURCES):
                raise
            raise Mismatch(f"{form}: {type(error).__name__}: {error}") from error
        except Mismatch as error:
            raise Mismatch(f"{form}: {error}") from error
        lax = form.math != "strict"
        for run, (inputs, result) in enumerate(zip(program.runs, got, strict=True)):
            problem = meant(run, lax).problem(result)
            if problem and (problem := expect(program.graph, inputs, 60, lax).problem(result)):
                raise Mismatch(f"{form}: run {run}: {problem}")


def text(program: Program) -> str:
    """The program and what is fed to it, to read."""
    lines = [show(program.graph, full_constants=True)]
    for run, arrays in enumerate(program.runs):
        lines += [f"// run {run}: {v.name} = {' '.join(repr(a.tolist()).split())[:600]}"
                  for v, a in zip(program.graph.inputs, arrays, strict=True)]
    return "\n".join(lines)
