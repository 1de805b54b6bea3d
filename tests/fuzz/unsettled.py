"""Which elements of a result nothing can be said about: those whose value hangs on the order of sums and products.

Element by element: `sums` bounds every partial sum by the sum of the magnitudes, `products` every partial product, and
`reached` follows the elements that may overflow on the way to the results that read them, by putting NaN in their
place. `zeros_times` finds where a convolution may or may not multiply zeros around the image by weights that are not
finite. README.md says the same in words."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Node
from lepton.ir.op import OPS, Op
from lepton.ir.tensor import Array
from lepton.ir.types import DType

Operands = Sequence[Array | None]
# Sums of products or of elements: where the terms' finite parts could overflow in one order, NaN or inf may come.
SUMS = frozenset("matmul matmul_coded conv conv_transpose reduce_sum reduce_mean avg_pool cumsum batch_norm".split())
PRODUCTS = {"reduce_prod": "reduce_sum", "cumprod": "cumsum"}  # and what sums their logarithms
# Magnitudes, as powers of the largest number, beyond which an op may overflow on the way to a finite result.
STEEP = {"lrn": 0.45, "det": 0.15, "attention": 0.45, "lstm": 0.45, "gru": 0.45, "rnn": 0.45, "resize": 0.95,
         "dynamic_quantize": 0.98}
RECURRENT = frozenset(("lstm", "gru", "rnn"))
TILE = 4  # outputs along an axis that a convolution by fewer multiplications computes together


def unsettled(
    node: Node, operands: Operands, attrs: dict[str, Any], results: Sequence[Array], lax: bool,
) -> list[Array]:
    """bool of each result's shape: where the answer may be anything."""
    name = node.op.name
    masks: list[Array] = [np.zeros(r.shape, np.bool_) for r in results]
    found: list[Sequence[Array]] = []
    if name == "matmul_coded":
        x, *weights = operands
        known = node.op.reference(np.eye(len(np.asarray(weights[0])), dtype=np.float32), *weights, **attrs)
        found.append([sums(ops.matmul, [x, np.asarray(known)], {})])
    elif name in SUMS:
        found.append([sums(node.op, operands, attrs)])
    if name in PRODUCTS:
        found.append([products(name, operands, attrs)])
    if name == "lp_pool":
        found.append(reached(node, operands, attrs, 0.9 / max(1, attrs["p"]), spread=False))
    if name in STEEP:
        found.append(reached(node, operands, attrs, STEEP[name], spread=name in RECURRENT))
    if name in ("conv", "conv_transpose"):
        found.append([zeros_times(node, operands, attrs)])
    if name == "conv" and lax and few_multiplications(operands, attrs):
        found.append([together(node, operands, attrs)])
    return [m | np.logical_or.reduce([f[i] for f in found]) if found else m for i, m in enumerate(masks)]


def _floats(operands: Operands) -> list[Array]:
    return [x for x in operands if x is not None and DType.of(x).is_float]


def _largest(operands: Operands) -> float:
    """The largest number of the type that the op computes in."""
    first = _floats(operands)[0]
    return float(np.finfo(np.float64 if first.dtype == np.float64 else np.float32).max)


def _each(operands: Operands, change: Callable[[Array], Array]) -> list[Array | None]:
    """The operands, floats among them as f64 and changed."""
    with np.errstate(all="ignore"):
        return [x if x is None or not DType.of(x).is_float else change(x.astype(np.float64)) for x in operands]


def sums(op: Op, operands: Operands, attrs: dict[str, Any]) -> Array:
    """Where the magnitudes of the finite terms sum to nearly the largest number. f64 is scaled down, not to overflow
    here."""
    name, largest, scale = op.name, _largest(operands), 1.0
    if _floats(operands)[0].dtype == np.float64:
        factors = name in ("matmul", "conv", "conv_transpose", "batch_norm")
        scale, largest = 2.0**-400, largest * 2.0 ** (-800 if factors else -400)
    terms = _each(operands, lambda x: np.abs(np.where(np.isfinite(x), x, 0)) * scale)
    if name == "batch_norm":
        x, factor, bias, mean = map(np.asarray, terms[:4])
        terms = [x, factor, bias * scale, -mean, np.asarray(operands[4]).astype(np.float64)]
    bound = np.asarray(op.reference(*terms, **attrs))
    if name == "reduce_mean":
        bound = bound * (_floats(operands)[0].size / max(1, bound.size))
    if name == "avg_pool":
        bound = bound * math.prod(attrs["kernel"])
    return np.asarray(bound > largest / 8)


def products(name: str, operands: Operands, attrs: dict[str, Any]) -> Array:
    """Where the factors above 1 alone overflow, or those below 1 alone vanish."""
    (x,) = _floats(operands)
    size = np.abs(x.astype(np.float64))
    with np.errstate(all="ignore"):
        logs = np.where(np.isfinite(size) & (size > 0), np.log(size), 0.0)
    total = OPS[PRODUCTS[name]].reference
    most, least = (np.asarray(total(part, **attrs)) for part in (np.maximum(logs, 0), np.minimum(logs, 0)))
    edge = math.log(_largest(operands)) - 3
    return np.asarray((most > edge) | (least < -edge))


def reached(node: Node, operands: Operands, attrs: dict[str, Any], power: float, *, spread: bool) -> list[Array]:
    """The results that read an element beyond largest**power; `spread`: one that is not finite, too."""
    limit = _largest(operands) ** power

    def spoil(x: Array) -> Array:
        bad = np.isfinite(x) & (np.abs(x) > limit)
        return np.where(bad | ~np.isfinite(x) if spread else bad, np.nan, np.where(np.isfinite(x), x, 0))

    spoilt = _each(operands, spoil)
    marks = [x is not None and DType.of(x).is_float and bool(np.isnan(x).any()) for x in spoilt]
    outcome = node.op.reference(*spoilt, **attrs)
    results = [np.asarray(r) for r in (outcome if isinstance(outcome, tuple) else (outcome,))]
    return [np.isnan(r) if r.dtype.kind == "f" and node.op.name != "dynamic_quantize" else np.full(r.shape, any(marks))
            for r in results]


def zeros_times(node: Node, operands: Operands, attrs: dict[str, Any]) -> Array:
    """Where weights that are not finite meet the zeros around (or, transposed, between) the image, or do not."""
    x, w = map(np.asarray, operands[:2])
    endless = (~np.isfinite(w.astype(np.float64))).astype(np.float64)
    met = np.asarray(node.op.reference(np.ones(x.shape), endless, **attrs))
    if not endless.any():
        return np.zeros(met.shape, np.bool_)
    if node.op.name == "conv":
        total = endless.reshape(len(w), -1).sum(axis=1)
    else:
        group = attrs["group"]
        total = endless.reshape(group, w.shape[0] // group, w.shape[1], -1).sum(axis=(1, 3)).reshape(-1)
    channels = 1 if attrs.get("layout", "nchw") == "nchw" else met.ndim - 1
    few: Array = met < total.reshape([-1 if a == channels else 1 for a in range(met.ndim)]) - 0.5
    return few


def few_multiplications(operands: Operands, attrs: dict[str, Any]) -> bool:
    """Whether Winograd's form may be taken: 3x3, a step at a time, of a single group."""
    kernel = np.asarray(operands[1]).shape[2:]
    return kernel == (3, 3) and max(*attrs["strides"], *attrs["dilations"], attrs["group"]) == 1


def together(node: Node, operands: Operands, attrs: dict[str, Any]) -> Array:
    """Where some output of the tile is not finite, for its operands or on the way: Winograd's form mixes them all."""
    limit = _largest(operands) ** 0.9
    spoilt = _each(operands[:2], lambda x: np.where(np.abs(x) < limit, x / limit, np.nan))
    bad = np.asarray(np.isnan(node.op.reference(*spoilt, **attrs)))
    if not bad.size:
        return np.zeros(bad.shape, np.bool_)
    w = np.asarray(spoilt[1])
    filters = np.isnan(w).reshape(len(w), -1).any(axis=1)
    nchw = attrs.get("layout", "nchw") == "nchw"
    for axis in (2, 3) if nchw else (1, 2):
        near = np.pad(bad, [(TILE - 1, TILE - 1) if a == axis else (0, 0) for a in range(bad.ndim)])
        bad = np.asarray(np.lib.stride_tricks.sliding_window_view(near, 2 * TILE - 1, axis=axis).any(axis=-1))
    return np.asarray(bad | filters.reshape((1, -1, 1, 1) if nchw else (1, 1, 1, -1)))
