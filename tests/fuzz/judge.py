"""When a compiled answer is right: rounding errors, sampled through the whole program.

Each op may be off by the `ULPS` of its row, forwards and backwards: its operands and its results are moved by a few
units in the last place, at random, and the program is interpreted again, several times. Where all samples agree, the
compiled answer must be that; where they spread, it must lie within (a little more than) the spread; where they differ
in kind (one NaN, one number; two integers), nothing can be said. So a comparison of nearly equal numbers excuses what
depends on it, and nothing else does."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from lepton.ir.core import Graph, Node
from lepton.ir.diagnostics import LeptonError
from lepton.ir.evaluate import evaluate
from lepton.ir.ops.elementwise import convert
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType
from tests.fuzz.unsettled import unsettled

# Ops that round nothing: moving, choosing, comparing, counting, and conversions, whose rounding is defined.
EXACT = frozenset((
    "neg abs sign floor ceil round minimum maximum where clip relu thresholded_relu cast bitcast equal less less_equal "
    "greater greater_equal is_nan is_inf logical_and logical_or logical_xor logical_not bit_and bit_or bit_xor bit_not "
    "shift_left shift_right constant iota range shape_values reshape transpose broadcast_to slice concat pad trilu "
    "gather gather_elements gather_nd one_hot top_k sort_rows non_zero arg_max arg_min hardmax reduce_max reduce_min "
    "max_pool max_pool_indices matmul_integer conv_integer if loop scan fusion").split())
# Exact ops whose zero may have either sign.
FREE_ZERO = frozenset("minimum maximum clip relu reduce_max reduce_min max_pool max_pool_indices".split())
# How far each op may be off, in units in the last place of the type it computes in; DEFAULT for those not listed.
DEFAULT = 4.0
ULPS = {"add": 1.0, "sub": 1.0, "mul": 1.0, "div": 1.0, "sqrt": 1.0, "reciprocal": 1.0, "conv": 32.0,
        "conv_transpose": 16.0, "matmul": 16.0, "matmul_coded": 32.0, "reduce_sum": 16.0, "reduce_mean": 16.0,
        "reduce_prod": 32.0,
        "cumsum": 16.0, "cumprod": 32.0, "det": 64.0, "lstm": 32.0, "gru": 32.0, "rnn": 32.0, "attention": 32.0,
        "layer_norm": 16.0, "instance_norm": 16.0, "group_norm": 16.0, "rms_norm": 16.0, "pow": 256.0, "lrn": 256.0,
        "resize": 16.0, "lp_pool": 16.0, "avg_pool": 16.0}
# Ops that add 1 to nearly -1, or the like: off by so many units of their operand and of 1 rather than of their result.
CANCELLING = frozenset("gelu hard_sigmoid hard_swish swish mish shrink elu selu celu acosh asinh atanh softplus"
                       .split())
# Ops whose constant factors may lose their subnormals, unless math is strict (lepton.passes.flush_denormals).
FLUSHED = frozenset("matmul conv conv_transpose lstm gru rnn".split())
# Norms take a mean away: off by units of what they sum, the same for all of a row (of which there are so many).
MEANS: dict[str, Callable[[Array, dict[str, Any]], int]] = {
    "layer_norm": lambda x, attrs: math.prod(x.shape[:attrs["axis"]]),
    "instance_norm": lambda x, attrs: math.prod(x.shape[:2]),
    "group_norm": lambda x, attrs: x.shape[0] * attrs["groups"],
}
WIDE = (DType.F32, DType.F64)


class Noise:
    """Moves results, as `evaluate`'s `alter`."""

    def __init__(self, seed: int, lax: bool) -> None:
        self.rng, self.lax, self.odd = np.random.default_rng(seed), lax, bool(seed % 2)

    def __call__(self, node: Node, operands: list[Array | None], attrs: dict[str, Any],
                 results: list[Array]) -> list[Array]:
        name = node.op.name
        if name == "bitcast" and operands[0] is not None and DType.of(operands[0]).is_float:
            return [self._nan_bits(operands[0], results[0])]
        if name in EXACT:
            return [self._signs(r) for r in results] if name in FREE_ZERO else results
        if not any(x is not None and DType.of(x).is_float for x in operands):
            return results
        ulps = ULPS.get(name, DEFAULT) * (4 if self.lax else 1)
        moved = [None if x is None else self._move(_widened(node, x), ulps) for x in operands]
        if self.lax and self.odd and name in FLUSHED:
            moved = [x if x is None or self.rng.random() < 0.5 else _without_subnormals(x) for x in moved]
        outcome = node.op.reference(*moved, **attrs)
        again = [np.asarray(r) for r in (outcome if isinstance(outcome, tuple) else (outcome,))]
        if name in CANCELLING and moved[0] is not None:
            again = [self._shift(again[0], moved[0], ulps)]
        if name in MEANS and again[0].size and (x := moved[0]) is not None:
            scale = np.asarray(moved[1])
            view = scale.shape if name == "layer_norm" else (1, -1, *[1] * (x.ndim - 2))
            again[0] = self._mean(again[0], x, scale.reshape(view), MEANS[name](x, attrs), attrs["epsilon"])
        out = [self._signs(_as(self._move(new, ulps), old)) for new, old in zip(again, results, strict=True)]
        if name == "resize" and attrs["mode"] != "nearest" and _sizes_open(node):
            out = [self._coordinates(r, np.asarray(moved[0])) for r in out]
        if self.lax:
            reach = _terms(operands, attrs) if name == "batch_norm" else None
            out = [self._round(r, reach) for r in out]
        masks = unsettled(node, operands, attrs, results, self.lax)
        return [np.where(mask, self._anything(r), r) if DType.of(r).is_float else r
                for mask, r in zip(masks, out, strict=True)]

    def _anything(self, x: Array) -> Array:
        """NaN in every other sample, else any numbers: what follows may hang on their order."""
        numbers = np.full(x.shape, np.nan) if self.odd else np.asarray(self.rng.standard_normal(x.shape))
        return numbers.astype(x.dtype)

    def _shift(self, result: Array, x: Array, ulps: float) -> Array:
        """Off by units of the operand, and of 1 near it."""
        if result.dtype.kind != "f":
            return result
        reach = np.minimum(np.abs(x), 1) * np.where(np.abs(x) < 1, 1, np.abs(x))
        error = self.rng.uniform(-ulps, ulps, result.shape) * float(np.finfo(result.dtype).eps) * reach
        return np.asarray(np.where(np.isfinite(error), result + error, result)).astype(result.dtype)

    def _mean(self, result: Array, x: Array, scale: Array, rows: int, epsilon: float) -> Array:
        """The mean that each row lost off by up to two units of the row's usual element."""
        flat = np.where(np.isfinite(x), x, 0).astype(np.float64).reshape(rows, -1)
        error = np.abs(flat).mean(axis=1, keepdims=True) * self.rng.uniform(-2, 2, (rows, 1))
        error = error * float(np.finfo(x.dtype).eps) / np.sqrt(flat.var(axis=1, keepdims=True) + epsilon)
        shift = np.broadcast_to(error, flat.shape).reshape(x.shape) * scale
        return np.asarray(result + np.where(np.isfinite(shift), shift, 0)).astype(result.dtype)

    def _coordinates(self, x: Array, source: Array) -> Array:
        """Source coordinates are f32, and one unit off where sizes are known only when running: in units of the
        largest along the axes that change, which must be finite to say anything."""
        if DType.of(x) not in WIDE or not x.size:
            return x
        axes = tuple(a for a, (m, n) in enumerate(zip(source.shape, x.shape, strict=True)) if m != n)
        size = np.abs(source).max(axis=axes, keepdims=True, initial=0)
        error = np.where(np.isfinite(size), size, 0) * 2.0**-18 * self.rng.uniform(-1, 1, x.shape)
        moved = np.asarray(x + error).astype(x.dtype)
        return np.where(np.isfinite(size), moved, x.dtype.type(np.nan if self.odd else 0))

    def _round(self, x: Array, terms: Array | None) -> Array:
        """One more rounding of a narrow float, as where a division became a product; of a norm that became a product
        and a sum, in units of these `terms`, of x's shape."""
        dtype = DType.of(x)
        if not dtype.is_float or dtype.bits > 16 or dtype is DType.F8E8M0 or not x.size:
            return x
        info: Any = ml_dtypes.finfo(x.dtype)
        wide = x.astype(np.float32)
        reach = np.where(np.isfinite(wide), np.abs(wide), 0)
        if terms is not None:
            reach = reach + np.where(np.isfinite(terms), terms, 0)
        error = reach * float(info.eps) + float(info.smallest_subnormal)
        return np.asarray((wide + error * self.rng.uniform(-1, 1, x.shape)).astype(x.dtype))

    def _move(self, x: Array, ulps: float) -> Array:
        if x.dtype.kind != "f" or x.dtype.itemsize < 4 or not x.size:
            return x
        info = np.finfo(x.dtype)
        shift = np.asarray(self.rng.uniform(-ulps, ulps, x.shape))
        least: Array = shift * float(info.smallest_subnormal)
        moved = x + x * (shift * float(info.eps)).astype(x.dtype) + least.astype(x.dtype)
        return np.where(np.isfinite(x), moved, x).astype(x.dtype)

    def _nan_bits(self, x: Array, bits: Array) -> Array:
        """NaN has no bits of its own."""
        other = np.zeros(1, np.uint8 if x.dtype.itemsize == 1 else f"u{x.dtype.itemsize}").view(bits.dtype)[0]
        return np.where(np.isnan(x.astype(np.float64)) & self.odd, other, bits)

    def _signs(self, x: Array) -> Array:
        if not DType.of(x).is_float or not x.size or DType.of(x) is DType.F8E8M0:
            return x
        flip = (self.rng.random(x.shape) < 0.5) & np.asarray(x == 0)
        return np.where(flip, -x, x) if flip.any() else x


def _without_subnormals(x: Array) -> Array:
    if x.dtype.kind != "f" or x.dtype.itemsize < 4:
        return x
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, x.dtype.type(0), x)


def _sizes_open(node: Node) -> bool:
    """Whether a resize computes its coordinates while running."""
    x = node.inputs[0]
    assert x is not None
    return any(m != n and not (isinstance(m, int) and isinstance(n, int))
               for m, n in zip(x.tensor.shape, node.results[0].tensor.shape, strict=True))


def _terms(operands: Sequence[Array | None], attrs: dict[str, Any]) -> Array:
    """The magnitudes that a batch norm sums when it is folded: (|x| + |mean|) * |factor| + |bias|."""
    x, scale, bias, mean, variance = (np.asarray(t).astype(np.float64) for t in operands)
    view = (1, -1, *[1] * (x.ndim - 2)) if attrs.get("layout", "nchw") == "nchw" else (-1,)
    factor = np.abs(scale / np.sqrt(variance + attrs["epsilon"])).reshape(view)
    return np.asarray((np.abs(x) + np.abs(mean).reshape(view)) * factor + np.abs(bias).reshape(view))


def _widened(node: Node, x: Array) -> Array:
    """Narrow floats in the type that the op computes in, so that they move by its units and not by their own."""
    computes_wide = hasattr(node.op.reference, "__wrapped__")  # `widened` wraps
    return x.astype(np.float32) if computes_wide and DType.of(x).is_float and DType.of(x) not in WIDE else x


def _as(new: Array, like: Array) -> Array:
    return new if new.dtype == like.dtype else np.asarray(convert(new, DType.of(like)))


@dataclass(frozen=True, eq=False)
class Expected:
    """What a run of a program may give: the plain interpretation first, then samples with rounding errors."""

    samples: list[list[Array]]
    types: list[TensorType]

    def problem(self, got: Sequence[Array]) -> str:
        """"" if every output may be right, else what is not."""
        for i, (result, type) in enumerate(zip(got, self.types, strict=True)):
            if text := _problem(result, [s[i] for s in self.samples], type):
                return f"output {i} ({type}): {text}"
        return ""


def expect(graph: Graph, inputs: Sequence[Array], samples: int = 6, lax: bool = True) -> Expected:
    """Raises LeptonError where the program fails even when nothing is moved."""
    outcomes = [evaluate(graph, *inputs)]
    for seed in range(samples):
        try:
            outcomes.append(evaluate(graph, *inputs, alter=Noise(seed, lax)))
        except LeptonError:  # an index moved out of its axis
            continue
    return Expected(outcomes, [v.tensor for v in graph.outputs])


def _problem(got: Array, samples: list[Array], type: TensorType) -> str:
    want = samples[0]
    if got.dtype != want.dtype:
        return f"{got.dtype}, expected {want.dtype}"
    if any(s.shape != want.shape for s in samples):
        return ""
    if got.shape != want.shape:
        return f"shape {list(got.shape)}, expected {list(want.shape)}"
    if not want.size:
        return ""
    wrong = _wrong_floats(got, samples) if type.dtype.is_float else _wrong(got, samples)
    if not wrong.any():
        return ""
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (f"{int(wrong.sum())} of {want.size} elements, first {list(at)}: {got[at]!r}, expected {want[at]!r}"
            f" (samples {min(map(str, (s[at] for s in samples)))} … {max(map(str, (s[at] for s in samples)))})")


def _wrong(got: Array, samples: list[Array]) -> Array:
    stack = np.stack([np.asarray(s) for s in samples])
    settled = np.asarray(stack == stack[0]).all(axis=0)
    return settled & np.asarray(got != samples[0])


def _wrong_floats(got: Array, samples: list[Array]) -> Array:
    """Where `got` is of another kind than all samples, or outside their spread and a little."""
    stack, g = np.stack([s.astype(np.float64) for s in samples]), got.astype(np.float64)
    kind, mine = _kinds(stack), _kinds(g)
    settled = (kind == kind[0]).all(axis=0)
    finite = kind[0] == 0
    with np.errstate(all="ignore"):
        values = np.where(finite & settled, stack, 0)
        low, high = values.min(axis=0), values.max(axis=0)
        info: Any = ml_dtypes.finfo(got.dtype)
        room = 2 * (high - low) + 2 * float(info.eps) * np.maximum(abs(low), abs(high)) * (high > low)
        room = room + 2 * float(info.smallest_subnormal) * (high > low)
        off = (g < low - room) | (g > high + room)
    return np.asarray(settled & ((kind[0] != mine) | (finite & (mine == 0) & off)))


def _kinds(x: Array) -> Array:
    """0 finite, 1 NaN, 2 inf, 3 -inf."""
    return np.where(np.isnan(x), 1, np.where(np.isposinf(x), 2, np.where(np.isneginf(x), 3, 0)))
