"""`lepton ops`: manual pages, and the page of operators, which must be current."""

from __future__ import annotations

from pathlib import Path

import pytest

from lepton.commands import operators
from lepton.ir import ops
from lepton.tool import main

PAGE = Path(__file__).parents[2] / "docs/operators.md"


def test_the_page_of_operators_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["ops", "--check", str(PAGE)])
    assert code == 0, capsys.readouterr().out + "\nlepton ops --markdown docs/operators.md writes it anew"


def test_a_stale_page_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "operators.md"
    page.write_text(PAGE.read_text().replace("| Abs | 1, 6, 13 |", "| Abs | 1, 6 |"))
    assert main(["ops", "--check", str(page)]) == 1
    out = capsys.readouterr().out
    assert "-| Abs | 1, 6 |" in out
    assert "+| Abs | 1, 6, 13 |" in out


def test_rows_say_what_importers_use() -> None:
    rows = {(row.domain, row.name): row for row in operators.rows()}
    assert rows["", "Conv"].ops == (ops.conv,)
    assert rows["", "Conv"].how == "template"
    assert rows["", "Relu"].how == "fused"
    assert rows["", "Transpose"].how == "no code"
    assert rows["", "Shape"].how == "its values, when importing"
    assert ops.top_k in rows["", "TopK"].ops
    assert rows["", "Abs"].versions == (1, 6, 13)
    assert "floats" in rows["", "Abs"].types


def test_every_kind_is_known() -> None:
    assert operators.kind_of(ops.matmul) == "template"
    assert operators.kind_of(ops.reduce_sum) == "loop kernel"
    assert operators.kind_of(ops.loop_) == "control flow"
    assert operators.kind_of(ops.reshape) == "no code"


def test_pages_of_ops(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "conv"]) == 0
    assert capsys.readouterr().out.startswith("conv(x, w, b?")
