"""Single operators with their attributes, opset by opset: the imported graph means what ONNX Runtime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.frontends.build import agrees, floats, ints, positive, single

X = floats(2, 3, 6, 5)
Case = tuple[str, dict[str, Any], dict[str, Any]]  # operator, inputs, what `single` takes besides


def case(op: str, *inputs: np.ndarray | None, **rest: Any) -> Case:
    return op, {f"x{i}": x for i, x in enumerate(inputs)}, rest


def c(**constants: Any) -> dict[str, Any]:
    """Initialisers that follow the inputs."""
    return {"constants": {name: np.asarray(x) for name, x in constants.items()}}


UNARY = [case(op, X) for op in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "Mish", "Neg", "Relu",
        "Round",
                                "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tanh", "Sinh", "Cosh", "Atan",
                                "Asinh",
                                "Identity", "IsNaN", "GlobalAveragePool", "GlobalMaxPool")]
UNARY += [case(op, positive(3, 4)) for op in ("Log", "Reciprocal", "Sqrt")]
UNARY += [case(op, floats(3, 4), alpha=0.3) for op in ("LeakyRelu", "Elu", "Celu", "ThresholdedRelu")]
UNARY += [
    case("Selu", X), case("HardSigmoid", X, alpha=0.3, beta=0.4), case("Shrink", X, lambd=0.3, bias=0.1),
    case("Gelu", X), case("Gelu", X, approximate="tanh"), case("Softmax", X), case("Softmax", X, axis=1),
    case("Softmax", X, axis=2, opset=11), case("Softmax", X, opset=11), case("Softmax", X, axis=-1, opset=11),
    case("LogSoftmax", X, axis=1), case("LogSoftmax", X, axis=1, opset=11), case("Hardmax", X, axis=1),
    case("Hardmax", X, axis=1, opset=11), case("Flatten", X, axis=2), case("Flatten", X, axis=0),
    case("Flatten", X, axis=-1), case("Transpose", X), case("Transpose", X, perm=[0, 2, 1, 3]), case("Shape", X),
    case("Shape", X, start=1, end=-1), case("Size", X), case("Cast", X, to=7), case("Cast", X, to=10),
    case("Cast", ints(0, 1, 2), to=9), case("LpNormalization", X, axis=1, p=1), case("LpNormalization", X),
    case("MeanVarianceNormalization", X, opset=13), case("LRN", X, size=3), case("IsInf", X, detect_negative=0),
    case("Dropout", X), case("Dropout", X, ratio=0.3, opset=9, outputs=1), case("EyeLike", X[0, 0], k=1),
    case("DepthToSpace", floats(1, 8, 2, 3), blocksize=2),
    case("DepthToSpace", floats(1, 8, 2, 3), blocksize=2, mode="CRD"),
    case("SpaceToDepth", floats(1, 2, 4, 6), blocksize=2), case("Trilu", X),
    case("Trilu", X, **c(k=np.array(1)), upper=0),
    case("NonZero", (X > 0.5).astype(np.float32)), case("Squeeze", floats(1, 3, 1)),
    case("Squeeze", floats(1, 3, 1), axes=[0], opset=11), case("Squeeze", floats(1, 3, 1), **c(axes=ints(-1))),
    case("Unsqueeze", X, axes=[0, 4], opset=11), case("Unsqueeze", X, **c(axes=ints(-1, 0))),
    case("Clip", X, min=-0.5, max=0.25, opset=6), case("Clip", X, **c(lo=np.float32(-0.5))),
    case("Clip", X, None, **c(hi=np.float32(0.25))), case("CumSum", X, **c(axis=np.array(-1))),
    case("CumSum", X, **c(axis=np.array(1)), exclusive=1, reverse=1),
]

BINARY = [case(op, X, floats(3, 1, 5, seed=1)) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Less", "Greater",
                                                         "LessOrEqual", "GreaterOrEqual", "Equal", "PRelu", "Sum",
                                                         "Mean")]
BINARY += [
    case("Div", ints(7, -7, 7, -7), ints(2, 2, -2, -2)), case("Mod", ints(7, -7, 7, -7), ints(3, 3, -3, -3)),
    case("Mod", X, positive(5), fmod=1), case("Mod", ints(7, -7, 7, -7), ints(3, 3, -3, -3), fmod=1),
    case("Pow", positive(3, 4), floats(4)), case("Pow", X, ints(2)),
    case("And", X > 0, X > 1), case("Or", X > 0, X > 1), case("Xor", X > 0, X > 1), case("Not", X > 0),
    case("BitShift", ints(1, 2, 3, dtype=np.uint8), ints(1, 2, 3, dtype=np.uint8), direction="LEFT"),
    case("BitwiseAnd", ints(5, 6), ints(3, 3)), case("Where", X > 0, X, floats(1)),
    case("Sum", X, X, X), case("Max", X, floats(1), floats(5)), case("Mean", X, floats(5), floats(1)),
    case("Expand", floats(3, 1), **c(shape=ints(2, 1, 4))), case("Tile", floats(2, 3), **c(r=ints(2, 3))),
    case("Gather", X, **c(i=np.array([[0, -1], [1, 1]])), axis=2), case("Gather", X, **c(i=np.array(1)), axis=1),
    case("GatherElements", X[0, 0], **c(i=np.array([[0, -1]])), axis=0),
    case("GatherND", X, **c(i=np.array([[0, 1], [1, -1]]))),
    case("GatherND", X, **c(i=np.array([[[1]], [[0]]])), batch_dims=1),
    case("ScatterElements", X[0, 0], **c(i=np.array([[0, 3]]), u=floats(1, 2)), axis=0),
    case("ScatterElements", X[0, 0], **c(i=np.array([[0, 3]]), u=floats(1, 2)), axis=1, reduction="add"),
    case("ScatterND", X[0, 0], **c(i=np.array([[0], [3]]), u=floats(2, 5))),
    case("ArgMax", X, axis=1), case("ArgMin", X, axis=-1, keepdims=0), case("ArgMax", np.round(X), select_last_index=1),
    case("OneHot", ints(0, 2, -1), **c(d=np.array(4), v=floats(2))),
    case("OneHot", ints(0, 2, -1), **c(d=np.array(4), v=floats(2)), axis=0),
    case("TopK", X, **c(k=ints(2)), outputs=2), case("TopK", X, **c(k=ints(2)), outputs=2, axis=1, largest=0),
    case("Compress", X, **c(k=np.array([True, False, True])), axis=2),
    case("Compress", X, **c(k=np.array([False, True]))),
    case("ReverseSequence", floats(4, 3), **c(n=ints(4, 1, 2)), time_axis=0, batch_axis=1),
    case("CastLike", X, **c(y=np.zeros(1, np.int32)), opset=15),
]

EQUATIONS: list[tuple[str, list[tuple[int, ...]]]] = [
    ("ij,jk->ik", [(2, 3), (3, 4)]), ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
    ("bhqd,bhkd->bhqk", [(1, 2, 3, 4)] * 2),
    ("i,j->ij", [(3,), (4,)]), ("ij->ji", [(2, 3)]), ("ij->i", [(2, 3)]), ("ii->i", [(3, 3)]),
    ("ij,ij->", [(2, 3)] * 2),
    ("...ij,...jk->...ik", [(2, 5, 3, 4), (2, 5, 4, 2)]), ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
    ("bid,bjd", [(2, 3, 4), (2, 5, 4)]),
]

MATMUL = [
    case("MatMul", floats(2, 3, 4), floats(4, 5)), case("MatMul", floats(4), floats(4)),
    case("Gemm", floats(3, 4), floats(4, 5), floats(5)), case("Gemm", floats(4, 3), floats(5, 4), transA=1, transB=1),
    case("Gemm", floats(3, 4), floats(4, 5), floats(3, 1), alpha=0.5, beta=2.0),
    case("FusedMatMul", floats(2, 4, 3), floats(2, 5, 4), domain="com.microsoft", transA=1, transB=1, alpha=0.5),
    *(case("Einsum", *(floats(*s, seed=i) for i, s in enumerate(shapes)), equation=equation)
      for equation, shapes in EQUATIONS),
]

WINDOWS = [
    case("Conv", X, floats(4, 3, 3, 3)),
    case("Conv", X, floats(4, 3, 3, 3), floats(4), pads=[1, 0, 2, 1], strides=[2, 1]),
    case("Conv", X, floats(3, 1, 3, 3), group=3, dilations=[2, 1]),
    case("Conv", X, floats(4, 3, 3, 2), auto_pad="SAME_UPPER"),
    case("Conv", X, floats(4, 3, 2, 2), auto_pad="SAME_LOWER", strides=[2, 2]),
    case("Conv", X[..., 0], floats(4, 3, 3)),
    case("Conv", X, floats(4, 3, 3, 3), auto_pad="VALID", kernel_shape=[3, 3]),
    case("ConvTranspose", X, floats(3, 2, 3, 3)),
    case("ConvTranspose", X, floats(3, 2, 3, 3), strides=[2, 2], pads=[1] * 4),
    case("ConvTranspose", X, floats(3, 2, 3, 3), floats(2), strides=[2, 2], output_padding=[1, 1]),
    case("ConvTranspose", X, floats(3, 2, 3, 3), strides=[2, 3], output_shape=[12, 14]),
    case("ConvTranspose", X, floats(3, 2, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", floats(1, 4, 3, 3), floats(4, 2, 2, 2), group=2),
    case("MaxPool", X, kernel_shape=[3, 2]), case("MaxPool", X, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("MaxPool", X, kernel_shape=[3, 3], pads=[1] * 4, dilations=[2, 1]),
    case("MaxPool", X, kernel_shape=[2, 2], strides=[2, 2], outputs=2),
    case("MaxPool", X, kernel_shape=[2, 2], opset=1),
    case("AveragePool", X, kernel_shape=[3, 3], pads=[1] * 4),
    case("AveragePool", X, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
    case("AveragePool", X, kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("LpPool", X, kernel_shape=[2, 2], p=2), case("GlobalLpPool", X, p=3),
]

NORMS = [
    case("BatchNormalization", X, positive(3), floats(3), floats(3), positive(3)),
    case("BatchNormalization", X, positive(3), floats(3), floats(3), positive(3), opset=7, epsilon=0.01),
    case("InstanceNormalization", X, floats(3), floats(3)), case("LayerNormalization", X, floats(5), floats(5)),
    case("LayerNormalization", X, floats(6, 5), axis=2), case("LayerNormalization", X, floats(5), outputs=3),
    case("GroupNormalization", floats(2, 4, 3), floats(4), floats(4), num_groups=2, opset=21),
    case("SkipLayerNormalization", floats(2, 3, 4), floats(2, 3, 4), floats(4), floats(4),
        floats(4), domain="com.microsoft",
         epsilon=1e-5),
    case("FastGelu", X[0, 0], floats(5), domain="com.microsoft"),
    case("BiasGelu", X, floats(5), domain="com.microsoft"),
    case("QuickGelu", X, domain="com.microsoft"), case("Gelu", X, domain="com.microsoft"),
]

REDUCE = [case(op, X, axes=[1, -1], keepdims=k, opset=11) for k in (0, 1) for op in (
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSumExp",
    "ReduceSumSquare")]
REDUCE += [
    case("ReduceSum", X), case("ReduceSum", X, **c(axes=ints(2)), keepdims=0),
    case("ReduceMean", X, **c(axes=ints(-1))),
    case("ReduceSum", X, noop_with_empty_axes=1), case("ReduceLogSum", positive(3, 4), axes=[0], opset=13),
    case("ReduceMax", ints(3, 1, 2)), case("ReduceLogSumExp", floats(3, 4) * 1000),
]

MOVEMENT = [
    case("Slice", X, starts=[1, -3], ends=[3, 2**31 - 1], axes=[2, 3], opset=9),
    case("Slice", X, **c(s=ints(0, 1), e=ints(2, 2**63 - 1))),
    case("Slice", X, **c(s=ints(-1), e=ints(-(2**63)), a=ints(2), t=ints(-2))),
    case("Slice", X, **c(s=ints(10), e=ints(-100), a=ints(-1), t=ints(-1))),
    case("Slice", X, **c(s=ints(4), e=ints(2), a=ints(3))),
    case("Slice", X, **c(s=ints(-100), e=ints(3), a=ints(2), t=ints(2))),
    case("Split", X, axis=2, outputs=3, opset=13), case("Split", X, axis=2, split=[1, 5], outputs=2, opset=11),
    case("Split", X, **c(s=ints(2, 3)), axis=-1, outputs=2), case("Split", X, axis=3, num_outputs=2, outputs=2),
    case("Concat", X, X, axis=-1), case("Concat", X, X, axis=1, opset=4), case("Reshape", X, **c(s=ints(0, -1, 15))),
    case("Reshape", floats(0, 3), **c(s=ints(3, 0)), allowzero=1), case("Reshape", X, **c(s=ints(-1))),
    case("Pad", X, pads=[0, 0, 1, 2, 0, 0, 0, 1], value=0.5, opset=2),
    case("Pad", X, **c(p=ints(0, 0, 1, 2, 0, 0, 0, 1))),
    case("Pad", X, **c(p=ints(0, 0, 1, 2, 0, 0, 0, 1)), mode="reflect"),
    case("Pad", X, **c(p=ints(0, 0, 1, 2, 0, 0, 0, 1)), mode="edge"),
    case("Pad", X, **c(p=ints(1, 2, -1, 1), v=np.float32(3), a=ints(-1, 2))),
    case("Resize", X, None, **c(s=np.array([1, 1, 2, 2], np.float32)), mode="nearest"),
    case("Resize", X, None, **c(s=np.array([1, 1, 0.5, 1.7], np.float32)), mode="linear"),
    case("Resize", X, None, None, **c(s=ints(2, 3, 9, 4)), mode="cubic"),
    case("Resize", X, None, None, **c(s=ints(2, 3, 9, 4)), mode="linear",
        coordinate_transformation_mode="align_corners"),
    case("Resize", X, None, **c(s=np.array([1, 1, 2, 2], np.float32)), mode="nearest", nearest_mode="floor",
         coordinate_transformation_mode="asymmetric"),
    case("Resize", X, None, None, **c(s=ints(12, 10)), axes=[2, 3], mode="linear",
         coordinate_transformation_mode="pytorch_half_pixel"),
    case("Upsample", X, **c(s=np.array([1, 1, 2, 2], np.float32)), opset=9),
    case("Upsample", X, scales=[1.0, 1.0, 2.0, 3.0], mode="linear", opset=7),
]


def _recurrent(op: str, gates: int, **rest: Any) -> Case:
    d = 2 if rest.get("direction") == "bidirectional" else 1
    return case(op, floats(4, 2, 3), floats(d, gates * 5, 3, seed=1), floats(d, gates * 5, 5, seed=2),
                floats(d, 2 * gates * 5, seed=3), hidden_size=5, **{"outputs": 2, **rest})


LAYERS = [
    _recurrent("LSTM", 4, outputs=3), _recurrent("LSTM", 4, direction="bidirectional", outputs=3),
    _recurrent("LSTM", 4, direction="reverse"), _recurrent("GRU", 3), _recurrent("GRU", 3, linear_before_reset=1),
    _recurrent("RNN", 1, activations=["Relu"]),
    _recurrent("RNN", 1, direction="bidirectional", activations=["Tanh", "Relu"]),
    _recurrent("LSTM", 4, activations=["HardSigmoid", "Tanh", "Tanh"], activation_alpha=[0.3], activation_beta=[0.4]),
]

QUANTISED = [
    case("QuantizeLinear", X, **c(s=np.float32(0.02), z=np.uint8(120))),
    case("QuantizeLinear", X, **c(s=np.float32(0.02))),
    case("QuantizeLinear", X, **c(s=positive(3), z=np.array([1, 2, 3], np.int8)), axis=1),
    case("DequantizeLinear", ints(1, 200, 3, dtype=np.uint8), **c(s=np.float32(0.1), z=np.uint8(100))),
    case("DynamicQuantizeLinear", X, outputs=3),
    case("MatMulInteger", ints(1, 2, 3, 4, dtype=np.uint8).reshape(2, 2),
        **c(w=ints(1, -2, 3, 4, dtype=np.int8).reshape(2, 2))),
    case("QLinearMatMul", ints(1, 200, 3, 4, dtype=np.uint8).reshape(2, 2), **c(
        s=np.float32(0.1), z=np.uint8(3), w=ints(1, 120, 90, 4, dtype=np.uint8).reshape(2, 2), t=np.float32(0.05),
        y=np.uint8(8), u=np.float32(0.3), v=np.uint8(10))),
    case("ConvInteger", ints(*range(18), dtype=np.uint8).reshape(1, 2, 3, 3),
         **c(w=ints(*range(16), dtype=np.uint8).reshape(2, 2, 2, 2), z=np.uint8(3))),
]

SAMPLES = [case("GridSample", X, np.tanh(floats(2, 4, 3, 2, seed=1)) * np.float32(1.5), mode=mode, padding_mode=padding,
                align_corners=corners) for mode in ("linear", "nearest", "cubic")
           for padding in ("zeros", "border", "reflection") for corners in (0, 1)]
SAMPLES += [
    case("GridSample", floats(1, 2, 3, 4, 5), np.tanh(floats(1, 2, 3, 2, 3)), mode="linear"),
    case("DFT", floats(2, 7, 1), **c(n=np.array(7), a=np.array(1))), case("DFT", floats(2, 6, 2), axis=1, opset=17),
    case("DFT", floats(2, 6, 2), axis=1, opset=17, inverse=1),
    case("DFT", floats(2, 6, 1), axis=1, opset=17, onesided=1),
    case("STFT", floats(1, 40, 1), **c(step=np.array(4), w=np.hanning(8).astype(np.float32))),
    case("STFT", floats(2, 40, 1), **c(step=np.array(8), w=np.ones(16, np.float32)), onesided=0),
    case("Col2Im", floats(1, 12, 6), **c(i=ints(4, 3), b=ints(2, 2))),
    case("Col2Im", floats(1, 12, 16), **c(i=ints(4, 3), b=ints(2, 2)), pads=[1, 1, 0, 1]),
    case("MaxUnpool", floats(1, 1, 2, 2), np.array([[[[5, 7], [13, 15]]]]), kernel_shape=[2, 2], strides=[2, 2]),
    case("MelWeightMatrix", **c(b=np.array(8), n=np.array(16), r=np.array(8192), lo=np.float32(0),
                                 hi=np.float32(4096))),
]

BOXES = np.sort(positive(2, 9, 4).reshape(2, 9, 2, 2), axis=2).reshape(2, 9, 4)
SINGLE = np.ones(1, np.float32)
REGIONS = np.array([[0, 0, 4, 3], [1, 2, 4.5, 5], [-1, -2, 9, 9]], np.float32)
DETECTION = [
    case("NonMaxSuppression", BOXES, floats(2, 3, 9), **c(k=ints(4), o=SINGLE * 0.3, t=SINGLE * -0.5)),
    case("NonMaxSuppression", BOXES, floats(2, 1, 9), **c(k=ints(9), o=SINGLE * 0.1), center_point_box=1),
    case("NonMaxSuppression", BOXES, floats(2, 1, 9)),
    *(case("RoiAlign", X, REGIONS, **c(i=ints(0, 1, 1)), sampling_ratio=2, output_height=3, output_width=2,
           spatial_scale=0.8, **rest)
      for rest in ({}, {"mode": "max"}, {"coordinate_transformation_mode": "output_half_pixel"}, {"opset": 10})),
]

MS = {"domain": "com.microsoft"}
BYTES = ints(1, 200, 3, 4, 90, 7, dtype=np.uint8).reshape(2, 3)
SCALE = {"s": np.float32(0.1), "z": np.uint8(3)}
MICROSOFT = [
    case("FusedConv", X, floats(4, 3, 3, 3), floats(4), activation="Relu", **MS),
    case("FusedConv", X, floats(4, 3, 3, 3), activation="LeakyRelu", activation_params=[0.2], **MS),
    case("EmbedLayerNormalization", np.array([[1, 2], [3, 0]], np.int32), np.array([[0, 1], [1, 0]], np.int32),
         outputs=2, **c(w=floats(5, 8), p=floats(6, 8), t=floats(2, 8), g=floats(8), b=floats(8)), **MS),
    case("Attention", floats(2, 4, 8), **c(w=floats(8, 24), b=floats(24)), num_heads=2, **MS),
    case("Attention", floats(2, 4, 8), **c(w=floats(8, 24), b=floats(24), m=ints(4, 2, dtype=np.int32)), num_heads=2,
         **MS),
    case("Attention", floats(2, 4, 8), **c(w=floats(8, 24), b=floats(24)), num_heads=2, unidirectional=1, **MS),
    case("MultiHeadAttention", floats(2, 4, 8), floats(2, 5, 8, seed=1), floats(2, 5, 8, seed=2), num_heads=2, **MS),
    case("MultiHeadAttention", floats(2, 4, 8), floats(2, 5, 8, seed=1), floats(2, 5, 8, seed=2), num_heads=4,
         **c(b=floats(24), m=ints(1, 1, 1, 0, 0, 1, 1, 1, 1, 1, dtype=np.int32).reshape(2, 5)), **MS),
    case("QLinearAdd", BYTES, **c(**SCALE, x=BYTES[::-1], t=np.float32(0.2), y=np.uint8(7), u=np.float32(0.4),
                                  v=np.uint8(9)), **MS),
    case("QLinearMul", BYTES, **c(**SCALE, x=BYTES[::-1], t=np.float32(0.2), y=np.uint8(7), u=np.float32(4),
                                  v=np.uint8(9)), **MS),
    case("QLinearSigmoid", BYTES, **c(**SCALE, u=np.float32(0.004), v=np.uint8(0)), **MS),
    case("QLinearConcat", np.asarray(np.float32(0.2)), np.asarray(np.uint8(5)),
         **c(a=BYTES, **SCALE, b=BYTES, t=np.float32(0.3), y=np.uint8(1)), axis=1, **MS),
    case("MatMulIntegerToFloat", BYTES, **c(w=BYTES.T, s=np.float32(0.1), t=np.float32(0.2), z=np.uint8(3),
                                            y=np.uint8(4), b=floats(2)), **MS),
    case("DynamicQuantizeMatMul", floats(4, 3), **c(w=BYTES.T, s=np.float32(0.1), z=np.uint8(4)), **MS),
    case("MatMulNBits", floats(2, 32), **c(w=np.arange(3 * 2 * 8, dtype=np.uint8).reshape(3, 2, 8), s=positive(6)),
         K=32, N=3, bits=4, block_size=16, **MS),
    case("MatMulNBits", floats(2, 32), **c(w=np.arange(48, dtype=np.uint8).reshape(3, 2, 8), s=positive(6),
                                           z=ints(0x37, 0x48, 0x59, dtype=np.uint8)),
         K=32, N=3, bits=4, block_size=16, **MS),
]

CASES = [*SAMPLES, *DETECTION, *MICROSOFT, *UNARY, *BINARY, *MATMUL, *WINDOWS, *NORMS, *REDUCE, *MOVEMENT, *LAYERS,
         *QUANTISED]


def _id(k: int) -> str:
    op, _, rest = CASES[k]
    return f"{op}-{'-'.join(f'{n}={v}' for n, v in rest.items() if n != 'constants')}-{k}"


@pytest.mark.parametrize("k", range(len(CASES)), ids=_id)
def test_agrees_with_onnxruntime(k: int) -> None:
    op, inputs, rest = CASES[k]
    agrees(single(op, inputs, **rest), {n: x for n, x in inputs.items() if x is not None}, rtol=1e-4, atol=1e-5)


OPEN = [k for k, (op, inputs, rest) in enumerate(CASES) if op in {
    "Slice", "Reshape", "Flatten", "Concat", "Split", "Pad", "Resize", "AveragePool", "MaxPool", "Softmax", "MatMul",
    "Tile",
    "Transpose", "Shape", "Size", "LayerNormalization", "ReduceMean", "GlobalAveragePool", "DepthToSpace"}
    and len(inputs) <= 3 and rest.get("opset", 20) > 9]


@pytest.mark.parametrize("k", OPEN, ids=_id)
def test_agrees_with_open_dimensions(k: int) -> None:
    """The same with every dimension of the inputs open: the sizes in the graph are expressions, and right."""
    op, inputs, rest = CASES[k]
    graph = agrees(single(op, inputs, open_dims=True, **rest), {n: x for n, x in inputs.items() if x is not None},
                   rtol=1e-4, atol=1e-5)
    assert not graph.inputs[0].tensor.is_static or graph.inputs[0].tensor.rank == 0
