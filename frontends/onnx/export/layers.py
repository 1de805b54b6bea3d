"""Products, pooling, reductions, norms and recurrent layers."""
from __future__ import annotations

from typing import Any

import numpy as np

from lepton.frontends.onnx.export.writer import Writer, emits, plain
from lepton.ir import ops
from lepton.ir.core import Node
from lepton.ir.types import DType


def _windows(w: Writer, n: Node) -> dict[str, Any]:
    """Strides, dilations and pads. Raises UnsupportedError for layouts that ONNX does not have."""
    if n.attrs["layout"] != "nchw":
        w.refuse(n, f"{n.op.name} in {n.attrs['layout']} layout cannot be written to ONNX")
    pads = w.numbers(n, (*n.attrs["pads_begin"], *n.attrs["pads_end"]), "the pads")
    return {**plain(n.attrs, "strides", "dilations"), "pads": pads}


@emits(ops.conv, ops.conv_transpose, ops.conv_integer)
def conv(w: Writer, n: Node) -> str:
    kinds = {ops.conv: "Conv", ops.conv_transpose: "ConvTranspose", ops.conv_integer: "ConvInteger"}
    extra: dict[str, Any] = {"output_padding": list(n.attrs["output_padding"])} if n.op is ops.conv_transpose else {}
    return str(w.op(kinds[n.op], *n.inputs, group=n.attrs["group"], **_windows(w, n), **extra))


@emits(ops.max_pool)
def max_pool(w: Writer, n: Node) -> str:
    return str(w.op("MaxPool", *n.inputs, kernel_shape=list(n.attrs["kernel"]), **_windows(w, n),
                    ceil_mode=int(n.attrs["ceil_mode"])))


@emits(ops.avg_pool)
def avg_pool(w: Writer, n: Node) -> str:
    return str(w.op("AveragePool", *n.inputs, kernel_shape=list(n.attrs["kernel"]), **_windows(w, n),
                    **plain(n.attrs, "ceil_mode", "count_include_pad")))


@emits(ops.reduce_sum, ops.reduce_mean, ops.reduce_max, ops.reduce_min, ops.reduce_prod)
def reduction(w: Writer, n: Node) -> str:
    kind = "Reduce" + n.op.name.removeprefix("reduce_").capitalize()
    if not n.attrs["axes"]:
        return str(w.op("Identity", *n.inputs))
    return str(w.op(kind, *n.inputs, w.constant(list(n.attrs["axes"])), keepdims=int(n.attrs["keepdims"])))


@emits(ops.arg_max, ops.arg_min)
def arg(w: Writer, n: Node) -> str:
    found = str(w.op("ArgMax" if n.op is ops.arg_max else "ArgMin", *n.inputs, axis=n.attrs["axis"],
                     keepdims=int(n.attrs["keepdims"]), select_last_index=int(n.attrs["select_last"])))
    wanted = n.result.tensor.dtype
    return found if wanted is DType.I64 else w.cast(found, wanted)


@emits(ops.softmax, ops.log_softmax, ops.hardmax)
def softmax(w: Writer, n: Node) -> str:
    kinds = {ops.softmax: "Softmax", ops.log_softmax: "LogSoftmax", ops.hardmax: "Hardmax"}
    return str(w.op(kinds[n.op], *n.inputs, axis=n.attrs["axis"]))


@emits(ops.layer_norm)
def layer_norm(w: Writer, n: Node) -> str:
    return str(w.op("LayerNormalization", *n.inputs, **plain(n.attrs, "axis", "epsilon")))


@emits(ops.rms_norm)
def rms_norm(w: Writer, n: Node) -> str:
    """In parts: RMSNormalization is of opset 23."""
    x, scale = n.inputs
    assert x is not None
    axes = w.constant(list(range(n.attrs["axis"] % x.tensor.rank, x.tensor.rank)))
    mean = w.op("ReduceMean", w.op("Mul", x, x), axes, keepdims=1)
    size = w.op("Sqrt", w.op("Add", mean, w.constant(np.float64(n.attrs["epsilon"]), x.tensor.dtype)))
    return str(w.op("Mul", w.op("Div", x, size), scale))


@emits(ops.batch_norm)
def batch_norm(w: Writer, n: Node) -> str:
    if n.attrs["layout"] != "nchw":
        w.refuse(n, f"batch_norm in {n.attrs['layout']} layout cannot be written to ONNX")
    return str(w.op("BatchNormalization", *n.inputs, epsilon=n.attrs["epsilon"]))


@emits(ops.instance_norm)
def instance_norm(w: Writer, n: Node) -> str:
    return str(w.op("InstanceNormalization", *n.inputs, epsilon=n.attrs["epsilon"]))


@emits(ops.group_norm)
def group_norm(w: Writer, n: Node) -> str:
    return str(w.op("GroupNormalization", *n.inputs, epsilon=n.attrs["epsilon"], num_groups=n.attrs["groups"]))


@emits(ops.lrn)
def lrn(w: Writer, n: Node) -> str:
    if n.attrs["layout"] != "nchw":
        w.refuse(n, f"lrn in {n.attrs['layout']} layout cannot be written to ONNX")
    return str(w.op("LRN", *n.inputs, **plain(n.attrs, "size", "alpha", "beta", "bias")))


@emits(ops.lstm, ops.gru, ops.rnn)
def recurrent(w: Writer, n: Node) -> list[str]:
    kinds = {ops.lstm: "LSTM", ops.gru: "GRU", ops.rnn: "RNN"}
    if n.inputs[1] is not None and n.inputs[1].tensor.dtype.is_integer:
        w.refuse(n, f"{n.op.name} with weights in i8 cannot be written to ONNX; dequantised ones can")
    attrs: dict[str, Any] = {"hidden_size": n.attrs["hidden"], "direction": n.attrs["direction"],
                             "layout": n.attrs["layout"] or None, "clip": n.attrs["clip"] or None}
    for ours, theirs in (("activations", "activations"), ("alphas", "activation_alpha"), ("betas", "activation_beta")):
        attrs[theirs] = list(n.attrs[ours]) or None
    if n.op is ops.lstm:
        attrs["input_forget"] = int(n.attrs["input_forget"]) or None
    if n.op is ops.gru:
        attrs["linear_before_reset"] = int(n.attrs["linear_before_reset"]) or None
    found: list[str] = w.op(kinds[n.op], *n.inputs, outputs=len(n.results), **attrs)
    return found


@emits(ops.resize)
def resize(w: Writer, n: Node) -> str:
    """By scales where they are known and give these sizes, else by sizes."""
    a = n.attrs
    roi = w.constant(list(a["roi"]), DType.F32) if a["roi"] else ""
    by_scale = bool(a["scales"])
    scales = w.constant(list(a["scales"]), DType.F32) if by_scale else ""
    sizes = "" if by_scale else w.vector(a["sizes"])
    return str(w.op(
        "Resize", *n.inputs, roi, scales, sizes, mode=a["mode"], coordinate_transformation_mode=a["coordinates"],
        nearest_mode=a["nearest"], cubic_coeff_a=a["cubic_a"], exclude_outside=int(a["exclude_outside"]),
        antialias=int(a["antialias"]), extrapolation_value=a["extrapolation"]))
