"""Clean up around matrix products, so that they fuse with what surrounds them."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.op import Trait
from lepton.ir.rewrite import Rule, capture, const, opt, pat, rest, rule, var
from lepton.ir.tensor import Array
from lepton.passes.base import RewritePass
from lepton.passes.common import array_of, constant_like, elements, is_one_element, node_of
from lepton.passes.float8 import multiplies_float8

x, y, w = var("x y w")
c = const("c")


# --- views move down, past products and elementwise nodes -----------------------------------------


LEVELS = (ops.quantize, ops.dequantize)
product = pat(ops.matmul, ops.matmul_integer, ops.matmul_coded)


@rule(product(pat(ops.reshape)(x).named("flat"), const("w"), rest("zeros")).named("r"))
def matmul_of_rows(x: Value, flat: Value, w: Value, zeros: tuple[Value | None, ...], r: Value) -> Value | None:
    """matmul(reshape(x: [B,S,K] -> [B*S,K]), w: [K,N])  ->  reshape(matmul(x, w))"""
    if w.tensor.rank != 2 or flat.tensor.rank < 2 or x.tensor.rank <= flat.tensor.rank or not _takes_any_rows(r, zeros):
        return None
    if x.tensor.shape[-1] != w.tensor.shape[0]:
        return None
    return ops.reshape(node_of(r).op(x, w, *zeros, **node_of(r).attrs), shape=r.tensor.shape)


@rule(pat(ops.reshape)(product(x, const("w"), rest("zeros")).once.named("y")).named("r"))
def rows_of_matmul(x: Value, w: Value, zeros: tuple[Value | None, ...], y: Value, r: Value) -> Value | None:
    """reshape(matmul(x, w: [K,N]): [B*S,N] -> [B,S,N])  ->  matmul(reshape(x), w)"""
    if w.tensor.rank != 2 or not _raises_rows(y, r) or not _takes_any_rows(y, zeros):
        return None
    rows = ops.reshape(x, shape=(*r.tensor.shape[:-1], x.tensor.shape[-1]))
    return node_of(y).op(rows, w, *zeros, **node_of(y).attrs)


def _takes_any_rows(of: Value, zeros: tuple[Value | None, ...]) -> bool:
    """Whether a product's further operands, such as the zero points of an integer one, say nothing about rows."""
    return node_of(of).op is ops.matmul_coded or all(z is None or z.tensor.rank == 0 for z in zeros[:1])


def _element_by_element(node: Node) -> bool:
    """Elementwise, or between numbers and levels of one scale."""
    if node.op in LEVELS:
        return all(v is None or v.tensor.rank == 0 for v in node.inputs[1:])
    return node.op.has(Trait.ELEMENTWISE)


@rule(pat(ops.reshape)(pat(Trait.ELEMENTWISE)(rest("xs")).once.named("y")).named("r"),
      pat(ops.reshape)(pat(*LEVELS)(rest("xs")).once.named("y")).named("r"))
def rows_of_elementwise(xs: tuple[Value | None, ...], y: Value, r: Value) -> Value | None:
    """reshape(relu(x): [B*S,N] -> [B,S,N])  ->  relu(reshape(x)): everything happens in the higher rank"""
    if not _raises_rows(y, r) or not _element_by_element(node_of(y)):
        return None
    shape = y.tensor.shape
    if any(v is not None and v.tensor.shape != shape and v.tensor.rank > 1 for v in xs):
        return None
    operands = [ops.reshape(v, shape=r.tensor.shape) if v is not None and v.tensor.shape == shape else v for v in xs]
    return node_of(y).op(*operands, **node_of(y).attrs)


def _raises_rows(source: Value, view: Value) -> bool:
    """Whether a reshape gives rows more leading axes."""
    old, new = source.tensor.shape, view.tensor.shape
    return 2 <= len(old) < len(new) and old[-1] == new[-1]


@rule(pat(Trait.ELEMENTWISE)(rest("xs")).named("r"), pat(*LEVELS)(rest("xs")).named("r"))
def elementwise_of_view(xs: tuple[Value | None, ...], r: Value) -> Value | None:
    """relu(reshape(x)), reshape(x) + c  ->  reshape(relu(x)), reshape(x + c), and so for transposes, where c has one
    element, or moves along (a vector along the last axis), or is the same view of another value"""
    views = [v for v in xs if v is not None and _is_movable(v)]
    if not views or not _element_by_element(node_of(r)):
        return None
    first = node_of(views[0])
    source = first.inputs[0]
    assert source is not None
    if source.tensor.size == 1:
        return None  # any shape is a view of any other: two such values could move past each other without end
    operands = [None if v is None else _before_view(v, first, source) for v in xs]
    if any(a is None and v is not None for a, v in zip(operands, xs, strict=True)):
        return None
    node = node_of(r)
    moved = node.op(*operands, **node.attrs)
    if moved.tensor.shape != source.tensor.shape:
        return None
    attrs: dict[str, Any] = dict(first.attrs)
    if first.op is ops.reshape:
        attrs["shape"] = r.tensor.shape
    return first.op(moved, **attrs)


def _is_movable(value: Value) -> bool:
    """A reshape or transpose, read once, or a chain of them, of something a kernel computes."""
    node = value.producer
    if node is None or node.op not in (ops.reshape, ops.transpose) or len(value.uses) != 1:
        return False
    source = node.inputs[0]
    if source is None or source.producer is None or source.producer.op is ops.constant:
        return False
    if node.op is ops.reshape and _raises_rows(source, value):
        return False  # moves up instead
    return not source.producer.op.has(Trait.VIEW) or _is_movable(source)


def _before_view(value: Value, view: Node, source: Value) -> Value | None:
    """What stands for the operand `value` when the view is taken after the elementwise node; None: nothing does."""
    node, shape = value.producer, view.result.tensor.shape
    if is_one_element(value):
        return value if value.tensor.rank <= source.tensor.rank else ops.reshape(value, shape=())
    if node is view:
        return source
    other = node.inputs[0] if node is not None and node.op is view.op else None
    if other is not None and node is not None and value.tensor.shape == shape:
        same = other.tensor.shape == source.tensor.shape
        if same and (view.op is ops.reshape or node.attrs == view.attrs):
            return other
    if view.op is not ops.reshape or not shape or shape[-1:] != source.tensor.shape[-1:]:
        return None
    if value.tensor.rank == 1:
        return value
    rises = value.tensor.shape == shape and source.tensor.rank > len(shape)
    return ops.reshape(value, shape=source.tensor.shape) if rises else None


# --- constants move into the weights --------------------------------------------------------------


def _columns(c: Value, w: Value, rank: int) -> Array | None:
    """`c` as one f64 number per column of the product with w, or None if it is anything else."""
    factor = elements(c).astype(np.float64)
    if w.tensor.rank != 2 or factor.ndim > rank or factor.size not in (1, w.tensor.shape[1]):
        return None
    if factor.size > 1 and factor.shape[-1] != factor.size:
        return None
    return np.broadcast_to(factor.reshape(-1), (elements(w).shape[1],))


@rule(pat(ops.mul)(pat(ops.matmul)(x, const("w")).once, c).named("r"), accuracy="reassociating")
def scale_into_weights(x: Value, w: Value, c: Value, r: Value) -> Value | None:
    """matmul(x, w) * c  ->  matmul(x, w * c), for a c constant along the rows"""
    factor = _columns(c, w, r.tensor.rank)
    if factor is None or multiplies_float8(x, elements(w)):
        return None
    return ops.matmul(x, constant_like(elements(w) * factor, w))


@rule(pat(ops.mul)(pat(ops.add)(pat(ops.matmul)(x, const("w")).once, const("b")).once, c).named("r"),
      accuracy="reassociating")
def scale_into_biased(x: Value, w: Value, b: Value, c: Value, r: Value) -> Value | None:
    """(matmul(x, w) + b) * c  ->  matmul(x, w * c) + b * c, for b and c constant along the rows"""
    factor, shift = _columns(c, w, r.tensor.rank), _columns(b, w, r.tensor.rank)
    if factor is None or shift is None or multiplies_float8(x, elements(w)):
        return None
    return ops.add(ops.matmul(x, constant_like(elements(w) * factor, w)), constant_like(shift * factor, w))


@rule(pat(ops.matmul)(pat(ops.mul)(x, const("c", lambda t: t.type.size == 1)).once, const("w")).named("r"),
      accuracy="reassociating")
def input_scale_into_weights(x: Value, c: Value, w: Value, r: Value) -> Value | None:
    """matmul(x * c, w)  ->  matmul(x, w * c), for a scalar c"""
    product = ops.matmul(x, constant_like(elements(w) * elements(c).astype(np.float64).reshape(-1)[0], w))
    return product if product.type == r.type else None


@rule(pat(ops.matmul)(pat(ops.reshape)(pat(ops.transpose, perm=capture("perm"))(x)).once.named("flat"), const("w")))
def flattened_channels_first(x: Value, perm: tuple[int, ...], flat: Value, w: Value) -> Value | None:
    """matmul(reshape(transpose(x: [N,H,W,C]), shape=(N,C*H*W)), w)  ->  matmul(reshape(x), rows of w in x's order)"""
    sizes = x.tensor.shape[1:]
    if perm[:1] != (0,) or w.tensor.rank != 2 or flat.tensor.rank != 2 or len(perm) < 3:
        return None
    if not all(isinstance(n, int) for n in sizes) or flat.tensor.shape[0] != x.tensor.shape[0]:
        return None
    old = [x.tensor.shape[p] for p in perm[1:]]
    rows = elements(w).reshape([n for n in old if isinstance(n, int)] + [-1])
    back = [perm.index(a) - 1 for a in range(1, len(perm))]
    order = np.transpose(rows, (*back, len(back))).reshape(elements(w).shape)
    return ops.matmul(ops.reshape(x, shape=flat.tensor.shape), constant_like(order, w))


# --- products of products -------------------------------------------------------------------------


def _is_pointwise(weight: Array, node: Node) -> bool:
    a = node.attrs
    plain = all(n == 1 for n in (*weight.shape[2:], *a["strides"])) and a["group"] == 1
    return plain and not any((*a["pads_begin"], *a["pads_end"]))


inner = pat(ops.conv)(x, const("v"), opt("a")).once.named("first")


@rule(pat(ops.conv)(inner, const("w"), opt("b")).named("second"), accuracy="reassociating")
def pointwise_chain(x: Value, v: Value, a: Value | None, first: Value, w: Value, b: Value | None, second: Value
                    ) -> Value | None:
    """conv(conv(x, v, a), w, b), both 1x1  ->  conv(x, w@v, w@a + b), where that is less work"""
    one, two = elements(v), elements(w)
    nodes = node_of(first), node_of(second)
    if not (_is_pointwise(one, nodes[0]) and _is_pointwise(two, nodes[1])):
        return None
    if nodes[0].attrs["layout"] != nodes[1].attrs["layout"]:
        return None
    (middle, small), large = one.shape[:2], two.shape[0]
    shift = array_of(a)
    if large * small > middle * (small + large) or (a is not None and shift is None) or (b and array_of(b) is None):
        return None
    left = two.reshape(large, middle).astype(np.float64)
    weight = (left @ one.reshape(middle, small)).reshape(large, small, *one.shape[2:])
    total = 0.0 if shift is None else left @ shift
    bias = None if shift is None and b is None else constant_like(total + (0.0 if b is None else elements(b)), w)
    return ops.conv(x, constant_like(weight, w), bias, **nodes[1].attrs)


@dataclass(frozen=True)
class Matmuls(RewritePass):
    """matmul(reshape(x), w) * c  ->  reshape(matmul(x, w * c))

    Views move down out of the way of fusion, constants into weights, and a chain of linear 1x1 convolutions becomes one
    where that is less work."""

    name: ClassVar[str] = "matmuls"
    rules: ClassVar[tuple[Rule, ...]] = (
        matmul_of_rows, rows_of_matmul, rows_of_elementwise, elementwise_of_view, scale_into_weights,
        scale_into_biased, input_scale_into_weights, flattened_channels_first, pointwise_chain,
    )
