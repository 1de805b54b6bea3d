"""How gradients pass through what moves or combines elements: entries of `lepton.ir.gradient.RULES`."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lepton.ir import dims, ops
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.dims import Dim, product
from lepton.ir.gradient import F, Step, filled, gradients
from lepton.ir.gradient_rules import rule, step
from lepton.ir.op import Op
from lepton.ir.types import DType

# --- moving elements ------------------------------------------------------------------------------


@rule(ops.reshape)
def reshape(s: Step, operand: int) -> F:
    return s.g.reshape(s.x().shape)


@rule(ops.transpose)
def transpose(s: Step, operand: int) -> F:
    return moved(s.g, [int(p) for p in np.argsort(s.node.attrs["perm"])])


def moved(x: F, perm: Sequence[int]) -> F:
    return x if list(perm) == sorted(perm) else x.of(ops.transpose, perm=tuple(perm))


@rule(ops.broadcast_to)
def broadcast_to(s: Step, operand: int) -> F:
    return s.g.summed_to(s.x().shape)


@rule(ops.slice_)
def slice_(s: Step, operand: int) -> F:
    """Zeros where nothing was taken: between the elements, then around them."""
    g, attrs, sizes = s.g, s.node.attrs, s.x().shape
    before: list[Dim] = []
    after: list[Dim] = []
    for axis, (start, count, pace) in enumerate(zip(attrs["starts"], attrs["sizes"], attrs["steps"], strict=True)):
        if count == 0:
            return F(filled(0.0, s.x().v.tensor), g.loc)
        if pace < 0:
            start, g = start + (count - 1) * pace, _part(g, axis, count - 1, count, -1)
        g = _apart(g, axis, abs(pace))
        before.append(start)
        after.append(sizes[axis] - start - g.shape[axis])
    return g.of(ops.pad, before=tuple(before), after=tuple(after), mode="constant")


def _part(x: F, axis: int, start: Dim, size: Dim, pace: int = 1) -> F:
    def entries(here: Dim, elsewhere: Sequence[Dim]) -> tuple[Dim, ...]:
        return (*elsewhere[:axis], here, *elsewhere[axis + 1:])

    rank = len(x.shape)
    return x.of(ops.slice_, starts=entries(start, [0] * rank), sizes=entries(size, x.shape),
                steps=entries(pace, [1] * rank))


def _apart(x: F, axis: int, pace: int) -> F:
    """pace - 1 zeros between neighbours along the axis."""
    if pace == 1:
        return x
    count, rank = x.shape[axis], len(x.shape)
    x = x.reshape((*x.shape[:axis + 1], 1, *x.shape[axis + 1:]))
    after = tuple(pace - 1 if a == axis + 1 else 0 for a in range(rank + 1))
    x = x.of(ops.pad, before=(0,) * (rank + 1), after=after, mode="constant")
    x = x.reshape((*x.shape[:axis], count * pace, *x.shape[axis + 2:]))
    return _part(x, axis, 0, (count - 1) * pace + 1)


@rule(ops.concat)
def concat(s: Step, operand: int) -> F:
    axis = s.node.attrs["axis"]
    start: Dim = sum((s.x(i).shape[axis] for i in range(operand)), 0)
    return _part(s.g, axis, start, s.x(operand).shape[axis])


@rule(ops.pad)
def pad(s: Step, operand: int) -> F:
    attrs = s.node.attrs
    amounts = (*attrs["before"], *attrs["after"])
    if attrs["mode"] != "constant" or operand or not all(isinstance(n, int) for n in amounts):
        raise refused(s, f"pad by mode {attrs['mode']!r}, of unknown amounts or with respect to the value")
    before, after = (tuple(-n for n in attrs[name]) for name in ("before", "after"))
    return s.g.of(ops.pad, before=before, after=after, mode="constant")


@rule(ops.trilu)
def trilu(s: Step, operand: int) -> F:
    return s.g.of(ops.trilu, upper=s.node.attrs["upper"], k=s.node.attrs["k"])


@rule(ops.gather)
def gather(s: Step, operand: int) -> F:
    """Each gathered slice goes back to where it came from; equal indices add up."""
    x, indices, axis = s.x(), s.x(1), s.node.attrs["axis"]
    places, rank = len(indices.shape), len(s.g.shape)
    front = [*range(axis, axis + places), *range(axis), *range(axis + places, rank)]
    order = [axis, *range(axis), *range(axis + 1, len(x.shape))]
    zeros = filled(0.0, x.v.tensor.with_shape([x.shape[a] for a in order]))
    added = F(ops.scatter_nd(zeros, indices.reshape((*indices.shape, 1)).v, moved(s.g, front).v, reduction="add"),
              s.g.loc)
    return moved(added, [int(p) for p in np.argsort(order)])


@rule(ops.gather_elements)
def gather_elements(s: Step, operand: int) -> F:
    x = s.x()
    return F(ops.scatter_elements(filled(0.0, x.v.tensor), s.x(1).v, s.g.v, axis=s.node.attrs["axis"],
                                  reduction="add"), s.g.loc)


@rule(ops.gather_nd)
def gather_nd(s: Step, operand: int) -> F:
    if s.node.attrs["batch_dims"]:
        raise refused(s, "gather_nd with batch dimensions")
    return F(ops.scatter_nd(filled(0.0, s.x().v.tensor), s.x(1).v, s.g.v, reduction="add"), s.g.loc)


# --- sums, products, extremes ---------------------------------------------------------------------


def _kept(s: Step, value: F) -> F:
    """A reduced value with the axes it was reduced along as 1s."""
    axes = s.node.attrs["axes"]
    return value.reshape([1 if a in axes else d for a, d in enumerate(s.x().shape)])


@rule(ops.reduce_sum)
def reduce_sum(s: Step, operand: int) -> F:
    return _kept(s, s.g).of(ops.broadcast_to, shape=s.x().shape)


@rule(ops.reduce_mean)
def reduce_mean(s: Step, operand: int) -> F:
    count = product([s.x().shape[a] for a in s.node.attrs["axes"]])
    return reduce_sum(s, operand) / size_of(count, s.dtype)


def size_of(count: Dim, dtype: DType) -> F | float:
    if isinstance(count, int):
        return float(count)
    return F(ops.cast(ops.shape_values(dims=(count,), scalar=True), to=dtype))


@rule(ops.reduce_max, ops.reduce_min)
def reduce_extreme(s: Step, operand: int) -> F:
    """Equal elements share."""
    x = s.x()
    hits = step(x.of(ops.equal, _kept(s, s.y)), x)
    return hits * (_kept(s, s.g) / hits.sum(s.node.attrs["axes"]))


@rule(ops.reduce_prod)
def reduce_prod(s: Step, operand: int) -> F:
    """Times the product of all others, zeros or not: of those before and those behind."""
    x, axes = s.x(), s.node.attrs["axes"]
    rest = [a for a in range(len(x.shape)) if a not in axes]
    order = [*rest, *axes]
    last = len(rest)
    row = moved(x, order).reshape((*(x.shape[a] for a in rest), product([x.shape[a] for a in axes])))
    others = row.of(ops.cumprod, axis=last, exclusive=True) * row.of(
        ops.cumprod, axis=last, exclusive=True, reverse=True)
    back = others.reshape([x.shape[a] for a in order])
    return moved(back, [int(p) for p in np.argsort(order)]) * _kept(s, s.g)


@rule(ops.cumsum)
def cumsum(s: Step, operand: int) -> F:
    a = s.node.attrs
    return s.g.of(ops.cumsum, axis=a["axis"], exclusive=a["exclusive"], reverse=not a["reverse"])


@rule(ops.softmax)
def softmax(s: Step, operand: int) -> F:
    return s.y * (s.g - (s.g * s.y).sum([s.node.attrs["axis"]]))


@rule(ops.log_softmax)
def log_softmax(s: Step, operand: int) -> F:
    return s.g - s.y.of(ops.exp) * s.g.sum([s.node.attrs["axis"]])


# --- products of matrices, and what is made of simpler ops ----------------------------------------


@rule(ops.matmul)
def matmul(s: Step, operand: int) -> F:
    a, b = s.x(0), s.x(1)
    left, right = (a if len(a.shape) > 1 else a.reshape((1, *a.shape)),
                   b if len(b.shape) > 1 else b.reshape((*b.shape, 1)))
    batch = s.g.shape[:len(s.g.shape) - (len(a.shape) > 1) - (len(b.shape) > 1)]
    g = s.g.reshape((*batch, left.shape[-2], right.shape[-1]))
    if operand == 0:
        return g.of(ops.matmul, _turned(right)).summed_to(left.shape).reshape(a.shape)
    return _turned(left).of(ops.matmul, g).summed_to(right.shape).reshape(b.shape)


def _turned(x: F) -> F:
    rank = len(x.shape)
    return moved(x, [*range(rank - 2), rank - 1, rank - 2])


def _standardised(x: F, axes: Sequence[int], epsilon: float, centre: bool = True) -> F:
    def mean(v: F) -> F:
        return v.of(ops.reduce_mean, axes=tuple(axes), keepdims=True)

    x = x - mean(x) if centre else x
    return x * (mean(x * x) + epsilon).of(ops.rsqrt)


def _layer_norm(xs: Sequence[F], a: Mapping[str, Any]) -> F:
    y = _standardised(xs[0], range(a["axis"], len(xs[0].shape)), a["epsilon"]) * xs[1]
    return y + xs[2] if len(xs) > 2 else y


def _rms_norm(xs: Sequence[F], a: Mapping[str, Any]) -> F:
    return _standardised(xs[0], range(a["axis"], len(xs[0].shape)), a["epsilon"], centre=False) * xs[1]


def _per_channel(vector: F, rank: int, axis: int = 1) -> F:
    return vector.reshape([vector.shape[0] if a == axis else 1 for a in range(rank)])


def _instance_norm(xs: Sequence[F], a: Mapping[str, Any]) -> F:
    rank = len(xs[0].shape)
    scale, bias = (_per_channel(v, rank) for v in xs[1:])
    return _standardised(xs[0], range(2, rank), a["epsilon"]) * scale + bias


def _group_norm(xs: Sequence[F], a: Mapping[str, Any]) -> F:
    x, groups = xs[0], a["groups"]
    shape, rank = x.shape, len(x.shape)
    apart = x.reshape((shape[0], groups, dims.floordiv(shape[1], groups), *shape[2:]))
    scale, bias = (_per_channel(v, rank) for v in xs[1:])
    return _standardised(apart, range(2, rank + 1), a["epsilon"]).reshape(shape) * scale + bias


def _batch_norm(xs: Sequence[F], a: Mapping[str, Any]) -> F:
    rank = len(xs[0].shape)
    axis = 1 if a["layout"] == "nchw" else rank - 1
    scale, bias, mean, var = (_per_channel(v, rank, axis) for v in xs[1:])
    epsilon: float = a["epsilon"]
    return (xs[0] - mean) * (scale * (var + epsilon).of(ops.rsqrt)) + bias


def _attention(xs: Sequence[F], a: Mapping[str, Any]) -> F:
    scale: float = a["scale"]
    scores = xs[0].of(ops.matmul, _turned(xs[1])) * scale
    scores = scores + xs[3] if len(xs) > 3 else scores
    return scores.of(ops.softmax, axis=3).of(ops.matmul, xs[2])


PARTS: dict[Op, Callable[[Sequence[F], Mapping[str, Any]], F]] = {
    ops.layer_norm: _layer_norm, ops.rms_norm: _rms_norm, ops.instance_norm: _instance_norm,
    ops.group_norm: _group_norm, ops.batch_norm: _batch_norm, ops.attention: _attention,
}


@rule(*PARTS)
def by_parts(s: Step, operand: int) -> F:
    """Through the ops that it means."""
    given: list[F] = []
    for i, v in enumerate(s.node.inputs):
        if v is not None:
            given.append(F(ops.reshape(v, shape=v.tensor.shape), s.g.loc))  # apart, should one value come in twice
        if i == operand:
            x = given[-1].v
    made = PARTS[s.node.op](given, s.node.attrs)
    return F(gradients(made.v, [x], seed=s.g.v, loc=s.g.loc)[0], s.g.loc)


def refused(s: Step, what: str) -> UnsupportedError:
    return UnsupportedError(f"{what} cannot be differentiated", where=s.node.loc[0] if s.node.loc else None)
