"""Cases: products, convolutions, pools, reductions, norms, resizing."""
from __future__ import annotations

from itertools import product
from typing import Any

import ml_dtypes
import numpy as np

from lepton.ir.tensor import Array
from tests.ir.ops_cases import F32, INF, NAN, Case, case, normal, whole
from tests.ir.ops_oracle import Onnx


def products() -> list[Case]:
    shapes = [((2, 3), (3, 4)), ((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((5, 1, 2, 3), (4, 3, 2)),
              ((2, 0), (0, 3)),
              ((0, 2, 3), (3, 1)), ((1, 1), (1, 1)), ((2, 2, 3), (3,)), ((3,), (2, 3, 4))]
    cases = [case("matmul", normal(*a), normal(*b), onnx="MatMul") for a, b in shapes]
    a, b = whole(0, 256, 3, 4, dtype=np.uint8), whole(-128, 128, 4, 5, dtype=np.int8)
    za, zb = np.array(100, np.uint8), np.array(-3, np.int8)
    rows, columns = whole(0, 256, 3, dtype=np.uint8), whole(-9, 9, 5, dtype=np.int8)
    exact = (a.astype(int) - rows[:, None]) @ (b.astype(int) - columns)
    x, y = normal(4, 3, dtype=ml_dtypes.bfloat16), normal(3, 2, dtype=ml_dtypes.bfloat16)
    cases += [
        case("matmul", whole(-9, 9, 2, 3), whole(-9, 9, 3, 2), onnx="MatMul"),
        case("matmul", normal(2, 3, dtype=np.float64), normal(3, 2, dtype=np.float64), onnx="MatMul"),
        case("matmul", x, y, expected=(x.astype(F32) @ y.astype(F32)).astype(ml_dtypes.bfloat16)),
        case("matmul_integer", a, b, onnx="MatMulInteger"),
        case("matmul_integer", a, b, za, zb, onnx="MatMulInteger"),
        case("matmul_integer", a, b, None, zb, expected=(a.astype(int) @ (b.astype(int) + 3)).astype(np.int32)),
        case("matmul_integer", a, b, rows, columns, expected=exact.astype(np.int32)),
    ]
    levels, table = whole(-8, 8, 6, 5, dtype=np.int8), normal(4)
    places = whole(0, 4, 6, 5, dtype=ml_dtypes.uint2)
    scale, zero, rows = normal(2, 5), normal(2, 5), normal(2, 3, 6)
    spread = np.repeat(scale, 4, axis=0)[:6]
    cases += [
        case("matmul_coded", rows, levels, scale, block=4, expected=rows @ (levels * spread)),
        case("matmul_coded", rows, levels, scale, zero, block=4,
             expected=rows @ ((levels - np.repeat(zero, 4, axis=0)[:6]) * spread)),
        case("matmul_coded", rows[0, 0], places, scale[:1], None, table, block=6,
             expected=rows[0, 0] @ (table[places.astype(int)] * scale[0])),
    ]
    for mask in (None, np.where(np.tri(4, 6) > 0, 0, -INF).astype(F32), normal(2, 1, 1, 6)):
        q, k, v = normal(2, 3, 4, 5), normal(2, 3, 6, 5), normal(2, 3, 6, 7)
        scores = 0.3 * q @ k.swapaxes(-1, -2) + (0 if mask is None else mask)
        e = np.exp(scores)
        cases.append(case("attention", q, k, v, mask, scale=0.3, expected=e / e.sum(-1, keepdims=True) @ v))
    return cases


def window(rank: int, stride: int = 1, pad: tuple[int, int] = (0, 0), dilation: int = 1) -> dict[str, Any]:
    return {"strides": (stride,) * rank, "pads_begin": (pad[0],) * rank, "pads_end": (pad[1],) * rank,
            "dilations": (dilation,) * rank}


def spell(attrs: dict[str, Any]) -> dict[str, Any]:
    """The attributes as ONNX writes them."""
    names = {"kernel": "kernel_shape"}
    out = {names.get(k, k): list(v) if isinstance(v, tuple) else int(v) if isinstance(v, bool) else v
           for k, v in attrs.items() if not k.startswith("pads_") and k != "layout"}
    return out | {"pads": [*attrs["pads_begin"], *attrs["pads_end"]]}


def last(x: Array) -> Array:
    """Channels last."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def convolutions() -> list[Case]:
    cases = []
    for stride, pad, dilation, group in product((1, 2), ((0, 0), (1, 2)), (1, 2), (1, 2, 4)):
        attrs = {**window(2, stride, pad, dilation), "group": group}
        x, w, b = normal(2, 4, 9, 8), normal(8, 4 // group, 3, 2), normal(8)
        cases.append(case("conv", x, w, b, onnx=Onnx("Conv", spell(attrs)), atol=1e-5, **attrs))
    attrs = window(2, 2, (1, 1))
    x, w, b = normal(1, 3, 7, 6), normal(5, 3, 3, 3), normal(5)
    moved = _moved(Onnx("Conv", spell(attrs), (x, w, b)))
    cases += [
        case("conv", last(x), w, b, layout="nhwc", expected=moved, atol=1e-5, **attrs),
        case("conv", normal(2, 3, 10), normal(4, 3, 3), None, onnx=Onnx("Conv", spell(window(1))), **window(1)),
        case("conv", normal(1, 2, 5, 4, 3), normal(3, 2, 2, 2, 2), normal(3), atol=1e-5,
             onnx=Onnx("Conv", spell(window(3, pad=(1, 0)))), **window(3, pad=(1, 0))),
        case("conv", normal(1, 2, 1, 1), normal(3, 2, 1, 1), None, onnx=Onnx("Conv", spell(window(2))), **window(2)),
        case("conv", normal(0, 2, 4, 4), normal(3, 2, 3, 3), None, expected=np.zeros((0, 3, 2, 2), F32), **window(2)),
        case("conv", normal(1, 2, 5, 5), normal(3, 2, 3, 3), None, expected=np.zeros((1, 3, 0, 0), F32),
             **window(2, pad=(-2, -1))),
    ]
    return cases + transposed() + integer_convolutions()


def _moved(node: Onnx) -> Array:
    """What the node gives, channels last."""
    from tests.ir.ops_oracle import run

    return last(run(node, ())[0])


def transposed() -> list[Case]:
    cases = []
    for stride, pad, extra, dilation, group in product((1, 2, 3), ((0, 0), (1, 0)), (0, 1), (1, 2), (1, 2)):
        if extra >= stride:
            continue
        attrs = {**window(2, stride, pad, dilation), "group": group, "output_padding": (extra, extra)}
        cases.append(case("conv_transpose", normal(1, 4, 3, 4), normal(4, 3, 3, 2), normal(3 * group), atol=1e-5,
                          onnx=Onnx("ConvTranspose", spell(attrs)), **attrs))
    x, w = normal(2, 4, 3, 3), normal(4, 2, 2, 2)
    attrs = {**window(2, 2), "output_padding": (0, 0)}
    moved = _moved(Onnx("ConvTranspose", spell(attrs), (x, w)))
    line = {**window(1, 2), "output_padding": (1,)}
    cases += [
        case("conv_transpose", last(x), w, None, layout="nhwc", expected=moved, atol=1e-5, **attrs),
        case("conv_transpose", normal(1, 2, 5), normal(2, 3, 4), None, onnx=Onnx("ConvTranspose", spell(line)), **line),
        case("conv_transpose", normal(0, 4, 3, 3), w, None, expected=np.zeros((0, 2, 6, 6), F32), **attrs),
    ]
    return cases


def integer_convolutions() -> list[Case]:
    x, w = whole(0, 256, 1, 2, 5, 5, dtype=np.uint8), whole(0, 256, 3, 2, 3, 3, dtype=np.uint8)
    attrs = window(2, 1, (1, 1))
    node = Onnx("ConvInteger", spell(attrs))
    signed = w.astype(np.int8)
    zeros = np.array([1, -2, 3], np.int8)
    wide = (x.astype(np.float64) - 7, signed.astype(np.float64) - zeros.reshape(-1, 1, 1, 1))
    from tests.ir.ops_oracle import run

    exact = run(Onnx("Conv", spell(attrs), by="reference"), wide)[0]
    return [
        case("conv_integer", x, w, None, None, onnx=node, **attrs),
        case("conv_integer", x, w, np.array(9, np.uint8), np.array(3, np.uint8), onnx=node, **attrs),
        case("conv_integer", x, signed, np.array(7, np.uint8), zeros, expected=exact.astype(np.int32), **attrs),
        case("conv_integer", last(x), w, np.array(9, np.uint8), None, layout="nhwc", **attrs, expected=_moved(
            Onnx("ConvInteger", spell(attrs), (x, w, np.array(9, np.uint8))))),
    ]


def pools() -> list[Case]:
    cases = []
    for stride, pad, dilation, ceil in product((1, 2, 3), ((0, 0), (1, 1), (0, 1)), (1, 2), (False, True)):
        attrs = {**window(2, stride, pad, dilation), "kernel": (3, 2), "ceil_mode": ceil}
        x = normal(2, 3, 9, 8)
        cases.append(case("max_pool", x, onnx=Onnx("MaxPool", spell(attrs), opset=22), **attrs))
        cases.append(case("max_pool_indices", x, onnx=Onnx("MaxPool", spell(attrs), outputs=2, opset=22), **attrs))
        for include in (False, True):
            more = attrs | {"count_include_pad": include}
            cases.append(case("avg_pool", x, onnx=Onnx("AveragePool", spell(more), opset=22), **more))
        for p in (1, 2, 3):
            cases.append(case("lp_pool", x, onnx=Onnx("LpPool", spell(attrs) | {"p": p}, opset=22), **attrs, p=p))
    attrs = {**window(2, 2, (1, 1)), "kernel": (3, 3)}
    x = normal(1, 2, 5, 6)
    for op, onnx in (("max_pool", "MaxPool"), ("avg_pool", "AveragePool")):
        moved = _moved(Onnx(onnx, spell(attrs), (x,), opset=22))
        cases.append(case(op, last(x), layout="nhwc", expected=moved, **attrs))
        cases.append(case(op, normal(2, 3, 1, 1), onnx=Onnx(onnx, spell(attrs), opset=22), **attrs))
    column = spell(attrs) | {"storage_order": 1}
    line = {**window(1, 2), "kernel": (2,)}
    hard = np.array([[[NAN, 1, -INF, -INF, 2, INF, -3, NAN]]], F32)
    cases += [
        case("max_pool_indices", x, storage_order=1, onnx=Onnx("MaxPool", column, outputs=2), **attrs),
        case("max_pool_indices", x.astype(np.int8), onnx=Onnx("MaxPool", spell(attrs), outputs=2), **attrs),
        case("max_pool", whole(-128, 128, 1, 2, 5, 5, dtype=np.int8), onnx=Onnx("MaxPool", spell(attrs)), **attrs),
        case("max_pool", normal(1, 2, 9), onnx=Onnx("MaxPool", spell(line)), **line),
        case("max_pool", hard, expected=np.array([[[NAN, -INF, INF, NAN]]], F32), **line),
        case("max_pool_indices", hard, **line,
             expected=(np.array([[[NAN, -INF, INF, NAN]]], F32), np.array([[[0, 2, 5, 7]]]))),
        case("max_pool", normal(0, 3, 4, 4), expected=np.zeros((0, 3, 2, 2), F32), **attrs),
        case("max_pool", normal(1, 1, 4, 5, 6), onnx=Onnx("MaxPool", spell({**window(3), "kernel": (2, 2, 3)})),
             **window(3), kernel=(2, 2, 3)),
    ]
    return cases


def reductions() -> list[Case]:
    cases = []
    onnx = {"reduce_sum": "ReduceSum", "reduce_mean": "ReduceMean", "reduce_max": "ReduceMax",
            "reduce_min": "ReduceMin", "reduce_prod": "ReduceProd"}
    for op, name in onnx.items():
        for axes, keep in product(((0,), (1,), (0, 2), (0, 1, 2)), (False, True)):
            for x in (normal(3, 4, 5), whole(-9, 9, 3, 4, 5), normal(1, 1, 1)):
                node = Onnx(name, {"keepdims": int(keep)}, (x, np.array(axes)), opset=18)
                cases.append(case(op, x, axes=axes, keepdims=keep, onnx=node))
        cases.append(case(op, normal(3), axes=(), onnx=Onnx("Identity")))
    hard = np.array([[1, NAN, 3], [INF, 2, -INF], [0, -0.0, 0]], F32)
    empty = np.zeros((0, 2), F32)
    none = np.zeros((0, 2), np.int32)
    cases += [
        case("reduce_max", hard, axes=(1,), expected=np.array([NAN, INF, 0], F32)),
        case("reduce_min", hard, axes=(1,), expected=np.array([NAN, -INF, 0], F32)),
        case("reduce_sum", hard, axes=(1,), expected=np.array([NAN, NAN, 0], F32)),
        case("reduce_sum", empty, axes=(0,), expected=np.zeros(2, F32)),
        case("reduce_prod", empty, axes=(0,), expected=np.ones(2, F32)),
        case("reduce_mean", empty, axes=(0,), expected=np.full(2, NAN, F32)),
        case("reduce_max", empty, axes=(0,), expected=np.full(2, -INF, F32)),
        case("reduce_min", empty, axes=(0,), expected=np.full(2, INF, F32)),
        case("reduce_mean", none, axes=(0,), expected=np.zeros(2, np.int32)),
        case("reduce_max", none, axes=(0,), expected=np.full(2, -(2**31), np.int32)),
        case("reduce_min", none, axes=(0,), expected=np.full(2, 2**31 - 1, np.int32)),
        case("reduce_max", np.array([[True, False], [False, False]]), axes=(1,), expected=np.array([True, False])),
        case("reduce_min", np.array([[True, False], [True, True]]), axes=(1,), expected=np.array([False, True])),
        case("reduce_sum", np.array([100, 100], np.int8), axes=(0,), expected=np.array(-56, np.int8)),
        case("reduce_mean", np.array([-3, -4], np.int8), axes=(0,), expected=np.array(-3, np.int8)),
        case("reduce_sum", np.full(4096, 1 + 2**-7, ml_dtypes.bfloat16), axes=(0,),
             expected=np.array(4096 + 32, ml_dtypes.bfloat16)),
    ]
    return cases


def along_one_axis() -> list[Case]:
    cases = []
    for op, name in (("arg_max", "ArgMax"), ("arg_min", "ArgMin")):
        for axis, keep, late in product((0, 1), (False, True), (False, True)):
            x = whole(0, 4, 5, 6).astype(F32)
            node = Onnx(name, {"axis": axis, "keepdims": int(keep), "select_last_index": int(late)})
            cases.append(case(op, x, axis=axis, keepdims=keep, select_last=late, onnx=node))
        cases.append(case(op, np.array([1, NAN, 3, NAN], F32), axis=0, expected=np.array(1)))
        cases.append(case(op, np.array([1, NAN, 3, NAN], F32), axis=0, select_last=True, expected=np.array(3)))
        cases.append(case(op, np.zeros((0, 3), F32), axis=1, expected=np.zeros(0, np.int64)))
    for exclusive, reverse in product((False, True), (False, True)):
        x = normal(3, 4)
        node = Onnx("CumSum", {"exclusive": int(exclusive), "reverse": int(reverse)}, (x, np.array(1)))
        cases.append(case("cumsum", x, axis=1, exclusive=exclusive, reverse=reverse, onnx=node))
        y = np.array([2, 3, 5], np.int64)
        wanted = {(False, False): [2, 6, 30], (True, False): [1, 2, 6], (False, True): [30, 15, 5],
                  (True, True): [15, 5, 1]}
        cases.append(case("cumprod", y, axis=0, exclusive=exclusive, reverse=reverse,
                          expected=np.array(wanted[exclusive, reverse])))
        cases.append(case("cumsum", np.zeros((2, 0), F32), axis=1, exclusive=exclusive, reverse=reverse,
                          expected=np.zeros((2, 0), F32)))
    return cases


def softmaxes() -> list[Case]:
    cases = []
    for op, name in (("softmax", "Softmax"), ("log_softmax", "LogSoftmax"), ("hardmax", "Hardmax")):
        for shape, axis in (((2, 3, 4), 1), ((2, 3, 4), 2), ((5,), 0), ((1, 1), 1), ((0, 3), 1), ((3, 0), 1)):
            cases.append(case(op, normal(*shape), axis=axis, onnx=Onnx(name, {"axis": axis})))
    far = np.array([[1000, 1001, -1000], [-INF, 0, 0]], F32)
    e = float(1 / (1 + np.e))
    cases += [
        case("softmax", far, axis=1, expected=np.array([[e, 1 - e, 0], [0, 0.5, 0.5]], F32)),
        case("log_softmax", far[1:], axis=1, expected=np.array([[-INF, -np.log(2), -np.log(2)]], F32)),
        case("softmax", np.full((1, 2), -INF, F32), axis=1, expected=np.full((1, 2), NAN, F32)),
        case("softmax", np.array([1, NAN], F32), axis=0, expected=np.full(2, NAN, F32)),
        case("hardmax", np.array([1, 3, 3], F32), axis=0, expected=np.array([0, 1, 0], F32)),
    ]
    return cases


def norms() -> list[Case]:
    x, s, b = normal(2, 6, 4, 5), normal(6), normal(6)
    mean, var = normal(6), np.abs(normal(6))
    node = Onnx("BatchNormalization", {"epsilon": 1e-3})
    moved = _moved(Onnx("BatchNormalization", {"epsilon": 1e-3}, (x, s, b, mean, var)))
    cases = [
        case("batch_norm", x, s, b, mean, var, epsilon=1e-3, onnx=node),
        case("batch_norm", normal(3, 6), s, b, mean, var, epsilon=1e-3, onnx=node),
        case("batch_norm", last(x), s, b, mean, var, epsilon=1e-3, layout="nhwc", expected=moved),
        case("instance_norm", x, s, b, epsilon=1e-5, onnx=Onnx("InstanceNormalization", {"epsilon": 1e-5}), rtol=1e-4),
        case("group_norm", x, s, b, groups=3, epsilon=1e-5, rtol=1e-4,
             onnx=Onnx("GroupNormalization", {"epsilon": 1e-5, "num_groups": 3}, opset=21)),
        case("lrn", x, size=3, alpha=0.1, beta=0.75, bias=1.0,
             onnx=Onnx("LRN", {"size": 3, "alpha": 0.1, "beta": 0.75, "bias": 1.0})),
        case("lrn", x, size=4, alpha=0.1, beta=0.75, bias=2.0,
             expected=np.stack([x[:, c] / (2 + 0.1 / 4 * np.square(x[:, max(0, c - 1):c + 3]).sum(1)) ** 0.75
                                for c in range(6)], axis=1)),
        case("lrn", last(x), size=3, alpha=0.1, beta=0.75, bias=1.0, layout="nhwc",
             expected=_moved(Onnx("LRN", {"size": 3, "alpha": 0.1, "beta": 0.75, "bias": 1.0}, (x,)))),
    ]
    for axis in (1, 2, 3):
        shape = x.shape[axis:]
        layer = Onnx("LayerNormalization", {"axis": axis, "epsilon": 1e-5})
        rms = Onnx("RMSNormalization", {"axis": axis, "epsilon": 1e-5}, opset=23, by="reference")
        cases += [case("layer_norm", x, normal(*shape), normal(*shape), axis=axis, epsilon=1e-5, onnx=layer, rtol=1e-4),
                  case("layer_norm", x, normal(*shape), None, axis=axis, epsilon=1e-5, onnx=layer, rtol=1e-4),
                  case("rms_norm", x, normal(*shape), axis=axis, epsilon=1e-5, onnx=rms, rtol=1e-4)]
    return cases


def resizes() -> list[Case]:
    cases = []
    x = normal(1, 2, 6, 7)
    kinds = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
    for kind, (h, w) in product(kinds, ((2.0, 3.0), (0.6, 0.5), (1.3, 1.0), (0.2, 0.15))):
        sizes, scales = (1, 2, int(6 * h), int(7 * w)), (1.0, 1.0, float(F32(h)), float(F32(w)))
        # ONNX's tests take the unrounded length for align_corners; ONNX Runtime takes the rounded one.
        by = "reference" if kind == "align_corners" else "ort"
        for mode in ("linear", "cubic"):
            for outside in (False, True) if mode == "cubic" else (False,):
                attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": kind,
                                         "exclude_outside": int(outside)}
                cases.append(case("resize", x, sizes=sizes, scales=scales, mode=mode, coordinates=kind, atol=1e-4,
                                  exclude_outside=outside, onnx=resize_node(attrs, x, scales, by)))
        for how in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
            attrs = {"mode": "nearest", "coordinate_transformation_mode": kind, "nearest_mode": how}
            cases.append(case("resize", x, sizes=sizes, scales=scales, mode="nearest", coordinates=kind, nearest=how,
                              onnx=resize_node(attrs, x, scales, by)))
    for mode, h in product(("linear", "cubic"), (0.5, 0.6, 0.3, 1.7)):
        scales = (1.0, 1.0, float(F32(h)), float(F32(h)))
        sizes = (1, 2, int(6 * h), int(7 * h))
        attrs = {"mode": mode, "antialias": 1}
        cases.append(case("resize", x, sizes=sizes, scales=scales, mode=mode, antialias=True, atol=1e-4,
                          onnx=resize_node(attrs, x, scales)))
    roi = (0.0, 0.0, 0.2, -0.1, 1.0, 1.0, 0.8, 1.2)
    for mode in ("linear", "nearest"):
        attrs = {"mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 9.0}
        node = Onnx("Resize", attrs, (x, np.array(roi, F32), None, np.array((1, 2, 5, 4))), opset=18)
        cases.append(case("resize", x, sizes=(1, 2, 5, 4), scales=(1.0, 1.0, 5 / 6, 4 / 7), mode=mode, roi=roi,
                          coordinates="tf_crop_and_resize", extrapolation=9.0, onnx=node, atol=1e-5))
    sizes = (1, 2, 9, 3)
    node = Onnx("Resize", {"mode": "linear"}, (x, None, None, np.array(sizes)), opset=18)
    cases += [
        case("resize", x, sizes=sizes, mode="linear", onnx=node, atol=1e-5),
        case("resize", normal(1, 1, 1, 1), sizes=(1, 1, 3, 2), mode="cubic", atol=1e-5,
             onnx=Onnx("Resize", {"mode": "cubic"}, opset=18)),
        case("resize", normal(0, 2), sizes=(0, 4), expected=np.zeros((0, 4), F32)),
        case("resize", normal(2, 3, 4), sizes=(2, 6, 2), mode="linear",
             onnx=Onnx("Resize", {"mode": "linear"}, opset=18)),
    ]
    return [_with_sizes(c) for c in cases]


def resize_node(attrs: dict[str, Any], x: Array, scales: tuple[float, ...], by: str = "ort") -> Onnx:
    return Onnx("Resize", attrs, (x, None, np.array(scales, F32)), opset=18, by=by)


def _with_sizes(c: Case) -> Case:
    """Fill in the ONNX inputs where the node has none yet: the operand and the sizes."""
    if c.onnx is None or c.onnx.inputs is not None:
        return c
    from dataclasses import replace

    return replace(c, onnx=replace(c.onnx, inputs=(c.operands[0], None, None, np.array(c.attrs["sizes"]))))


CASES = [*products(), *convolutions(), *pools(), *reductions(), *along_one_axis(), *softmaxes(), *norms(), *resizes()]
