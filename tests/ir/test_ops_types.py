"""Type rules: what they promise for open sizes holds for the arrays that come out, and what they refuse."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError, TypeRuleError
from lepton.ir.dims import Dim, sym
from lepton.ir.evaluate import evaluate
from lepton.ir.op import OPS, Trait
from lepton.ir.types import DType, TensorType, parse_type
from tests.ir.ops_cases import Case, assert_same, build
from tests.ir.ops_table import CASES

OPERANDS = [c for c in CASES if any(x is not None and x.ndim for x in c.operands)]
# Sizes that these rules need to know: kernels, gates, the depth of an index vector,
# the features that a tree asks for.
NEEDS_SIZES = {"conv", "conv_transpose", "conv_integer", "gather_nd", "scatter_nd", "lstm", "gru", "rnn", "cast",
               "couple_pairs", "read_sizes", "tree_ensemble"}


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(OPERANDS), st.data())
def test_open_sizes(case: Case, data: st.DataObject) -> None:
    """Some sizes become symbols, equal sizes perhaps the same one. The interpreter then checks that the result has the
    promised type, and nothing else about it changes."""
    arrays = [x for x in case.operands if x is not None]
    shapes: list[tuple[Dim, ...]] = []
    for i, x in enumerate(arrays):
        choices = [st.sampled_from([n, sym(f"x{i}_{axis}"), sym(f"n{n}")]) for axis, n in enumerate(x.shape)]
        shapes.append(data.draw(st.tuples(*choices)))
    try:
        graph, _node, _ = build(case, shapes)
    except TypeRuleError:
        assert case.op in NEEDS_SIZES or 1 in {n for x in arrays for n in x.shape}
        return
    closed, _, _ = build(case)
    try:
        got = evaluate(graph, *arrays)
    except LeptonError as caught:
        message = caught.message
    else:
        message = ""
    if message:
        # An open size that is 1 when it runs does not broadcast: the guard says so.
        assert "needs" in message
        assert 1 in {n for x in arrays for n in x.shape}
        return
    for x, y in zip(got, evaluate(closed, *arrays), strict=True):
        assert_same(x, y, 0, 0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=4), st.lists(st.booleans(), min_size=4, max_size=4),
       st.integers(0, 4))
def test_broadcasting_agrees_with_numpy(shape: list[int], flat: list[bool], drop: int) -> None:
    other = [1 if f else n for n, f in zip(shape, flat, strict=False)][drop:]
    a, b = np.zeros(shape, np.float32), np.zeros(other, np.float32)
    rule = OPS["add"].infer(TensorType(DType.F32, a.shape), TensorType(DType.F32, b.shape))
    assert rule == TensorType(DType.F32, np.broadcast_shapes(a.shape, b.shape))


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 4), st.integers(1, 2), st.integers(0, 3),
       st.integers(0, 3), st.booleans())
def test_pool_sizes(n: int, kernel: int, stride: int, dilation: int, before: int, after: int, ceil: bool) -> None:
    """The formula for an open size, with the number put in, is the formula for the number."""
    attrs: dict[str, Any] = {"kernel": (kernel,), "strides": (stride,), "dilations": (dilation,), "ceil_mode": ceil,
                             "pads_begin": (before,), "pads_end": (after,)}
    if n + before + after < dilation * (kernel - 1) + 1 or before >= kernel or after >= kernel:
        return
    x = Value(parse_type("f32[1,1,N]"))
    size = ops.max_pool(x, **attrs).tensor.shape[2]
    closed = ops.max_pool(Value(TensorType(DType.F32, (1, 1, n))), **attrs).tensor.shape[2]
    assert dims.evaluate(size, {"N": n}) == closed
    assert isinstance(closed, int)
    assert (closed - 1) * stride < n + before


def test_every_elementwise_op_broadcasts_or_keeps_its_shape() -> None:
    """The trait's promise, on the cases of the table: the result's shape is the broadcast of the operands'."""
    for case in CASES:
        op = OPS[case.op]
        if op.has(Trait.ELEMENTWISE):
            _, node, arrays = build(case)
            assert node.result.tensor.shape == np.broadcast_shapes(*(x.shape for x in arrays)), str(case)


def v(text: str) -> Value:
    return Value(parse_type(text))


REFUSED = [
    (lambda: ops.add(v("f32[2]"), v("f32[3]")),
     "shapes do not broadcast: 2 against 3 on axis 0; operands: f32[2], f32[3]"),
    (lambda: ops.add(v("f32[2]"), v("f64[2]")), "element types differ; operands: f32[2], f64[2]"),
    (lambda: ops.exp(v("i32[2]")), "expected floats; operands: i32[2]"),
    (lambda: ops.logical_not(v("i32[2]")), "expected bool; operands: i32[2]"),
    (lambda: ops.matmul(v("f32[2,3]"), v("f32[4,5]")), "inner sizes differ: 3 and 4; operands: f32[2,3], f32[4,5]"),
    (lambda: ops.matmul(v("f32[]"), v("f32[4]")), "matmul needs rank 1 or more; operands: f32[], f32[4]"),
    (lambda: ops.reshape(v("f32[2,N]"), shape=(3,)), "2*N elements do not make the shape (3); operands: f32[2,N]"),
    (lambda: ops.reshape(v("f32[2,3]"), shape=(5,)), "6 elements do not make the shape (5); operands: f32[2,3]"),
    (lambda: ops.transpose(v("f32[2,3]"), perm=(0, 0)), "(0, 0) does not permute the axes; operands: f32[2,3]"),
    (lambda: ops.concat(v("f32[2,3]"), v("f32[2,4]"), axis=0),
     "sizes on axis 1 differ: 3 and 4; operands: f32[2,3], f32[2,4]"),
    (lambda: ops.slice_(v("f32[5]"), starts=(3,), sizes=(3,), steps=(1,)),
     "slice of 3 from 3 by 1 leaves axis 0; operands: f32[5]"),
    (lambda: ops.slice_(v("f32[5]"), starts=(1,), sizes=(3,), steps=(-1,)),
     "slice of 3 from 1 by -1 leaves axis 0; operands: f32[5]"),
    (lambda: ops.slice_(v("f32[N]"), starts=(sym("N") - 2,), sizes=(3,), steps=(1,)),
     "slice of 3 from N-2 by 1 leaves axis 0; operands: f32[N]"),
    (lambda: ops.reduce_sum(v("f32[5]"), axes=(1,)),
     "axes (1,) are not sorted, distinct and below the rank; operands: f32[5]"),
    (lambda: ops.softmax(v("f32[5]"), axis=-1), "axis -1 does not exist; operands: f32[5]"),
    (lambda: ops.arg_max(v("f32[0]"), axis=0), "nothing to choose from on an empty axis; operands: f32[0]"),
    (lambda: ops.conv(v("f32[1,3,8,8]"), v("f32[4,2,3,3]"), strides=(1, 1), pads_begin=(0, 0), pads_end=(0, 0),
                      dilations=(1, 1)),
     "the input has 3 channels, the weight expects 2; operands: f32[1,3,8,8], f32[4,2,3,3]"),
    (lambda: ops.top_k.node(v("f32[3]"), k=4, axis=0), "top 4 of 3 elements; operands: f32[3]"),
    (lambda: ops.gather(v("f32[3]"), v("f32[3]"), axis=0), "expected i32 or i64; operands: f32[3]"),
    (lambda: ops.cast(v("str[3]"), to=DType.F32), "cannot cast to f32; operands: str[3]"),
    (lambda: ops.where(v("f32[3]"), v("f32[3]"), v("f32[3]")), "expected bool; operands: f32[3]"),
    (lambda: ops.pad(v("f32[0]"), before=(1,), after=(0,), mode="edge"),
     "nothing to edge on an empty axis; operands: f32[0]"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[m[:50] for _, m in REFUSED])
def test_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeRuleError) as caught:
        make()
    assert caught.value.message == message


GUARDED = [
    (lambda: ops.add(v("f32[N]"), v("f32[3]")), "f32[3]", [(sym("N"), 3)]),
    (lambda: ops.add(v("f32[N,M]"), v("f32[1,M]")), "f32[N,M]", []),
    (lambda: ops.reshape(v("f32[N,6]"), shape=(4, 3)), "f32[4,3]", [(6 * sym("N"), 12)]),
    (lambda: ops.reshape(v("f32[N,M]"), shape=(sym("N") * sym("M"),)), "f32[M*N]", []),
    (lambda: ops.matmul(v("f32[B,N,K]"), v("f32[K,M]")), "f32[B,N,M]", []),
    (lambda: ops.matmul(v("f32[N,K]"), v("f32[L,M]")), "f32[N,M]", [(sym("K"), sym("L"))]),
    (lambda: ops.concat(v("f32[N,2]"), v("f32[M,2]"), axis=0), "f32[M+N,2]", []),
]


@pytest.mark.parametrize(("make", "type", "guards"), GUARDED, ids=[t for _, t, _ in GUARDED])
def test_guards(make: Callable[[], Value], type: str, guards: list[dims.Guard]) -> None:
    """What a rule cannot prove it takes for granted, and says so."""
    with dims.collect_guards() as found:
        assert str(make().type) == type
    assert found == guards


@pytest.mark.parametrize(("op", "more"), [(ops.max_pool, {}), (ops.avg_pool, {}), (ops.lp_pool, {"p": 2})])
def test_pools_refuse_negative_pads(op: Any, more: dict[str, int]) -> None:
    """A kernel that began before its input would read what is not there."""
    x = Value(parse_type("f32[1,1,4,4]"))
    with pytest.raises(TypeRuleError, match="pads must not be negative"):
        op(x, kernel=(2, 2), strides=(1, 1), pads_begin=(0, -1), pads_end=(0, 0), dilations=(1, 1), **more)
