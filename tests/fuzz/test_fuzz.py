"""A few random programs and models, and the small ones that once failed, compiled in every way."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lepton.ir import ops
from lepton.ir.core import Graph, Value, clone
from lepton.ir.dims import evaluate
from lepton.ir.evaluate import evaluate as interpret
from lepton.ir.op import OPS
from lepton.ir.parser import parse
from lepton.ir.types import DType, TensorType
from tests.conformance.adapters import warm
from tests.conformance.compare import Mismatch
from tests.conformance.isolate import run_isolated
from tests.fuzz import makers_basic, models
from tests.fuzz.__main__ import one_program
from tests.fuzz.elements import array
from tests.fuzz.judge import expect
from tests.fuzz.layered import layered_program
from tests.fuzz.minimise import minimise
from tests.fuzz.programs import NOT_MADE, Program, graph_of, random_program
from tests.fuzz.running import GPUS, HERE, Form, check, forms

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.lir"))
FORMS = [Form(HERE[0], 0, "strict", 1), Form(HERE[0], 2, "default", 2), Form(HERE[-1], 0, "default", 1),
         Form(HERE[-1], 3, "strict", 3), *(Form(target, 1, "default", 1) for target in HERE[1:-1])]


def failures(one: partial[None], seeds: range) -> list[str]:
    """Each in a child, so that a crash is a line like others."""
    warm()
    jobs = len(os.sched_getaffinity(0))
    return [f"{seeds[i]}: {o.status} {o.detail}" for i, o in run_isolated([partial(one, s) for s in seeds], jobs, 120)
            if o.status not in ("PASS", "UNSUPPORTED")]


def test_random_programs_mean_what_they_say() -> None:
    assert not failures(partial(one_program, 2), range(40))


def test_random_models_agree_with_onnx_runtime() -> None:
    assert not failures(partial(models.one_model), range(40))


def test_layers_compressed_mean_what_they_say() -> None:
    assert not failures(partial(one_program, 1, make=layered_program), range(16))


def test_wrong_layers_are_seen() -> None:
    """Rounding to levels makes samples spread; an element that is 1 % off shows all the same."""
    for seed in range(12):
        program = layered_program(seed)
        wrong = interpret(program.graph, *program.runs[0])[0].copy()
        flat = wrong.reshape(-1)
        flat[np.abs(flat).argmax()] *= 1.01
        assert expect(program.graph, program.runs[0], lax=True).problem([wrong]), seed


# Networks are compressed by recipes, which takes half a second each.
@pytest.mark.parametrize(("programs", "networks", "nodes"), [
    pytest.param(120, 24, 120, marks=pytest.mark.slow), pytest.param(1000, 400, 1000, marks=pytest.mark.big)])
def test_many_more(programs: int, networks: int, nodes: int) -> None:
    assert not failures(partial(one_program, 3), range(1000, 1000 + programs))
    assert not failures(partial(one_program, 2, make=layered_program), range(1000, 1000 + networks))
    assert not failures(partial(models.one_model), range(1000, 1000 + nodes))


def test_a_program_meets_one_gpu() -> None:
    """Once every second program was refused there, by a GPU of another kind than the one that its process had seen."""
    drawn = [{form.target for form in forms(seed, 3, GPUS)} for seed in range(20)]
    assert all(len(targets) == 1 for targets in drawn)
    assert set().union(*drawn) == set(GPUS)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the simulator needs g++")
def test_random_programs_for_gpus() -> None:
    """In a process of its own, where the fake driver stays."""
    command = [sys.executable, "-m", "tests.fuzz", "--cuda", "--programs", "12", "--models", "12", "--forms", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "PASS" in done.stdout


@pytest.mark.parametrize("file", CORPUS, ids=lambda f: f.stem)
def test_what_once_failed(file: Path) -> None:
    check(corpus_program(file), FORMS)


def corpus_program(file: Path) -> Program:
    """The program of a file; `// sizes: N=3` lines give its runs, other symbols are 3."""
    text = file.read_text()
    graph = parse(text)
    sizes = [dict(re.findall(r"(\w+)=(\d+)", line)) for line in re.findall(r"^// sizes: (.*)$", text, re.M)] or [{}]
    runs = []
    for seed, given in enumerate(sizes):
        rng = np.random.default_rng(seed)
        env = dict.fromkeys("HLMNW", 3) | {name: int(n) for name, n in given.items()}
        runs.append([array(rng, v.tensor.dtype, [evaluate(d, env) for d in v.tensor.shape], hard=True)
                     for v in graph.inputs])
    return Program(0, graph, runs)


def test_seeds_stand_for_programs() -> None:
    from lepton.ir.printer import show

    for seed in (3, 4):
        a, b = random_program(seed), random_program(seed)
        assert show(a.graph, full_constants=True) == show(b.graph, full_constants=True)
        assert all(x.tobytes() == y.tobytes() for p, q in zip(a.runs, b.runs, strict=True)
                   for x, y in zip(p, q, strict=True))
    assert models.random_model(5).model() == models.random_model(5).model()


def test_every_op_is_made_or_excused() -> None:
    named = {name.rstrip("_") for file in Path(__file__).parent.glob("makers_*.py")
             for name in re.findall(r"\bops\.(\w+)", file.read_text())}
    made = named | {op.name for op in makers_basic.ELEMENTWISE}
    missing = OPS.keys() - made - NOT_MADE.keys()
    assert not missing, f"nothing makes {', '.join(sorted(missing))}: add a maker, or a row to NOT_MADE"
    rare = {"det", "gru", "range", "scan", "loop", "if", "scatter_nd", "conv_integer", "top_k", "non_zero", "attention"}
    assert rare <= {node.op.name for seed in range(400) for node in random_program(seed).graph.walk()}


def test_wrong_answers_are_seen() -> None:
    """The judge: exact ops exactly, sums within their rounding, what hangs on a rounding not at all."""
    warnings.simplefilter("ignore")
    x = Value(TensorType(DType.F32, (4,)), name="x")
    total = ops.reduce_sum(ops.exp(x), axes=(0,))
    near = ops.less(ops.exp(x), ops.reduce_max(ops.exp(x), axes=(0,), keepdims=True))
    graph = Graph.of("g", [x], [ops.neg(x), total, near])
    feed = np.array([1, 2, 3, np.nan], np.float32)
    feed[3] = 2.5
    right = interpret(graph, feed)
    expected = expect(graph, [feed])
    assert expected.problem(right) == ""
    assert expected.problem([right[0], right[1] * np.float32(1 + 1e-6), right[2]]) == ""
    assert "output 1" in expected.problem([right[0], right[1] * np.float32(1 + 1e-4), right[2]])
    assert "output 0" in expected.problem([np.nextafter(right[0], np.float32(9)), *right[1:]])
    assert "output 0" in expected.problem([np.full_like(right[0], np.nan), *right[1:]])
    flipped = right[2].copy()
    flipped[2] = not flipped[2]    # 3 against itself, each off by a rounding
    assert expected.problem([right[0], right[1], flipped]) == ""
    assert "output 2" in expected.problem([right[0], right[1], ~right[2]])


def test_failing_programs_are_made_small() -> None:
    """All that is left is the op that fails and what it needs."""
    program = next(p for p in map(random_program, range(1000)) if len(p.graph.nodes) > 5
                   and any(n.op is ops.exp for n in p.graph.nodes))

    def fails(p: Program) -> bool:
        return any(n.op is ops.exp for n in p.graph.nodes)

    small = minimise(program, fails)
    left = [n.op.name for n in small.graph.nodes if n.op is not ops.constant]
    assert left == ["exp"]
    interpret(clone(small.graph), *small.runs[0])


def test_writes_outside_an_output_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fuzz import running

    x = Value(TensorType(DType.U8, (3,)), name="x")
    program = Program(0, graph_of("g", [x], [ops.bit_not(x)]), [[np.arange(3, dtype=np.uint8)]])
    form = Form("x86-sse4", 2, "default", 1)
    check(program, [form])
    placed = running.Placed.check

    def one_more(self: running.Placed, name: str, want: np.ndarray) -> None:
        self.around[1][0] = 0
        placed(self, name, want)

    monkeypatch.setattr(running.Placed, "check", one_more)
    with pytest.raises(Mismatch, match="wrote outside"):
        check(program, [form])
