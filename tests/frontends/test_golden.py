"""Golden tests: a model in onnx's text format, and the graph it becomes. `pytest --update-golden` rewrites them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from lepton.frontends import load
from lepton.ir.diagnostics import LeptonError
from lepton.ir.parser import parse
from lepton.ir.printer import show
from lepton.ir.verify import verify

HERE = Path(__file__).parent
BETWEEN, HALF = "// ===\n", "// ---\n"


def cases() -> list[tuple[Path, int]]:
    return [(file, k) for file in sorted(HERE.glob("*.onnxtxt")) for k in range(len(file.read_text().split(BETWEEN)))]


def title(case: tuple[Path, int]) -> str:
    first = case[0].read_text().split(BETWEEN)[case[1]].strip().splitlines()[0]
    return f"{case[0].stem}: {first.removeprefix('// ')}"


def outcome(text: str) -> str:
    """The graph, or the error, that a model becomes. Lines that begin with // are comments; `// dims: N=1` pins."""
    lines = text.splitlines()
    pins = {k: int(v) for line in lines if line.startswith("// dims:")
            for k, _, v in (pair.partition("=") for pair in line.removeprefix("// dims:").split())}
    model = onnx.parser.parse_model("\n".join(line for line in lines if not line.startswith("//")))
    try:
        graph = load(model, dims=pins)
    except LeptonError as error:
        return f"{type(error).__name__}: {error}\n"
    verify(graph)
    shown = show(graph)
    assert show(parse(shown)) == shown
    return shown


@pytest.mark.parametrize("case", cases(), ids=title)
def test_import(case: tuple[Path, int], update_golden: bool) -> None:
    file, k = case
    parts = file.read_text().split(BETWEEN)
    before, _, expected = parts[k].partition(HALF)
    got = outcome(before)
    if update_golden:
        parts[k] = f"{before}{HALF}{got}" + ("\n" if k < len(parts) - 1 else "")
        file.write_text(BETWEEN.join(parts))
        return
    assert got.strip() == expected.strip()
