"""Masks and criteria of pruning, and compiled pruned models."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lepton
from lepton.compress.prune import masks, prune_model, remask, save_masks
from lepton.inputs import read_arrays
from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import UsageError
from lepton.ir.dims import sym
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from lepton.passes.compress.layers import layers
from lepton.passes.compress.masks import Pattern, best_of_each, block_means, by_taps, from_taps, mask_of, spread

RNG = np.random.default_rng(0)


def weight(*shape: int, scale: float = 1.0) -> Value:
    return ops.constant(value=Tensor.of((RNG.standard_normal(shape) * scale).astype(np.float32)))


def network() -> Graph:
    """Convolutions of 32 channels, one of them grouped, a classifier."""
    same = {"strides": (1, 1), "pads_begin": (1, 1), "pads_end": (1, 1), "dilations": (1, 1)}
    x = Value(TensorType(DType.F32, (sym("N"), 8, 12, 12)), name="x")
    y = ops.relu(ops.conv(x, weight(64, 8, 3, 3, scale=0.2), weight(64), **same))     # type: ignore[arg-type]
    y = ops.relu(ops.conv(y, weight(64, 64, 3, 3, scale=0.05), weight(64), **same))   # type: ignore[arg-type]
    y = ops.relu(ops.conv(y, weight(64, 32, 3, 3, scale=0.05), **same, group=2))      # type: ignore[arg-type]
    y = ops.matmul(ops.reduce_mean(y, axes=(2, 3)), weight(64, 10))
    y.name = "y"
    return Graph.of("network", (x,), (y,))


def wide() -> Graph:
    """One product over inputs that are far from independent."""
    x = Value(TensorType(DType.F32, (sym("N"), 48)), name="x")
    y = ops.matmul(x, weight(48, 32))
    y.name = "y"
    return Graph.of("wide", (x,), (y,))


def correlated(rows: int = 400) -> Array:
    mix = np.random.default_rng(3).standard_normal((12, 48)) * np.linspace(0.1, 3, 48)
    noise = np.random.default_rng(4).standard_normal((rows, 48)) * 0.1
    return np.asarray(np.random.default_rng(5).standard_normal((rows, 12)) @ mix + noise, np.float32)


@pytest.mark.parametrize(("text", "pattern"), [
    ("unstructured", Pattern()), ("16x1", Pattern(16, 1)), ("block16", Pattern(16, 1)), ("1x16", Pattern(1, 16)),
    ("4x4", Pattern(4, 4)), ("2:4", Pattern(1, 1, 2, 4)), ("16x2:4", Pattern(16, 1, 2, 4)),
])
def test_patterns(text: str, pattern: Pattern) -> None:
    assert Pattern.parse(text) == pattern


@pytest.mark.parametrize("text", ["", "0x4", "4", "4:2", "0:4", "x4", "4x4x4", "2:4x16", "-1x2"])
def test_patterns_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="unknown pattern"):
        Pattern.parse(text)


@pytest.mark.parametrize("pattern", [Pattern(), Pattern(16, 1), Pattern(1, 16), Pattern(4, 4), Pattern(3, 5)])
@pytest.mark.parametrize("shape", [(33, 9, 19), (1, 1, 7), (16, 1, 16)])
def test_blocks_cover_everything_once(pattern: Pattern, shape: tuple[int, ...]) -> None:
    scores = RNG.random(shape)
    numbered = np.arange(block_means(scores, pattern).size, dtype=float).reshape(block_means(scores, pattern).shape)
    whole = spread(numbered, pattern, shape)
    assert whole.shape == shape
    np.testing.assert_allclose(block_means(whole, pattern), numbered)
    mask = mask_of(scores, pattern, 0.5)
    assert set(block_means(mask.astype(float), pattern).reshape(-1).tolist()) <= {0.0, 1.0}
    if numbered.size > 1:
        assert abs(mask.mean() - 0.5) < 0.35


def test_best_of_each_group_counts() -> None:
    kept = best_of_each(RNG.random((6, 3, 10)), 2, 4)
    assert (kept[:, :, :8].reshape(6, 3, 2, 4).sum(axis=3) == 2).all()
    assert (kept[:, :, 8:].sum(axis=2) == 2).all()


def test_taps_come_back() -> None:
    for layer in layers(network()):
        taps = by_taps(layer, layer.matrix)
        assert taps.shape[1:] == ((9, layer.weight.shape[1]) if layer.is_conv else (1, layer.matrix.shape[1]))
        np.testing.assert_array_equal(from_taps(taps), layer.matrix)


@pytest.mark.parametrize("pattern", ["16x1", "unstructured", "1x16", "2:4", "channels"])
def test_compiled_pruned_models_answer_like_the_graph(pattern: str) -> None:
    graph = prune_model(network(), 0.75, pattern, multiple=1)
    x = RNG.standard_normal((2, 8, 12, 12)).astype(np.float32)
    (want,) = evaluate(graph, x)
    got = lepton.compile(graph)(x)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
    zeros = [1 - np.count_nonzero(layer.weight) / layer.weight.size for layer in layers(graph)]
    if pattern == "channels":
        assert max(zeros) == 0
        assert layers(graph)[0].weight.shape[0] == 16
    else:
        share = 0.5 if pattern == "2:4" else 0.75
        assert all(abs(z - share) < 0.15 for z in zeros), zeros


def test_calibration_pays() -> None:
    """On data not seen, the error of the layer: obs below wanda below magnitude."""
    graph, seen, unseen = wide(), correlated()[:200], correlated()[200:]
    (want,) = evaluate(graph, unseen)
    error = {}
    for criterion in ("magnitude", "wanda", "obs"):
        small = prune_model(graph, 0.5, "unstructured", criterion=criterion, data=seen)
        error[criterion] = float(np.square(evaluate(small, unseen)[0] - want).mean())
        assert np.count_nonzero(layers(small)[0].weight) == 48 * 16
    assert error["obs"] < 0.5 * error["wanda"] < 0.25 * error["magnitude"], error


def test_readers_make_up_for_channels_that_went() -> None:
    """The error on data not seen is well below that of leaving them out."""
    graph, data = network(), np.random.default_rng(3).standard_normal((60, 8, 12, 12)).astype(np.float32)
    (want,) = evaluate(graph, data[40:])
    error = {}
    for criterion in ("wanda", "obs"):
        small = prune_model(graph, 0.3, "channels", criterion=criterion, data=data[:40], multiple=1)
        assert layers(small)[0].weight.shape[0] < 64
        error[criterion] = float(np.square(evaluate(small, data[40:])[0] - want).mean())
    assert error["obs"] < 0.7 * error["wanda"], error


def test_calibrated_blocks_groups_and_channels() -> None:
    data = RNG.standard_normal((2, 8, 12, 12)).astype(np.float32)
    (want,) = evaluate(network(), data)
    for pattern, criterion in (("16x1", "obs"), ("4x4", "wanda"), ("channels", "wanda"), ("channels", "obs")):
        small = prune_model(network(), 0.25, pattern, criterion=criterion, data=data, multiple=1)  # type: ignore[arg-type]
        (got,) = evaluate(small, data)
        assert got.shape == want.shape
        assert np.isfinite(got).all()


def test_one_threshold_for_all() -> None:
    graph = prune_model(network(), 0.7, "16x1", across=True)
    zeros = np.concatenate([(layer.weight == 0).reshape(-1) for layer in layers(graph)])
    assert abs(float(zeros.mean()) - 0.7) < 0.1
    assert all((layer.weight != 0).any() for layer in layers(graph))


def test_masks_are_kept_and_applied_again(tmp_path: Path) -> None:
    pruned = prune_model(network(), 0.6, "16x1")
    kept = masks(pruned)
    assert len(kept) == 4
    save_masks(kept, tmp_path / "masks.npz")
    again = remask(network(), tmp_path / "masks.npz")
    assert masks(again).keys() == kept.keys()
    for name, mask in masks(again).items():
        np.testing.assert_array_equal(mask, kept[name])
    with pytest.raises(UsageError, match="mask of layer"):
        remask(network(), {next(iter(kept)): np.ones((1, 1), bool)})
    with pytest.raises(UsageError, match="no layer 'nowhere'"):
        remask(network(), {"nowhere": np.ones((1, 1), bool)})
    with pytest.raises(UsageError, match=r"mask of layer .* is \[\]"):
        remask(network(), {next(iter(kept)): True})  # type: ignore[dict-item]


def test_masks_of_layers_of_any_name(tmp_path: Path) -> None:
    named = {name: np.eye(3, dtype=bool) for name in ("file", "allow_pickle", "/a/b:0", "weiß")}
    save_masks(named, tmp_path / "masks.npz")
    found = read_arrays(tmp_path / "masks.npz")
    assert found.keys() == named.keys()
    np.testing.assert_array_equal(found["file"], named["file"])


@pytest.mark.parametrize(("given", "message"), [
    ({"rate": 1.0}, "rate 1.0"), ({"rate": -0.1}, "rate"), ({"criterion": "luck"}, "unknown criterion"),
    ({"criterion": "obs"}, "needs calibration data"), ({"only": ("nothing",)}, "no layer 'nothing'"),
    ({"pattern": "channels", "rate": 2.0}, "rate 2.0"),
    ({"criterion": "wanda", "data": np.full((1, 8, 12, 12), np.nan, np.float32)}, "NaN"),
])
def test_what_does_not_work_is_said(given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prune_model(network(), **given)  # type: ignore[arg-type]
