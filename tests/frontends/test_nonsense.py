"""Well-formed models that make no sense: odd attributes, ranks, types and opsets end in a LeptonError, nothing else."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, numpy_helper

from lepton.frontends import load
from lepton.ir.diagnostics import LeptonError
from tests.frontends.build import single
from tests.frontends.test_operators import CASES

INTEGERS = (-2**63, -2**31, -100, -2, -1, 0, 1, 2, 3, 5, 64, 65, 2**31, 2**62, 2**63 - 1)
FLOATS = (float("nan"), float("inf"), -1.0, 0.0, 1e38)


def bend_attribute(rng: random.Random, attribute: AttributeProto) -> None:
    match attribute.type:
        case AttributeProto.INT:
            attribute.i = rng.choice(INTEGERS)
        case AttributeProto.FLOAT:
            attribute.f = rng.choice(FLOATS)
        case AttributeProto.STRING:
            attribute.s = rng.choice((b"", b"zz", b"\xff"))
        case AttributeProto.INTS if attribute.ints and rng.random() < 0.7:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(INTEGERS)
        case AttributeProto.INTS:
            attribute.ints.append(rng.choice(INTEGERS))
        case _:
            attribute.type = rng.choice((AttributeProto.INT, AttributeProto.FLOATS, AttributeProto.GRAPH))


def bend_type(rng: random.Random, info: onnx.ValueInfoProto) -> None:
    shape = info.type.tensor_type.shape
    match rng.randrange(4):
        case 0 if shape.dim:
            rng.choice(shape.dim).dim_value = rng.choice(INTEGERS)
        case 1 if shape.dim:
            del shape.dim[rng.randrange(len(shape.dim))]
        case 2:
            shape.dim.add().dim_value = 2
        case _:
            info.type.tensor_type.elem_type = rng.randrange(26)


def bend_tensor(rng: random.Random, tensor: onnx.TensorProto) -> None:
    array = numpy_helper.to_array(tensor).copy()
    if array.size and array.dtype.kind in "iuf":
        fits = FLOATS if array.dtype.kind == "f" else [
            v for v in INTEGERS if np.iinfo(array.dtype).min <= v <= np.iinfo(array.dtype).max]
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice(fits)
    kind = rng.choice((array.dtype.name, array.dtype.name, "float32", "int32", "int64", "bool"))
    count = rng.choice((array.size, array.size, 0, 1))
    tensor.CopyFrom(numpy_helper.from_array(array.reshape(-1)[:count].astype(kind) if count < array.size
                                            else array.astype(kind), tensor.name))


def bend(rng: random.Random, model: onnx.ModelProto) -> None:
    node, graph = model.graph.node[0], model.graph
    match rng.randrange(6):
        case 0 | 1 if node.attribute:
            bend_attribute(rng, rng.choice(node.attribute))
        case 2 if graph.input:
            bend_type(rng, rng.choice(graph.input))
        case 3 if graph.initializer:
            bend_tensor(rng, rng.choice(graph.initializer))
        case 4 if node.input:
            node.input[rng.randrange(len(node.input))] = ""
        case _:
            model.opset_import[0].version = rng.choice((1, 2, 5, 6, 7, 8, 9, 10, 11, 13, 16, 18, 20, 22, 24, 28))


@pytest.mark.parametrize("seed", range(6))
def test_nonsense_is_refused_or_imported(seed: int) -> None:
    rng, refused = random.Random(seed), 0
    for _ in range(400):
        op, inputs, rest = rng.choice(CASES)
        model = single(op, inputs, open_dims=rng.random() < 0.3, **rest)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # numpy, making the nonsense
            for _ in range(rng.randint(1, 3)):
                bend(rng, model)
        try:
            load(model)
        except LeptonError:
            refused += 1
    assert 50 < refused < 390


@pytest.mark.parametrize("attribute", ["strides", "dilations"])
@pytest.mark.parametrize("step", [-1, 0, 2**31, 2**62, 2**63 - 1])
def test_kernels_cannot_move_by_this(attribute: str, step: int) -> None:
    """By less than 1 a ConvTranspose would write in front of its result; sizes beyond 63 bits wrap around."""
    x, w = np.zeros((1, 1, 4, 4), np.float32), np.zeros((1, 1, 5, 2), np.float32)
    moved: dict[str, Any] = {attribute: [step, 1]}
    for op in ("Conv", "ConvTranspose"):
        with pytest.raises(LeptonError, match=attribute):
            load(single(op, {"x": x}, constants={"w": w}, open_dims=True, **moved))


@pytest.mark.parametrize("pad", [2**31, -2**31, 2**45, 2**62, 2**63 - 1, -2**63])
def test_no_axis_is_padded_by_this(pad: int) -> None:
    """Sizes, and how far a stride goes, would leave 63 bits; what such a size would be of is no tensor anyway."""
    x, w = np.zeros((1, 1, 4, 4), np.float32), np.zeros((1, 1, 2, 2), np.float32)
    for op, made in (("Conv", {"w": w}), ("ConvTranspose", {"w": w}), ("MaxPool", {})):
        moved: dict[str, Any] = {"pads": [pad, 0, pad, 0], "strides": [2**30, 1], "kernel_shape": [2, 2]}
        with pytest.raises(LeptonError, match=f"pads of {pad}"):
            load(single(op, {"x": x}, constants=made, open_dims=True, **moved))
    with pytest.raises(LeptonError, match="output_padding"):
        load(single("ConvTranspose", {"x": x}, constants={"w": w}, output_padding=[pad, 0]))


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_pools_are_not_cut(op: str) -> None:
    """Pads are not negative, says the standard; kernels would write beyond their copy of a row."""
    moved: dict[str, Any] = {"kernel_shape": [2, 2], "pads": [-1, -1, -1, -1]}
    with pytest.raises(LeptonError, match="pads of -1"):
        load(single(op, {"x": np.ones((1, 1, 4, 4), np.float32)}, open_dims=True, **moved))
