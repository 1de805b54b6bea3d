"""Weights that a model holds in few bits stay so: products read the codes, and decode as they go.

A weight's history is followed from the product up through what only moves elements, scales and shifts them, casts
levels or looks codes up: `dequantize`, Cast+Mul, Sub, Gather from a table, in any order of views. Each element of the
matrix ends as a code, and the place of its scale and its zero point; where these lie in blocks along K, the product
becomes `matmul_coded`. A matrix of floats that holds at most 16 different numbers is a table and codes as well.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from math import gcd
from typing import ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.op import Trait
from lepton.ir.ops.quant import spread
from lepton.ir.rewrite import sweep, tensor_of
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType
from lepton.passes.base import ALLOWED, Math, Pass, count
from lepton.passes.common import array_of, graphs, substitute

VIEWS = (ops.reshape, ops.transpose, ops.slice_)
FEWEST = 16          # rows that share a scale; fewer leave nothing to save
MOST = 256           # entries of a table
FREE = 0.25          # zeros from which on a matrix is left to the kernels that skip them
SAMPLE = 4096        # elements looked at before all of a matrix is
LARGEST = 1e18       # of a scale: sums before it is applied shall not overflow


@dataclass(frozen=True, eq=False)
class Codes:
    """An array as codes. `scale` and `zero` are flat; `scales` and `zeros` say for each element which one is its own
    (of one place where there is but one)."""

    codes: Array
    table: Array | None = None
    scale: Array | None = None
    scales: Array | None = None
    zero: Array | None = None
    zeros: Array | None = None

    def moved(self, node: Node) -> Codes:
        """After a view."""
        def move(array: Array) -> Array:
            return np.asarray(node.op.reference(array, **node.attrs))

        return replace(self, codes=move(self.codes), scales=None if self.scales is None else move(self.scales),
                       zeros=None if self.zeros is None else move(self.zeros))

    def scaled(self, factor: Array) -> Codes | None:
        if self.scale is not None or factor.dtype != np.float32:
            return None
        places = _places(factor, self.codes.shape)
        return None if places is None else replace(self, scale=factor.reshape(-1), scales=places)

    def shifted(self, zero: Array) -> Codes | None:
        if self.scale is not None or self.zero is not None or self.table is not None:
            return None
        places = _places(zero, self.codes.shape)
        return None if places is None else replace(self, zero=zero.reshape(-1).astype(np.float32), zeros=places)


def _places(parameter: Array, shape: tuple[int, ...]) -> Array | None:
    """For each element of an array of this shape, the flat index of the parameter that broadcasts to it."""
    if parameter.ndim > len(shape) or np.broadcast_shapes(parameter.shape, shape) != shape:
        return None
    return np.broadcast_to(np.arange(parameter.size, dtype=np.int32).reshape(parameter.shape), shape)


class Reader:
    """Follows values up to constants; each value once."""

    def __init__(self) -> None:
        self.arrays: dict[Value, Array | None] = {}
        self.found: dict[Value, Codes | None] = {}

    def array(self, value: Value | None) -> Array | None:
        """The elements of what is computed of constants alone; None for anything else."""
        if value is None:
            return None
        if value not in self.arrays:
            self.arrays[value] = None
            self.arrays[value] = self._evaluated(value)
        return self.arrays[value]

    def _evaluated(self, value: Value) -> Array | None:
        node = value.producer
        if node is None or len(node.results) != 1 or not value.tensor.is_static:
            return None
        if node.op is ops.constant:
            return array_of(value)
        if node.regions or node.op.has(Trait.IMPURE) or not node.inputs:
            return None
        known = [self.array(v) for v in node.inputs]
        if any(a is None and v is not None for a, v in zip(known, node.inputs, strict=True)):
            return None
        return np.asarray(node.op.reference(*known, **node.attrs))

    def codes(self, value: Value | None) -> Codes | None:
        """What a value's elements are made of, if they are codes; None for anything else."""
        if value is None or value.producer is None:
            return None
        if value not in self.found:
            self.found[value] = self._traced(value, value.producer)
        return self.found[value]

    def _traced(self, value: Value, node: Node) -> Codes | None:
        if value.tensor.dtype.is_integer:
            array = self.array(value)
            return Codes(array) if array is not None and array.size else None
        first = node.inputs[0] if node.inputs else None
        if node.op in VIEWS and node.result.tensor.is_static:
            inner = self.codes(first)
            return None if inner is None else inner.moved(node)
        if node.op is ops.cast and value.tensor.dtype is DType.F32 and first is not None:
            return self.codes(first) if first.tensor.dtype.is_integer else None
        if node.op is ops.dequantize:
            return self._dequantized(node)
        if node.op is ops.gather:
            return self._looked_up(node)
        return self._adjusted(node) if node.op in (ops.mul, ops.sub) else None

    def _dequantized(self, node: Node) -> Codes | None:
        """dequantize(codes, scale, zero)"""
        levels, scales, zeros = (*node.inputs, None)[:3]
        inner, scale, zero = self.codes(levels), self.array(scales), self.array(zeros)
        if inner is None or scale is None or (zero is None) != (zeros is None) or scale.dtype != np.float32:
            return None
        shape, (axis, block) = inner.codes.shape, (node.attrs["axis"], node.attrs["block"])
        places = np.arange(scale.size, dtype=np.int32).reshape(scale.shape)
        places = np.broadcast_to(spread(places, shape, axis, block), shape)
        made = replace(inner, scale=scale.reshape(-1), scales=places)
        return made if zero is None else replace(made, zero=zero.astype(np.float32).reshape(-1), zeros=places)

    def _looked_up(self, node: Node) -> Codes | None:
        """gather(table, codes)"""
        places = node.inputs[1]
        if node.inputs[0] is None or node.inputs[0].tensor.rank != 1 or node.result.tensor.dtype is not DType.F32:
            return None
        table, inner = self.array(node.inputs[0]), self.codes(places)
        if table is None or inner is None or not 0 < len(table) <= MOST:
            return None
        low, high = int(inner.codes.min()), int(inner.codes.max())
        return Codes(inner.codes, table) if 0 <= low and high < len(table) else None

    def _adjusted(self, node: Node) -> Codes | None:
        """codes * scale, codes - zero; a factor may stand first."""
        a, b = node.inputs[:2]
        if node.result.tensor.dtype is not DType.F32 or a is None or b is None:
            return None
        for one, other in ((a, b), (b, a)) if node.op is ops.mul else ((a, b),):
            if not _is_parameter(other, one) or one.tensor.shape != node.result.tensor.shape:
                continue
            known = self.array(other)
            inner = None if known is None else self.codes(one)
            if known is not None and inner is not None:
                return inner.scaled(known) if node.op is ops.mul else inner.shifted(known)
        return None


def _is_parameter(other: Value, one: Value) -> bool:
    """Whether a value is small next to another: worth computing to see."""
    few, many = other.tensor.size, one.tensor.size
    return isinstance(few, int) and isinstance(many, int) and few * FEWEST <= max(many, FEWEST)


# --- the matrix -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Matrix:
    """The operands of matmul_coded."""

    codes: Array
    scale: Array
    zero: Array | None
    table: Array | None
    block: int


def matrix_of(found: Codes) -> Matrix | None:
    """Where scales and zero points lie in blocks along the first axis, and everything is finite."""
    codes = found.codes
    if codes.ndim != 2 or not codes.size:
        return None
    k, n = codes.shape
    block = gcd(_period(found.scales), _period(found.zeros)) or k
    if block < min(FEWEST, k):
        return None
    blocks = -(-k // block)
    scale = np.ones((blocks, n), np.float32)
    if found.scale is not None and found.scales is not None:
        scale = found.scale[found.scales[::block]]
    zero = None if found.zero is None or found.zeros is None else found.zero[found.zeros[::block]]
    if not np.isfinite(scale).all() or np.abs(scale).max() > LARGEST or (zero is not None and not _finite(zero)):
        return None
    if zero is not None and not zero.any():
        zero = None
    if found.table is not None:
        if not _finite(found.table):
            return None
        return Matrix(_small(codes), scale, zero, _filled(found.table, 16 if len(found.table) <= 16 else 256), block)
    if codes.min() < -128 or codes.max() > 255:
        return None
    return Matrix(_small(codes), scale, zero, None, block)


def _finite(array: Array) -> bool:
    return bool(np.isfinite(array).all() and np.abs(array).max(initial=0) <= LARGEST)


def _period(places: Array | None) -> int:
    """The most rows such that each group of them has one place in each column: 0 where all have."""
    if places is None or places.strides[0] == 0:
        return 0
    changes = np.flatnonzero((places[1:] != places[:-1]).any(axis=1)) + 1
    return reduce(gcd, (int(c) for c in changes), 0)


def _small(codes: Array) -> Array:
    """Of the narrowest type that holds them."""
    low, high = int(codes.min()), int(codes.max())
    for dtype, least, most in ((DType.U4, 0, 15), (DType.I4, -8, 7), (DType.U8, 0, 255), (DType.I8, -128, 127)):
        if least <= low and high <= most:
            return np.ascontiguousarray(codes.astype(np.int16).astype(dtype.numpy))
    raise AssertionError((low, high))


def _filled(table: Array, size: int) -> Array:
    return np.concatenate([table, np.zeros(size - len(table), table.dtype)])


def palette_of(weight: Array) -> Codes | None:
    """Floats of which at most 16 are different, as a table and codes; -0 counts as 0."""
    if weight.dtype != np.float32 or weight.ndim != 2 or weight.size < SAMPLE:
        return None
    flat = weight.reshape(-1)
    if len(np.unique(flat[::max(1, flat.size // SAMPLE)])) > 16:
        return None
    table, codes = np.unique(flat, return_inverse=True)
    if not 3 <= len(table) <= 16 or not np.isfinite(table).all() or (codes == np.searchsorted(table, 0)).mean() > FREE:
        return None
    return Codes(codes.reshape(weight.shape).astype(np.uint8), table)


# --- the pass -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CodedWeights(Pass):
    """matmul(x, dequantize(levels of w))  ->  matmul_coded(x, levels of w, scales)

    For products of at most `rows` rows, or of a number known only at run time: those wait for weights, which are fewer
    bytes this way. And for those of `many` rows or more (0: for none), where decoding takes a few hundredths of the
    product's time. In between it takes up to a third: there, and where there are fewer than `least` weights, they
    become floats when compiling."""

    name: ClassVar[str] = "coded-weights"
    math: Math = "default"
    rows: int = 16
    many: int = 96
    least: int = 4096

    def run(self, graph: Graph) -> bool:
        if "reassociating" not in ALLOWED[self.math]:
            return False
        changed, known = False, dict[Value, Operands | None]()
        for part in graphs(graph):
            for node in part.nodes:
                if node.op is ops.matmul and self.suits(node):
                    changed |= self.replace(part, node, known)
        if changed:
            sweep(graph)
        return changed

    def suits(self, node: Node) -> bool:
        """Whether codes would be faster, or smaller and hardly slower."""
        x, w = node.inputs[:2]
        if x is None or w is None or w.tensor.rank != 2 or x.tensor.dtype is not DType.F32:
            return False
        size, rows = w.tensor.size, x.tensor.size // x.tensor.shape[-1] if x.tensor.shape[-1] != 0 else 0
        if not isinstance(size, int) or size < self.least or tensor_of(x) is not None:
            return False
        return not isinstance(rows, int) or rows <= self.rows or 0 < self.many <= rows

    def replace(self, graph: Graph, node: Node, known: dict[Value, Operands | None]) -> bool:
        x, w = node.inputs[:2]
        assert x is not None
        assert w is not None
        if w not in known:
            weight = array_of(w)
            found = Reader().codes(w) if weight is None else palette_of(weight)
            matrix = None if found is None else matrix_of(found)
            known[w] = None if matrix is None else (_constants(matrix), matrix.block)
        made = known[w]
        if made is None:
            return False
        count("coded products")
        return substitute(graph, node.result, ops.matmul_coded(x, *made[0], block=made[1], loc=node.loc))


Operands = tuple[tuple[Value | None, ...], int]     # codes, scale, zero and table; the block


def _constants(matrix: Matrix) -> tuple[Value | None, ...]:
    arrays = (matrix.codes, matrix.scale, matrix.zero, matrix.table)
    return tuple(None if a is None else ops.constant(value=Tensor.of(a)) for a in arrays)
