"""The harness of golden tests: `.lir` files (see `lepton.passes.cases`) that say what a pipeline makes of a graph.

For every case it compares the text, and also proves what no text shows: the result verifies, its text reads back,
inputs and outputs are the same as before, both graphs give the same answers on random inputs, and a pass that says it
changed nothing did not.
"""
from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from lepton.ir.core import Graph
from lepton.ir.diagnostics import LeptonError
from lepton.ir.evaluate import evaluate
from lepton.ir.parser import parse
from lepton.ir.printer import show
from lepton.ir.sample import Accuracy, difference, random_inputs, random_run
from lepton.ir.tensor import Tensor
from lepton.ir.verify import verify
from lepton.passes.cases import UNCHANGED, Case, read_cases, with_expected
from lepton.passes.instruments import tolerance_of
from lepton.passes.pipeline import Pipeline, parse_pipeline

ORDER: tuple[Accuracy, ...] = ("exact", "reassociating", "approximate")


class GoldenError(AssertionError):
    """A case did not come out as its file says."""


def find_cases(folder: Path) -> list[tuple[Path, int]]:
    """(file, number of the case) for every case under the folder."""
    files = sorted(folder.rglob("*.lir"))
    return [(file, i) for file in files for i in range(len(read_cases(file.read_text(encoding="utf-8"))))]


def case_id(file: Path, index: int) -> str:
    return f"{file.stem}-{read_cases(file.read_text(encoding='utf-8'))[index].name}"


def check_file(file: Path, index: int, *, update: bool = False) -> None:
    """Check one case of a file. Raises GoldenError; with `update` its expectation becomes what came out."""
    text = file.read_text(encoding="utf-8")
    case = read_cases(text)[index]
    found = outcome(case, str(file))
    if found == case.expected:
        return
    if update:
        file.write_text(with_expected(text, index, found), encoding="utf-8")
        return
    if case.expected is None:
        raise GoldenError(f"{file}: no expectation; `pytest --update-golden` writes it:\n{found}")
    diff = difflib.unified_diff(case.expected.splitlines(), found.splitlines(), "expected", "found", n=99, lineterm="")
    raise GoldenError(f"{file}: {case.name}\n" + "\n".join(diff))


def outcome(case: Case, file: str = "<text>") -> str:
    """What a case's expectation should say. Raises GoldenError where the passes break more than the text."""
    wants_error = case.expected is not None and case.expected.startswith("error:")
    try:
        graph, pipeline = parse(case.before, file), parse_pipeline(case.run)
        original = show(graph)
        run_and_check(case, graph, pipeline, file)
    except LeptonError as error:
        if not wants_error:
            raise
        said = f"error: {error.message}"
        return case.expected if case.expected is not None and said.startswith(case.expected) else said
    after = show(graph)
    return UNCHANGED if after == original and case.expected != after.strip() else after.strip()


def run_and_check(case: Case, graph: Graph, pipeline: Pipeline, file: str) -> None:
    """Run the pipeline on the graph. Raises GoldenError."""
    verify(graph)
    inputs, want = reference(case, parse(case.before, file))
    before, names = signature(graph), [v.name for v in graph.outputs]
    for pass_ in pipeline.passes:
        text = show(graph)
        changed = pass_.run(graph)
        verify(graph)
        if not changed and show(graph) != text:
            raise GoldenError(f"{case.name}: {pass_} says that it changed nothing, and did")
    if signature(graph) != before:
        raise GoldenError(f"{case.name}: inputs or outputs were {before}, became {signature(graph)}")
    check_names(case, graph, names)
    check_text(graph)
    accuracy: Accuracy | float = max(map(tolerance_of, pipeline.passes), key=ORDER.index, default="exact")
    if case.accuracy is not None:
        accuracy = case.accuracy
    if problem := difference(want, evaluate(graph, *inputs), accuracy):
        raise GoldenError(f"{case.name}: the answers changed: {problem}\n{show(graph)}")


def reference(case: Case, original: Graph) -> tuple[list[Any], list[Any]]:
    """Random inputs and the answers before any pass."""
    if case.sizes is None:
        return random_run(original)
    inputs = random_inputs(original, sizes=dict(case.sizes))
    return inputs, evaluate(original, *inputs)


def check_text(graph: Graph) -> None:
    """The text reads back to a graph with the same text, with large constants elided and written out."""
    constants = {t.digest: t for n in graph.walk() for t in n.attrs.values() if isinstance(t, Tensor)}
    for again in (parse(show(graph), constants=constants), parse(show(graph, full_constants=True))):
        verify(again)
        if show(again) != show(graph):
            raise GoldenError(f"the text does not read back:\n{show(graph)}\nbecame\n{show(again)}")


def check_names(case: Case, graph: Graph, names: list[str | None]) -> None:
    """Outputs keep their names; but an output that has become an input, or another output too, has that one's."""
    for name, value in zip(names, graph.outputs, strict=True):
        free = value not in graph.inputs and graph.outputs.count(value) == 1
        if name and free and value.name != name:
            raise GoldenError(f"{case.name}: output %{name} has become %{value.name}")


def signature(graph: Graph) -> str:
    """What callers rely on: names and types of inputs, types of outputs."""
    inputs = ", ".join(f"{v.name}: {v.type}" for v in graph.inputs)
    return f"({inputs}) -> {', '.join(str(v.type) for v in graph.outputs)}"
