"""What the judge lets pass is as narrow as it says: next to all that is excused, a wrong element is still seen."""
from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.dims import sym
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType
from tests.conformance.compare import Mismatch
from tests.fuzz import models
from tests.fuzz.explained import ROWS, explanation
from tests.fuzz.judge import Expected, expect
from tests.fuzz.recipe import Recipe
from tests.fuzz.running import HERE

WINDOW: dict[str, Any] = {"strides": (1, 1), "dilations": (1, 1)}
PADDED = WINDOW | {"pads_begin": (1, 1), "pads_end": (1, 1)}
BARE = WINDOW | {"pads_begin": (0, 0), "pads_end": (0, 0)}


def floats(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def put(x: Array, at: tuple[int, ...], value: float) -> Array:
    x = x.copy()
    x[at] = value
    return x


@dataclass(frozen=True)
class Excuse:
    """A node, an element of its result that may be anything, and one that may not."""

    name: str
    make: Callable[..., Value]
    operands: tuple[Array, ...]
    free: tuple[int, ...]
    bound: tuple[int, ...]
    lax: bool = True


IMAGE, FILTERS = floats(1, 2, 12, 12), floats(3, 2, 3, 3)
FAR = put(IMAGE, (0, 0, 0, 0), np.inf)
STEPS: dict[str, Any] = {"hidden": 3, "direction": "forward"}
RECURRENT = (floats(4, 2, 3), floats(1, 12, 3), floats(1, 12, 3))

EXCUSES = [
    Excuse("sum", lambda x: ops.reduce_sum(x, axes=(1,)), (put(floats(2, 4), (0, 1), 3e38),), (0,), (1,)),
    Excuse("mean", lambda x: ops.reduce_mean(x, axes=(1,)), (put(floats(2, 4), (0, 1), 3e38),), (0,), (1,)),
    Excuse("matmul", ops.matmul, (put(floats(3, 4), (1, 0), 3e38), floats(4, 5)), (1, 2), (0, 2)),
    Excuse("product", lambda x: ops.reduce_prod(x, axes=(1,)), (put(put(floats(2, 4), (0, 1), 1e30), (0, 2), 1e30),),
           (0,), (1,)),
    Excuse("small product", lambda x: ops.reduce_prod(x, axes=(1,)),
           (put(put(floats(2, 4), (0, 1), 1e-30), (0, 2), 1e-30),), (0,), (1,)),
    Excuse("running product", lambda x: ops.cumprod(x, axis=0), (np.full(9, 1e10, np.float32),), (8,), (2,)),
    Excuse("infinite filter", lambda x, w: ops.conv(x, w, **PADDED), (IMAGE, put(FILTERS, (1, 0, 0, 0), np.inf)),
           (0, 1, 0, 0), (0, 1, 5, 5), lax=False),
    Excuse("filter next to it", lambda x, w: ops.conv(x, w, **PADDED), (IMAGE, put(FILTERS, (1, 0, 0, 0), np.inf)),
           (0, 1, 5, 5), (0, 2, 0, 0)),
    Excuse("Winograd's tile", lambda x, w: ops.conv(x, w, **BARE), (FAR, FILTERS), (0, 1, 3, 3), (0, 1, 7, 0)),
    Excuse("transposed", lambda x, w: ops.conv_transpose(x, w, output_padding=(0, 0), **BARE),
           (IMAGE, put(floats(2, 3, 3, 3), (0, 1, 0, 0), np.inf)), (0, 1, 13, 13), (0, 0, 0, 0)),
    Excuse("state", lambda x, w, r: ops.lstm.node(x, w, r, **STEPS).results[0],
           (put(RECURRENT[0], (2, 1, 0), np.inf), *RECURRENT[1:]), (2, 0, 1, 0), (2, 0, 0, 0)),
    Excuse("state before", lambda x, w, r: ops.lstm.node(x, w, r, **STEPS).results[0],
           (put(RECURRENT[0], (2, 1, 0), np.inf), *RECURRENT[1:]), (3, 0, 1, 2), (1, 0, 1, 0)),
    Excuse("determinant", ops.det, (put(floats(2, 3, 3), (0, 1, 1), 1e30),), (0,), (1,)),
    Excuse("channels", lambda x: ops.lrn(x, size=3, alpha=0.1, beta=0.75, bias=1.0),
           (put(floats(1, 9, 2, 2), (0, 1, 0, 0), 1e30),), (0, 2, 0, 0), (0, 2, 0, 1)),
    Excuse("scores", lambda q, k, v: ops.attention(q, k, v, scale=1.0),
           (put(floats(1, 1, 3, 4), (0, 0, 1, 0), 1e30), floats(1, 1, 5, 4), floats(1, 1, 5, 2)), (0, 0, 1, 0),
           (0, 0, 2, 0)),
    Excuse("powers", lambda x: ops.lp_pool(x, kernel=(2, 2), p=3, ceil_mode=False, **BARE),
           (put(floats(1, 1, 6, 6), (0, 0, 0, 0), 1e20),), (0, 0, 0, 0), (0, 0, 3, 3)),
]


def expected_of(excuse: Excuse) -> tuple[Expected, Array]:
    warnings.simplefilter("ignore")
    inputs = [Value(TensorType(DType.of(x), x.shape), name=f"x{i}") for i, x in enumerate(excuse.operands)]
    graph = Graph.of("g", inputs, [excuse.make(*inputs)])
    return expect(graph, excuse.operands, 24, excuse.lax), evaluate(graph, *excuse.operands)[0]


@pytest.mark.parametrize("excuse", EXCUSES, ids=lambda e: e.name.replace(" ", "-"))
def test_only_what_is_excused_may_be_anything(excuse: Excuse) -> None:
    expected, right = expected_of(excuse)
    assert expected.problem([right]) == ""
    for wrong in (np.nan, 12345.0):
        assert expected.problem([put(right, excuse.free, wrong)]) == "", "what is excused was seen"
        assert "output 0" in expected.problem([put(right, excuse.bound, wrong)]), "a wrong element was not seen"


def test_empty_images_spoil_no_samples() -> None:
    """A node that the noise could not move made every sample the same, and all of the program's roundings wrong."""
    x, w = floats(8, 2, 2, 9), floats(2, 2, 3, 3)
    image, filters = (Value(TensorType(DType.F32, a.shape), name=n) for a, n in ((x, "x"), (w, "w")))
    graph = Graph.of("g", [image, filters], [ops.conv(image, filters, **BARE), ops.exp(image)])
    samples = expect(graph, [x, w]).samples
    assert len(samples) == 7
    assert any((s[1] != samples[0][1]).any() for s in samples)


def test_norms_and_softmax_have_no_excuse() -> None:
    """Their rows keep their accuracy at any magnitude, and one NaN is all of the row."""
    x = put(put(floats(3, 8), (0, 2), 1e30), (1, 3), np.nan)
    for make in (lambda v: ops.softmax(v, axis=1), lambda v: ops.log_softmax(v, axis=1)):
        value = Value(TensorType(DType.F32, x.shape), name="x")
        graph = Graph.of("g", [value], [make(value)])
        right, expected = evaluate(graph, x)[0], expect(graph, [x], 24)
        assert expected.problem([right]) == ""
        for at in ((0, 0), (0, 2), (1, 0), (2, 0)):
            assert expected.problem([put(right, at, 0.25)])


def test_only_open_sizes_make_coordinates_uncertain() -> None:
    x = floats(1, 1, 5, 6)
    for shape, room in (((1, 1, 5, 6), False), ((1, 1, sym("H"), 6), True)):
        value = Value(TensorType(DType.F32, shape), name="x")
        sizes = (1, 1, shape[2] * 2, 12)
        graph = Graph.of("g", [value], [ops.resize(value, sizes=sizes, mode="linear")])
        right, expected = evaluate(graph, x)[0], expect(graph, [x], 24)
        near = right + np.float32(4e-6) * np.sign(right)
        assert (expected.problem([near]) == "") is room
        assert expected.problem([right + np.float32(1e-3)])


def test_a_row_s_mean_is_off_by_its_own_units_only() -> None:
    x = floats(2, 64) + np.array([[1000.0], [0.0]], np.float32)
    scale = Value(TensorType(DType.F32, (64,)), name="scale")
    value = Value(TensorType(DType.F32, x.shape), name="x")
    graph = Graph.of("g", [value, scale], [ops.layer_norm(value, scale, axis=1, epsilon=1e-5)])
    feeds = [x, np.ones(64, np.float32)]
    right, expected = evaluate(graph, *feeds)[0], expect(graph, feeds, 24)
    off = np.array([[1e-4], [0]], np.float32)
    assert expected.problem([right + off]) == ""
    assert expected.problem([right + off[::-1]])


# --- models against ONNX Runtime ------------------------------------------------------------------


def recipe_of(op: str, feeds: list[Array], weights: list[Array], *, opset: int = 13, outputs: int = 1,
              inputs: list[str] | None = None, **attrs: Any) -> Recipe:
    recipe = Recipe(0)
    recipe.open = False
    names = [recipe.input(x) for x in feeds] + [recipe.weight(w) for w in weights]
    recipe.node(op, inputs or names, opset=opset, outputs=outputs, **attrs)
    return recipe


CLIPPED = [floats(1, 12, 3), floats(1, 12, 3, seed=1)]
# In the order of ROWS' operators: the model, and where Lepton's answer, once wrong, must be found out.
DISPUTED = {
    "Slice": recipe_of("Slice", [floats(5, 3)], [np.array(v, np.int64) for v in ([-1], [2**31 - 1], [0], [-1])]),
    "ConvTranspose": recipe_of("ConvTranspose", [floats(1, 2, 4, 4)], [floats(2, 2, 2, 2)], strides=[2, 2],
                               output_shape=[9, 9]),
    "LSTM": recipe_of("LSTM", [3 * floats(5, 2, 3)], CLIPPED, hidden_size=3, outputs=3, clip=0.5, opset=14),
    "Resize": recipe_of("Resize", [floats(1, 1, 5, 5)], [np.array([1, 1, 1.4, 1.4], np.float32)],
                        inputs=["x0", "", "w0"], mode="nearest", nearest_mode="floor",
                        coordinate_transformation_mode="asymmetric"),
    "AveragePool": recipe_of("AveragePool", [floats(1, 1, 7, 7)], [], kernel_shape=[3, 3], dilations=[2, 2],
                             strides=[2, 2], auto_pad="SAME_UPPER", opset=19),
}


@pytest.mark.parametrize("op", sorted(DISPUTED))
def test_a_row_explains_its_own_difference_and_no_other(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = DISPUTED[op]
    proto = recipe.model()
    want = models._runtime(proto, recipe.feeds)
    got = models._compile_and_run(proto, recipe.feeds, models.form_of(0, HERE), op)
    expected = models._meaning(proto, list(recipe.feeds.values()), op)
    if models.difference(got, want, expected):
        row = explanation(recipe, want, got)
        assert row is not None
        if row.settle is not None:
            models._settle(row, recipe, models.form_of(0, HERE), got, expected)
    compile_and_run = models._compile_and_run

    def wrong(*args: Any) -> list[Array]:
        results = compile_and_run(*args)
        return [r * np.float32(1.001) if r.size else np.ones((1, *r.shape[1:]), r.dtype) for r in results]

    monkeypatch.setattr(models, "_compile_and_run", wrong)
    monkeypatch.setattr(models, "random_model", lambda seed: recipe)
    with pytest.raises(Mismatch):
        models.one_model(0)


def test_every_disputed_operator_is_tried() -> None:
    pools = {"MaxPool", "LpPool", "Conv"}   # as AveragePool
    assert {row.op for row in ROWS} - pools == set(DISPUTED)


def test_small_errors_of_small_elements_are_seen() -> None:
    """Errors are held against each element, not against the largest of all."""
    x = np.array([1e4, 1.0, 0.3], np.float32)
    recipe = recipe_of("Mul", [x], [np.array(3, np.float32)])
    expected = models._meaning(recipe.model(), [x], "Mul")
    assert models.difference([x * 3], [x * 3], expected) == ""
    assert models.difference([put(x * 3, (1,), 3.001)], [x * 3], expected)
    assert models.difference([put(x * 3, (1,), np.nan)], [x * 3], expected)


def test_levels_differ_only_at_ties() -> None:
    x = np.array([0.5, 1.2, 2.7], np.float32)
    recipe = recipe_of("QuantizeLinear", [x], [np.array(1, np.float32), np.array(0, np.uint8)])
    expected = models._meaning(recipe.model(), [x], "QuantizeLinear")
    assert differs([0, 1, 3], [1, 1, 3], np.uint8, expected) == ""
    assert differs([0, 2, 3], [0, 1, 3], np.uint8, expected)
    cast = recipe_of("Cast", [x], [], to=int(TensorProto.INT32))
    expected = models._meaning(cast.model(), [x], "Cast")
    assert differs([0, 1, 3], [0, 1, 2], np.int32, expected)


def differs(got: list[int], want: list[int], dtype: Any, expected: Expected) -> str:
    return models.difference([np.array(got, dtype)], [np.array(want, dtype)], expected)
