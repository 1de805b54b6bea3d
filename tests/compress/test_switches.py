"""One compilation in which layers are rounded or not; layers that read 16 bits among others that read bytes."""
from __future__ import annotations

import numpy as np
import pytest

import lepton
from lepton.compress import Calibration, Recipe, quantize_model
from lepton.compress.metrics import distance
from lepton.compress.switches import Switched
from lepton.ir import ops
from lepton.ir.diagnostics import UsageError
from lepton.ir.evaluate import evaluate
from lepton.ir.types import DType
from tests.compress.test_quantize import attention, calibration, images, net


@pytest.fixture(scope="module")
def switched() -> Switched:
    return Switched(calibration(), Recipe())


def test_all_switches_off_is_the_float_model(switched: Switched) -> None:
    for run, got in zip(calibration().runs, switched.answers(calibration().runs), strict=True):
        np.testing.assert_allclose(got["y"], evaluate(calibration().graph, run.feeds["x"])[0], rtol=1e-4, atol=1e-5)


def test_a_switch_rounds_what_the_recipe_for_that_layer_rounds(switched: Switched) -> None:
    """All layers, and each alone; biases as levels of 32 bits are not in it, which moves what lies between levels."""
    runs, exact = calibration().runs, switched.answers(calibration().runs)
    for names in (tuple(switched.names), *((name,) for name in switched.names)):
        graph = calibration().quantize(Recipe(only=names))
        want = [{"y": evaluate(graph, run.feeds["x"])[0]} for run in runs]
        got = switched.answers(runs, names, names)
        assert distance(want, exact) > 0
        assert distance(got, want) < 0.2 * distance(want, exact)


def test_inputs_and_weights_have_switches_of_their_own(switched: Switched) -> None:
    runs, exact = calibration().runs, switched.answers(calibration().runs)
    inputs, weights = switched.answers(runs, switched.names), switched.answers(runs, (), switched.names)
    assert min(distance(inputs, exact), distance(weights, exact), distance(inputs, weights)) > 0


def test_products_of_activations_have_switches() -> None:
    """They have no weights."""
    data = np.random.default_rng(8).standard_normal((16, 10, 16)).astype(np.float32)
    known = Calibration.of(attention(), data)
    switched = Switched(known, Recipe())
    exact, layer = switched.answers(known.runs), "s"
    assert distance(switched.answers(known.runs, (layer,)), exact) > 0
    assert distance(switched.answers(known.runs, (), (layer,)), exact) == 0


def test_some_layers_read_16_bits() -> None:
    """The finer inputs are better, the compiled code says what the graph says, and both kinds are in one model."""
    runs = images(16, 1)
    names = [layer for layer in Switched(calibration(), Recipe()).names if layer != "y"]
    want = evaluate(calibration().graph, runs)[0]
    lost = {}
    for wide in ((), tuple(names), (*names, "y")):
        graph = calibration().quantize(Recipe(wide=wide))
        (meant,), got = evaluate(graph, runs), lepton.compile(graph)(runs)
        np.testing.assert_allclose(got, meant, rtol=0, atol=0.01 * float(np.abs(meant).max()))
        lost[wide] = float(np.linalg.norm(meant - want))
        types = {n.attrs["to"] for n in graph.nodes if n.op is ops.quantize}
        assert types == ({DType.U8} if not wide else {DType.U16} if "y" in wide else {DType.U8, DType.U16})
    assert list(lost.values()) == sorted(lost.values(), reverse=True)


def test_signs_stay_and_skipped_layers_are_not_asked_for() -> None:
    graph = calibration().quantize(Recipe(activations="i8", wide=("y",)))
    assert {n.attrs["to"] for n in graph.nodes if n.op is ops.quantize} == {DType.I8, DType.I16}
    graph = calibration().quantize(Recipe(wide=("y",), skip=("y",)))
    assert {n.attrs["to"] for n in graph.nodes if n.op is ops.quantize} == {DType.U8}
    with pytest.raises(UsageError, match="no layer 'nothing'"):
        quantize_model(net(), calibration=images(16), wide=("nothing",))
