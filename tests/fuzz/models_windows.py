"""ONNX nodes with windows: convolutions, pools, resizing, padding, norms over channels."""
from __future__ import annotations

from typing import Any

import numpy as np

from tests.fuzz.recipe import Recipe


def _window(r: Recipe, kernel: list[int], *, dilate: bool = True) -> dict[str, Any]:
    rank = len(kernel)
    attrs: dict[str, Any] = {}
    if r.chance(0.6):
        attrs["strides"] = [r.pick(1, 1, 2, 3) for _ in range(rank)]
    if dilate and r.chance(0.3):
        attrs["dilations"] = [r.pick(1, 1, 2) for _ in range(rank)]
    match r.pick("none", "pads", "pads", "auto"):
        case "pads":
            attrs["pads"] = [r.pick(0, k // 2, k - 1) for k in kernel * 2]
        case "auto":
            attrs["auto_pad"] = r.pick("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET")
    return attrs


def _image(r: Recipe, channels: int, rank: int, dtype: Any = np.float32, low: int = 3) -> np.ndarray:
    return r.array((r.pick(1, 2), channels, *(r.size(low) for _ in range(rank))), dtype)


def conv(r: Recipe) -> None:
    rank, group = r.pick(1, 2, 2, 2, 3), r.pick(1, 1, 2, 3)
    per, filters = r.pick(1, 2, 4), group * r.pick(1, 2, 4)
    kernel = [r.pick(1, 2, 3, 3, 5) for _ in range(rank)]
    attrs = _window(r, kernel)
    if r.chance(0.5):
        attrs["kernel_shape"] = kernel
    inputs = [r.input(_image(r, per * group, rank, low=5)), r.weight(r.array((filters, per, *kernel)))]
    if r.chance(0.5):
        inputs.append(r.weight(r.array((filters,))))
    r.node("Conv", inputs, opset=r.pick(1, 11, 13, 22), group=group, **attrs)


def conv_transpose(r: Recipe) -> None:
    rank, group = r.pick(1, 2, 2), r.pick(1, 1, 2)
    channels = group * r.pick(1, 2, 3)
    kernel = [r.pick(1, 2, 3, 4) for _ in range(rank)]
    attrs = _window(r, kernel)
    strides = attrs.get("strides", [1] * rank)
    if r.chance(0.3):
        attrs["output_padding"] = [r.pick(*range(s)) for s in strides]
    x = _image(r, channels, rank)
    if r.chance(0.2):
        attrs["output_shape"] = [n * s + r.pick(0, 1) * (s > 1) for n, s in zip(x.shape[2:], strides, strict=True)]
        attrs.pop("pads", None)
    inputs = [r.input(x), r.weight(r.array((channels, r.pick(1, 2, 4), *kernel)))]
    r.node("ConvTranspose", inputs, opset=r.pick(1, 11, 22), group=group, **attrs)


def pool(r: Recipe) -> None:
    rank, op = r.pick(1, 2, 2, 2, 3), r.pick("MaxPool", "MaxPool", "AveragePool", "AveragePool", "LpPool")
    kernel = [r.pick(1, 2, 2, 3) for _ in range(rank)]
    opset = r.pick(*{"MaxPool": (8, 10, 12, 22), "AveragePool": (7, 10, 11, 19, 22), "LpPool": (11, 18, 22)}[op])
    dilate = {"MaxPool": 10, "AveragePool": 19, "LpPool": 18}[op]
    attrs = _window(r, kernel, dilate=opset >= dilate)
    if opset >= (18 if op == "LpPool" else 10) and r.chance(0.4):
        attrs["ceil_mode"] = 1
    if op == "AveragePool" and r.chance(0.5):
        attrs["count_include_pad"] = 1
    if op == "LpPool":
        attrs["p"] = r.pick(1, 2, 3)
    outputs = 1
    if op == "MaxPool" and r.chance(0.3):
        outputs = 2
        if r.chance(0.3):
            attrs["storage_order"] = 1
    x = r.input(_image(r, r.pick(1, 3), rank, low=4))
    r.node(op, [x], opset=opset, outputs=outputs, kernel_shape=kernel, **attrs)


def global_pool(r: Recipe) -> None:
    r.node(r.pick("GlobalAveragePool", "GlobalMaxPool"), [r.input(_image(r, 3, r.pick(1, 2, 3)))], opset=r.pick(1, 22))


COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "half_pixel_symmetric")


def resize(r: Recipe) -> None:
    opset = r.pick(10, 11, 13, 18, 19)
    x = r.array((r.pick(1, 2), r.pick(1, 2), r.size(2), r.size(2)))
    scales = np.array([1, 1, r.pick(0.5, 0.6, 1.0, 1.5, 2.0, 3.0), r.pick(0.4, 0.5, 1.0, 2.0, 2.6)], np.float32)
    if opset == 10:
        r.node("Resize", [r.input(x), r.weight(scales)], opset=10, mode=r.pick("nearest", "linear"))
        return
    mode = r.pick("nearest", "nearest", "linear", "cubic")
    coordinates = r.pick(*COORDINATES[:3 if opset < 19 else 4])
    attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if mode == "nearest":
        attrs["nearest_mode"] = r.pick("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    if mode == "cubic":
        attrs |= {"cubic_coeff_a": r.pick(-0.5, -0.75), "exclude_outside": r.pick(0, 1)}
    if opset >= 18 and mode != "nearest" and r.chance(0.3):
        attrs["antialias"] = 1
    roi = r.weight(np.zeros(0, np.float32)) if opset < 13 else ""
    axes = opset >= 18 and r.chance(0.3)
    if axes:
        attrs["axes"] = [2, 3]
    keep = slice(2, 4) if axes else slice(0, 4)
    if r.chance(0.5):
        sizes = np.array([x.shape[0], x.shape[1], r.size(1), r.size(1)], np.int64)[keep]
        r.node("Resize", [r.input(x), roi, r.weight(np.zeros(0, np.float32)) if opset < 13 else "", r.weight(sizes)],
               opset=opset, **attrs)
    else:
        r.node("Resize", [r.input(x), roi, r.weight(scales[keep])], opset=opset, **attrs)


def upsample(r: Recipe) -> None:
    scales = np.array([1, 1, r.pick(1, 2, 3), r.pick(1, 2, 3)], np.float32)
    x = r.input(_image(r, 2, 2, low=2))
    if r.chance(0.5):
        r.node("Upsample", [x], opset=7, mode=r.pick("nearest", "linear"), scales=[float(s) for s in scales])
    else:
        r.node("Upsample", [x, r.weight(scales)], opset=9, mode=r.pick("nearest", "linear"))


def pad(r: Recipe) -> None:
    x, opset = r.array(r.shape(1, 4, low=2)), r.pick(2, 11, 13, 18, 19, 21)
    mode = r.pick("constant", "reflect", "edge", *(["wrap"] if opset >= 19 else []))
    low = -1 if r.chance(0.3) else 0
    axes = sorted(r.choose.sample(range(x.ndim), r.choose.randrange(1, x.ndim + 1))) if opset >= 18 and r.chance(0.5) \
        else list(range(x.ndim))
    amounts = [r.pick(low, 0, 1) for _ in axes * 2]
    if opset == 2:
        attrs: dict[str, Any] = {"value": 1.5} if mode == "constant" else {}
        r.node("Pad", [r.input(x)], opset=2, mode=mode, pads=amounts, **attrs)
        return
    value = r.weight(np.float32(0.5)) if mode == "constant" else ""
    inputs = [r.input(x), r.weight(np.array(amounts, np.int64)), value]
    if len(axes) < x.ndim or (opset >= 18 and r.chance(0.3)):
        inputs.append(r.weight(np.array([a - x.ndim * r.chance(0.5) for a in axes], np.int64)))
    r.node("Pad", inputs, opset=opset, mode=mode)


def norm(r: Recipe) -> None:
    rank, channels = r.pick(1, 2, 2), r.pick(2, 4, 6)
    x = _image(r, channels, rank)

    def vector(positive: bool = False) -> str:
        values = r.array((channels,))
        return r.weight(np.abs(values) + np.float32(0.1) if positive else values)

    match r.pick("batch", "instance", "group", "layer", "rms", "lrn", "lp"):
        case "batch":
            inputs = [r.input(x), vector(), vector(), vector(), vector(True)]
            r.node("BatchNormalization", inputs, opset=r.pick(9, 14, 15), epsilon=r.pick(1e-5, 1e-3))
        case "instance":
            r.node("InstanceNormalization", [r.input(x), vector(), vector()], opset=r.pick(6, 22))
        case "group":
            r.node("GroupNormalization", [r.input(x), vector(), vector()], opset=21, num_groups=r.pick(1, 2))
        case "layer":
            axis = r.pick(-1, 1, 2)
            shape = x.shape[axis:]
            inputs = [r.input(x), r.weight(r.array(shape)), *([r.weight(r.array(shape))] if r.chance(0.6) else [])]
            r.node("LayerNormalization", inputs, opset=17, axis=axis, outputs=r.pick(1, 1, 3))
        case "rms":
            r.node("RMSNormalization", [r.input(x), r.weight(r.array(x.shape[-1:]))], opset=23, axis=-1)
        case "lrn":
            image = r.input(_image(r, channels, 2))
            r.node("LRN", [image], opset=r.pick(1, 13), size=r.pick(1, 3, 5), alpha=1e-2, bias=1.5)
        case "lp":
            r.node("LpNormalization", [r.input(x)], opset=r.pick(1, 22), axis=r.pick(-1, 1), p=r.pick(1, 2))


def grid_sample(r: Recipe) -> None:
    opset = r.pick(16, 20, 22)
    x = _image(r, 2, 2)
    grid = r.array((x.shape[0], r.size(1), r.size(1), 2)) * np.float32(0.8)
    linear = "bilinear" if opset == 16 else "linear"
    cubic = "bicubic" if opset == 16 else "cubic"
    r.node("GridSample", [r.input(x), r.input(grid)], opset=opset, mode=r.pick(linear, "nearest", cubic),
           padding_mode=r.pick("zeros", "border", "reflection"), align_corners=r.pick(0, 1))


def depth_space(r: Recipe) -> None:
    if r.chance(0.5):
        x = r.input(r.array((1, 8, r.size(1), r.size(1))))
        r.node("DepthToSpace", [x], opset=r.pick(11, 13), blocksize=2, mode=r.pick("DCR", "CRD"))
    else:
        r.node("SpaceToDepth", [r.input(r.array((1, 3, 2 * r.size(1), 4)))], opset=13, blocksize=2)


def roi_align(r: Recipe) -> None:
    boxes = np.array([[0, 0, 4, 4], [1.2, 0.7, 5.5, 6.1], [2, 2, 3, 3.5]], np.float32)
    r.node("RoiAlign", [r.input(r.array((2, 3, 7, 8))), r.input(boxes), r.weight(np.array([0, 1, 1], np.int64))],
           opset=r.pick(10, 16), output_height=r.pick(1, 2, 3), output_width=2, sampling_ratio=r.pick(0, 1, 2),
           spatial_scale=r.pick(0.5, 1.0), mode=r.pick("avg", "max"))


MAKERS = ((conv, 4), (conv_transpose, 2), (pool, 4), (global_pool, 1), (resize, 4), (upsample, 1), (pad, 3), (norm, 3),
          (grid_sample, 1), (depth_space, 1), (roi_align, 1))
