"""Deformable convolutions and affine grids, against ONNX Runtime and onnx's own evaluator."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from lepton.ir.diagnostics import LeptonError
from lepton.ir.evaluate import evaluate
from tests.frontends.build import agrees, floats, imported, same, single


def feeds(group: int, moves: int, out: tuple[int, int], kernel: tuple[int, int]) -> dict[str, np.ndarray[Any, Any]]:
    taps = kernel[0] * kernel[1]
    return {"x": floats(2, 4, 5, 6), "w": floats(6, 4 // group, *kernel, seed=1),
            "o": 2 * floats(2, moves * taps * 2, *out, seed=2), "b": floats(6, seed=3),
            "m": floats(2, moves * taps, *out, seed=4)}


@pytest.mark.parametrize("open_dims", [False, True])
@pytest.mark.parametrize(("out", "kernel", "attributes"), [
    ((4, 5), (2, 2), {}), ((3, 4), (3, 3), {"group": 2}), ((3, 4), (3, 3), {"offset_group": 2}),
    ((2, 4), (3, 2), {"group": 2, "offset_group": 4, "strides": [2, 1], "pads": [0, 1, 1, 0], "dilations": [1, 3]}),
])
def test_deform_conv(out: tuple[int, int], kernel: tuple[int, int], attributes: dict[str, Any],
                     open_dims: bool) -> None:
    given = feeds(attributes.get("group", 1), attributes.get("offset_group", 1), out, kernel)
    model = single("DeformConv", given, opset=22, **attributes)
    wanted = [np.asarray(y) for y in ReferenceEvaluator(model).run(None, dict(given))]
    fixed = {k: given[k].shape for k in ("x", "w", "o", "b", "m")}
    if open_dims:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
        for i in (2, 4):
            model.graph.input[i].type.tensor_type.shape.dim[0].dim_param = "n"
    same(evaluate(imported(model), *(given[k] for k in fixed)), wanted, rtol=1e-4, atol=1e-4)


def test_places_far_outside_and_nan() -> None:
    given = feeds(1, 1, (4, 5), (2, 2))
    given["o"][0, 0], given["o"][1, 3] = 1e30, -1e30
    del given["b"], given["m"]
    (got,) = evaluate(imported(single("DeformConv", given, opset=22)), *given.values())
    assert np.isfinite(got).all()


@pytest.mark.parametrize("wrong", [{"group": 3}, {"offset_group": 3}, {"strides": [2, 2]}, {"dilations": [3, 3]}])
def test_refuses_what_does_not_fit(wrong: dict[str, Any]) -> None:
    with pytest.raises(LeptonError):
        imported(single("DeformConv", feeds(1, 1, (4, 5), (2, 2)), opset=22, **wrong))


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 1, 3, 2, 4)])
def test_affine_grid(size: tuple[int, ...], corners: int) -> None:
    theta = floats(2, len(size) - 2, len(size) - 1)
    agrees(single("AffineGrid", {"theta": theta}, constants={"size": np.array(size)}, align_corners=corners),
           {"theta": theta})
