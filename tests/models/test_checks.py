"""The trained models do what they are for, and give the same answers as under ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.models import checks
from tests.models.agreement import Setting, compiled, open_onnxruntime

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def open_lepton(tmp_path_factory: pytest.TempPathFactory) -> checks.Open:
    """Compiled to a .so for this machine, and loaded."""
    folder = tmp_path_factory.mktemp("artifacts")

    def open_model(path: Path) -> checks.Run:
        run: checks.Run = compiled(path, Setting("native", "so"), folder).run
        return run

    return open_model


def test_text_is_read(open_lepton: checks.Open) -> None:
    pairs = checks.read_text(open_lepton)
    assert pairs == checks.read_text(open_onnxruntime)
    assert sum(drawn == read for drawn, read in pairs) >= 18, pairs


def test_text_is_found(open_lepton: checks.Open) -> None:
    shares = checks.find_text(open_lepton)
    assert shares == pytest.approx(checks.find_text(open_onnxruntime), abs=1e-3)
    assert shares["words"] > 0.05
    assert shares["grain"] < 0.001


def test_orientation_is_seen(open_lepton: checks.Open) -> None:
    pairs = checks.upside_down(open_lepton)
    assert pairs == checks.upside_down(open_onnxruntime)
    assert all(turned == said for turned, said in pairs), pairs


def test_speech_is_heard(open_lepton: checks.Open) -> None:
    curve, inside = checks.hear_speech(open_lepton)
    np.testing.assert_allclose(curve, checks.hear_speech(open_onnxruntime)[0], atol=1e-3)
    assert ((curve > 0.5) == inside).mean() > 0.85


def test_sequence_equals_steps(open_lepton: checks.Open) -> None:
    """The whole curve in one call: an LSTM over time instead of state carried by the caller."""
    curve, inside = checks.hear_sequence(open_lepton)
    np.testing.assert_allclose(curve, checks.hear_sequence(open_onnxruntime)[0], atol=1e-3)
    assert ((curve > 0.5) == inside).mean() > 0.85


def test_file_types_are_named(open_lepton: checks.Open) -> None:
    named = checks.name_files(open_lepton)
    assert named == checks.name_files(open_onnxruntime)
    right = sum(meant == said for _, meant, said in named)
    assert right >= 0.85 * len(named), [entry for entry in named if entry[1] != entry[2]]
