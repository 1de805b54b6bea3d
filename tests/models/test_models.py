"""Whole networks against ONNX Runtime: every target of this machine, one and two threads, in process and as .so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models.agreement import Setting, check, compiled, reference, targets
from tests.models.networks import BY_NAME, NETWORKS, Network


def _settings(network: Network) -> Iterator[tuple[Setting, tuple[pytest.MarkDecorator, ...]]]:
    """Ways to compile the network, with the marks that say when: see Network.cost."""
    for target in targets():
        for form in ("jit", "so"):
            for pinned in (False, True)[: 2 if network.dynamic else 1]:
                setting = Setting(target, form, pinned)
                few = (target == "native" and form == "so") or (target == "x86-avx2" and form == "jit" and pinned)
                in_ci = network.cost == "small" or (network.cost == "medium" and few)
                yield setting, ((pytest.mark.slow,) if in_ci else (pytest.mark.slow, pytest.mark.big))


CASES = [
    pytest.param(network.name, setting, marks=marks, id=f"{network.name}-{setting}")
    for network in NETWORKS
    for setting, marks in _settings(network)
]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


def _runs(network: Network, setting: Setting) -> range:
    return range(1 if setting.pinned or not network.dynamic else len(network.shapes))


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_agrees_with_onnxruntime(name: str, setting: Setting, artifacts: Path) -> None:
    network = BY_NAME[name]
    path = network.pinned_path() if setting.pinned else network.path()
    model = compiled(path, setting, artifacts)
    for threads in (1, 2):
        session = model.session(threads)
        for run in _runs(network, setting):
            feeds, want = reference(name, run)
            check(network, want, session.run(feeds))
            # A second run in the same memory must not see the first.
            check(network, want, session.run(feeds))


@pytest.mark.slow
def test_sizes_may_alternate(artifacts: Path) -> None:
    """One dynamic model, sizes back and forth: what one size left in memory must not show in the next."""
    network = BY_NAME["ppocr_rec"]
    model = compiled(network.path(), Setting("native", "so"), artifacts)
    for run in (0, 1, 0, 1):
        feeds, want = reference(network.name, run)
        check(network, want, model.run(feeds))


def test_every_network_has_a_setting_in_ci() -> None:
    """Big ones apart, each network is compiled at least once by `make test`."""
    always = {case.values[0] for case in CASES if pytest.mark.big not in case.marks}
    assert always == {network.name for network in NETWORKS if network.cost != "big"}
