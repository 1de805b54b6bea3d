"""Ops that move, join, pick and sort elements."""
from __future__ import annotations

import numpy as np

from lepton.frontends.onnx.export.writer import Writer, emits
from lepton.ir import ops
from lepton.ir.core import Node
from lepton.ir.dims import Expr

_TO_THE_START = -(2**31)  # an end before the first element


@emits(ops.reshape)
def reshape(w: Writer, n: Node) -> str:
    """One size that depends on the input can be -1, if nothing is 0."""
    shape = n.attrs["shape"]
    open_ = [d for d in shape if isinstance(d, Expr)]
    if len(open_) == 1 and all(isinstance(d, Expr) or d > 0 for d in shape):
        target = w.constant([-1 if isinstance(d, Expr) else d for d in shape])
    else:
        target = w.vector(shape)
    return str(w.op("Reshape", n.inputs[0], target, allowzero=1 if 0 in shape else None))


@emits(ops.transpose)
def transpose(w: Writer, n: Node) -> str:
    return str(w.op("Transpose", *n.inputs, perm=list(n.attrs["perm"])))


@emits(ops.broadcast_to)
def broadcast_to(w: Writer, n: Node) -> str:
    return str(w.op("Expand", *n.inputs, w.vector(n.attrs["shape"])))


@emits(ops.slice_)
def slice_(w: Writer, n: Node) -> str:
    starts, sizes, steps = n.attrs["starts"], n.attrs["sizes"], n.attrs["steps"]
    assert n.inputs[0] is not None
    whole = n.inputs[0].tensor.shape
    axes = [a for a in range(len(steps)) if (starts[a], sizes[a], steps[a]) != (0, whole[a], 1)]
    ends = []
    for a in axes:
        end = starts[a] + sizes[a] * steps[a]
        if steps[a] < 0 and isinstance(end, Expr):
            w.refuse(n, "a slice backwards whose end depends on the input's size cannot be written to ONNX")
        ends.append(_TO_THE_START if steps[a] < 0 and end < 0 else end)
    if not axes:
        return str(w.op("Identity", *n.inputs))
    return str(w.op("Slice", *n.inputs, w.vector([starts[a] for a in axes]), w.vector(ends), w.constant(axes),
                    w.constant([steps[a] for a in axes])))


@emits(ops.concat)
def concat(w: Writer, n: Node) -> str:
    return str(w.op("Concat", *n.inputs, axis=n.attrs["axis"]))


@emits(ops.pad)
def pad(w: Writer, n: Node) -> str:
    x, value = (*n.inputs, None)[:2]
    return str(w.op("Pad", x, w.vector([*n.attrs["before"], *n.attrs["after"]]), value, mode=n.attrs["mode"]))


@emits(ops.gather, ops.gather_elements)
def gather(w: Writer, n: Node) -> str:
    return str(w.op("Gather" if n.op is ops.gather else "GatherElements", *n.inputs, axis=n.attrs["axis"]))


@emits(ops.gather_nd)
def gather_nd(w: Writer, n: Node) -> str:
    return str(w.op("GatherND", *n.inputs, batch_dims=n.attrs["batch_dims"]))


@emits(ops.scatter_elements)
def scatter_elements(w: Writer, n: Node) -> str:
    return str(w.op("ScatterElements", *n.inputs, axis=n.attrs["axis"], reduction=n.attrs["reduction"]))


@emits(ops.scatter_nd)
def scatter_nd(w: Writer, n: Node) -> str:
    return str(w.op("ScatterND", *n.inputs, reduction=n.attrs["reduction"]))


@emits(ops.trilu)
def trilu(w: Writer, n: Node) -> str:
    return str(w.op("Trilu", *n.inputs, w.constant(np.int64(n.attrs["k"])), upper=int(n.attrs["upper"])))


@emits(ops.top_k)
def top_k(w: Writer, n: Node) -> list[str]:
    attrs = n.attrs
    found: list[str] = w.op("TopK", *n.inputs, w.size(attrs["k"]), outputs=2, axis=attrs["axis"],
                            largest=int(attrs["largest"]), sorted=int(attrs["sorted"]))
    return found


@emits(ops.cumsum)
def cumsum(w: Writer, n: Node) -> str:
    return str(w.op("CumSum", *n.inputs, w.constant(np.int64(n.attrs["axis"])), exclusive=int(n.attrs["exclusive"]),
                    reverse=int(n.attrs["reverse"])))
