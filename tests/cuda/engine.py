"""Whole models with CUDA's kernels, in this process and without a GPU: the runtime's CUDA part on the fake driver,
whose kernels are the simulator's. Every run is made twice, with asynchronous copies late and at once; both must agree.

    python -m tests.conformance.run_suite --backend tests.cuda.engine:prepare --include 'test_softmax'

What CUDA refuses, faster: `--backend tests.cuda.engine:spelled` writes the kernels' text and runs nothing of it.
"""
from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any
from unittest import mock

from lepton import backend, driver
from lepton.codegen.cuda.device import device_code
from tests.conformance.compare import check_outputs
from tests.cuda.fakecuda import fake_driver, installed
from tests.cuda.simulated import header

TARGET = "cuda-sm90"


class Prepared:
    """A compiled model that runs twice."""

    def __init__(self, model: Any, target: str) -> None:
        self.rep = backend.prepare(model, target=target)

    def run(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """The outputs. Raises Mismatch where the two runs differ."""
        fake = fake_driver()
        fake.mode(late=True, seed=1)
        first = self.rep.run(inputs)
        self.reseed()
        fake.mode(late=False, seed=2)
        check_outputs(list(first), list(self.rep.run(inputs)), 0.0, 0.0)
        self.reseed()
        return first

    def reseed(self) -> None:
        """Draws start again."""
        for rep in (self.rep, *getattr(self.rep, "_made", {}).values()):
            if hasattr(rep, "model") and hasattr(rep.model, "seed"):
                rep.model.seed(0)


def spelled(model: Any) -> Any:
    """For the conformance suite, as `prepare`: compiled for CUDA as far as the kernels' text; the CPU answers."""
    def compile(source: Any, **options: Any) -> Any:
        done = driver.lower(source, driver.Options.of({**options, "target": TARGET}))
        for program, target in done.programs:
            device_code(program, target)
        return driver.compile(source, **options)

    _installed.enter_context(mock.patch.object(backend, "compile", compile))
    return backend.prepare(model)


_installed = ExitStack()


def warm() -> None:
    """Make what all tests share here, so that children of this process find it."""
    header()
    fake_driver()


def prepare(model: Any, target: str = TARGET) -> Prepared:
    """For the conformance suite, each of whose tests has a process of its own: the fake driver stays installed."""
    _installed.enter_context(installed())
    return Prepared(model, target)


warm()
