"""Every level and math policy gives ONNX Runtime's answers: what differs is speed, size and the last bits."""

from __future__ import annotations

from pathlib import Path

import pytest

import lepton
from tests.models.agreement import check, reference
from tests.models.networks import BY_NAME

LEVELS = [(0, "default"), (1, "default"), (2, "strict"), (2, "fast"), (3, "default"), (3, "fast")]


@pytest.mark.slow
@pytest.mark.parametrize(("level", "math"), LEVELS)
@pytest.mark.parametrize("name", ["ppocr_cls", "light_resnet50", "minilm_l3", "silero_ifless"])
def test_levels_agree(name: str, level: int, math: str) -> None:
    network = BY_NAME[name]
    model = lepton.compile(network.path(), level=level, math=math)
    for run in range(len(network.shapes)):
        feeds, want = reference(name, run)
        check(network, want, model.run(feeds))


@pytest.mark.slow
def test_strict_answers_do_not_depend_on_the_number_of_threads() -> None:
    network = BY_NAME["light_resnet50"]
    model = lepton.compile(network.path(), math="strict")
    feeds, _ = reference("light_resnet50", 0)
    one, two = (model.session(n).run(feeds) for n in (1, 2))
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("level", [2, 3])
def test_artifacts_are_as_large_as_their_weights(level: int, tmp_path: Path) -> None:
    network = BY_NAME["light_resnet50"]
    lepton.compile_to(network.path(), tmp_path / "model.so", level=level)
    assert (tmp_path / "model.so").stat().st_size < 1.05 * network.path().stat().st_size + 2**20
