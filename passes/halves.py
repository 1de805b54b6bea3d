"""Products of halves, and products in halves on request: summed in f32, by kernels that read bf16 or floats."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import ml_dtypes
import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.op import Op
from lepton.ir.rewrite import Accuracy, Rule, pat, rest, rule
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType
from lepton.passes.base import Pass, RewritePass, count
from lepton.passes.common import array_of, graphs, substitute
from lepton.passes.float8 import FLOAT8

Precision = Literal["f32", "bf16", "fp16"]
HALVES = (DType.F16, DType.BF16)
PRODUCTS: tuple[Op, ...] = (ops.matmul, ops.conv, ops.conv_transpose)
LEAST_K = 16              # products shorter than this gain nothing
LARGEST = 65504.0         # of f16
WORST = 2.0**-11          # relative error of f16's normal numbers: more says that weights lie below these
LEAST_WEIGHTS = 1024      # fewer are not worth rounding
WINOGRAD_CHANNELS = 32    # 3x3 convolutions of more than this do fewer multiplications in f32


@rule(pat(*PRODUCTS)(rest("xs")).named("r"))
def summed_in_floats(xs: tuple[Value | None, ...], r: Value) -> Value | None:
    """matmul(a: f16, b: f16)  ->  cast(matmul(cast(a), cast(b)), f16)"""
    dtype = r.tensor.dtype
    if dtype not in HALVES or r.producer is None:
        return None
    wide = [None if v is None else ops.cast(v, to=DType.F32) for v in xs]
    return ops.cast(r.producer.op(*wide, **r.producer.attrs), to=dtype)


@dataclass(frozen=True)
class WidenHalves(RewritePass):
    """matmul(a: f16, b: f16)  ->  cast(matmul(cast(a), cast(b)), f16)

    Products of halves are summed in f32 and rounded once, as their meaning says; so the kernels for floats do them."""

    name: ClassVar[str] = "widen-halves"
    rules: ClassVar[tuple[Rule, ...]] = (summed_in_floats,)


@dataclass(frozen=True)
class Halves(Pass):
    """matmul(x, w)  ->  matmul(cast(cast(x, bf16), f32), w rounded to bf16)

    With `precision` bf16, for products with constant weights; their sums, and everything else, stay f32. Otherwise it
    only gives each product a cast of its own where it reads a bf16 value, or with `float8` one of 8 bits (which is
    what a transpose between the two moves then), for fusion to take in. 3x3 convolutions that do fewer multiplications
    in f32 stay as they are, unless the target multiplies bf16 in whole `tiles`.

    matmul(x, w)  ->  matmul(x, w rounded to f16)
    gather(table, i)  ->  cast(gather(table rounded to f16, i), f32)

    With `precision` fp16: kernels find that such weights are halves, and store them as those. Weights beyond the range
    of f16, and such as would lose more than a half's 11 bits because they are below it, stay as they are."""

    name: ClassVar[str] = "halves"
    accuracy: ClassVar[Accuracy] = "approximate"
    precision: Precision = "f32"
    tiles: bool = False
    float8: bool = False

    def run(self, graph: Graph) -> bool:
        changed = [self.product(node) for part in graphs(graph) for node in part.nodes
                   if node.op in (ops.matmul, ops.conv)]
        if self.precision == "fp16":
            changed += [store_halves(part, node) for part in graphs(graph) for node in part.nodes]
        return any(changed)

    def product(self, node: Node) -> bool:
        x, w = node.inputs[:2]
        assert x is not None
        weights = array_of(w)
        if weights is None or weights.dtype != np.float32 or x.tensor.rank < 2 or weights.ndim < 2:
            return False
        narrow = _under_cast(x, (DType.BF16,)) or (_under_cast(x, FLOAT8, moved=True) if self.float8 else None)
        if narrow is not None:
            node.set_input(0, ops.cast(narrow, to=DType.F32, loc=node.loc))
            return True
        if self.precision != "bf16" or not gains(node, weights, self.tiles):
            return False
        rounded = weights.astype(ml_dtypes.bfloat16).astype(np.float32)
        rounded_x = ops.cast(x, to=DType.BF16, denormals=not self.tiles, loc=node.loc)   # which tiles take for zeros
        node.set_input(0, ops.cast(rounded_x, to=DType.F32, loc=node.loc))
        node.set_input(1, ops.constant(value=Tensor.of(rounded)))
        count("products in bf16")
        return True


def _under_cast(value: Value, kinds: tuple[DType, ...], *, moved: bool = False) -> Value | None:
    """What the value is the cast of, if that is of these types. `moved`: or what its transpose is the cast of."""
    node = value.producer
    of = node.inputs[0] if node is not None and node.inputs else None
    if node is None or of is None:
        return None
    if node.op is ops.transpose and moved:
        narrow = _under_cast(of, kinds)
        return None if narrow is None else ops.transpose(narrow, perm=node.attrs["perm"], loc=node.loc)
    return of if node.op is ops.cast and of.tensor.dtype in kinds else None


def store_halves(graph: Graph, node: Node) -> bool:
    """Round what a product or a look-up reads of constants to f16. Whether anything changed."""
    place = 1 if node.op in PRODUCTS else 0
    weights = array_of(node.inputs[place]) if node.op in (*PRODUCTS, ops.gather) else None
    if weights is None or weights.dtype != np.float32 or weights.size < LEAST_WEIGHTS:
        return False
    if not (np.abs(weights) < LARGEST).all():
        return False
    halves = weights.astype(np.float16)
    if relative_error(halves, weights) > WORST:
        return False
    if node.op is ops.gather:
        found = ops.gather(ops.constant(value=Tensor.of(halves)), node.inputs[1], axis=node.attrs["axis"], loc=node.loc)
        count("tables in f16")
        return substitute(graph, node.results[0], ops.cast(found, to=DType.F32, loc=node.loc))
    rounded = halves.astype(np.float32)
    if np.array_equal(rounded, weights):
        return False
    node.set_input(place, ops.constant(value=Tensor.of(rounded)))
    count("weights in f16")
    return True


def relative_error(rounded: Array, exact: Array) -> float:
    """Of all of an array, in the 2-norm."""
    size = float(np.linalg.norm(exact.astype(np.float64)))
    return float(np.linalg.norm(rounded.astype(np.float64) - exact)) / size if size else 0.0


def gains(node: Node, weights: Array, tiles: bool = False) -> bool:
    """Whether a product with these weights is worth doing in bf16."""
    if node.op is ops.matmul:
        return bool(weights.shape[-2] >= LEAST_K)
    per_filter = int(np.prod(weights.shape[1:]))
    kind = node.attrs
    plain = weights.shape[2:] == (3, 3) and set(kind["strides"]) | set(kind["dilations"]) | {kind["group"]} == {1}
    if tiles:
        return per_filter >= LEAST_K and _fills_tiles(weights, kind["group"])
    return per_filter >= LEAST_K and not (plain and weights.shape[1] > WINOGRAD_CHANNELS)


def _fills_tiles(weights: Array, groups: int) -> bool:
    """Whether a convolution is done in whole tiles: pairs of bf16 that vectors multiply are slower than floats."""
    along = -(-weights.shape[1] // 2) * weights.shape[-1]      # pairs of a line of the kernel
    product = groups == 1 and max(weights.shape[2:], default=1) == 1
    return product or (weights.shape[0] // groups >= 8 and any(along % chunk == 0 for chunk in range(4, 17)))
