"""Cases: constants, shapes, movement, indexing."""
from __future__ import annotations

from itertools import product
from typing import Any

import ml_dtypes
import numpy as np

from lepton.ir.tensor import Tensor
from lepton.ir.types import DType
from tests.ir.ops_cases import F32, HARD, NAN, Case, case, normal, whole
from tests.ir.ops_oracle import Onnx


def counting() -> list[Case]:
    value = normal(2, 3)
    cases = [
        case("constant", value=Tensor.of(value), expected=value),
        case("constant", value=Tensor.of(np.array(True)), expected=np.array(True)),
        case("shape_values", dims=(2, 3, 5), expected=np.array([2, 3, 5])),
        case("shape_values", dims=(), expected=np.zeros(0, np.int64)),
        case("shape_values", dims=(7,), scalar=True, expected=np.array(7)),
        case("read_sizes", np.array([4, 0, 7]), symbols=("a", "b", "c"), expected=np.array([4, 0, 7])),
        case("read_sizes", np.zeros(0, np.int64), symbols=(), expected=np.zeros(0, np.int64)),
        case("iota", size=4, dtype=DType.I32, expected=np.array([0, 1, 2, 3], np.int32)),
        case("iota", size=0, dtype=DType.F32, expected=np.zeros(0, F32)),
        case("iota", size=3, dtype=DType.BF16, expected=np.array([0, 1, 2], ml_dtypes.bfloat16)),
    ]
    for start, limit, delta in ((0, 5, 1), (5, 0, -2), (3, 3, 1), (0, 5, -1), (-7, 8, 4)):
        args = [np.array(v, np.int64) for v in (start, limit, delta)]
        cases.append(case("range", *args, symbol="n", onnx="Range"))
        cases.append(case("range", *(a.astype(F32) for a in args), symbol="n", onnx="Range"))
    cases.append(case("range", *np.array([0, 1, 0.3], F32), symbol="n", onnx="Range"))
    cases.append(case("range", *np.array([0, 1, 0]), symbol="n", expected=np.zeros(0, np.int64)))
    return [Case(c.op, tuple(np.asarray(x) for x in c.operands), c.attrs, c.onnx, c.expected) for c in cases]


def views() -> list[Case]:
    x = normal(2, 3, 4)
    cases = [
        case("reshape", x, shape=(4, 6), expected=x.reshape(4, 6)),
        case("reshape", x[:0], shape=(5, 0), expected=np.zeros((5, 0), F32)),
        case("reshape", normal(1), shape=(), onnx=Onnx("Squeeze")),
        case("transpose", x, perm=(2, 0, 1), onnx=Onnx("Transpose", {"perm": [2, 0, 1]})),
        case("transpose", np.array(3.0, F32), perm=(), expected=np.array(3.0, F32)),
        case("broadcast_to", x[:, :1], shape=(5, 2, 3, 4), expected=np.broadcast_to(x[:, :1], (5, 2, 3, 4))),
        case("broadcast_to", np.array(1.0, F32), shape=(0, 2), expected=np.zeros((0, 2), F32)),
    ]
    for start, stop, step in ((0, 4, 1), (1, 4, 2), (3, None, -1), (2, 0, -1), (2, 2, 1), (0, 1, 5), (3, 0, -2)):
        wanted = x[:, :, slice(start, stop, step)]
        cases.append(case("slice", x, starts=(0, 0, start), sizes=wanted.shape, steps=(1, 1, step), expected=wanted))
    node = Onnx("Slice", {}, (x, np.array([-1, 1]), np.array([-100, 3]), np.array([0, 2]), np.array([-1, 1])))
    cases.append(case("slice", x, starts=(1, 0, 1), sizes=(2, 3, 2), steps=(-1, 1, 1), onnx=node))
    return cases


def joining() -> list[Case]:
    cases = [
        case("concat", normal(2, 3), normal(2, 1), normal(2, 0), axis=1, onnx=Onnx("Concat", {"axis": 1})),
        case("concat", normal(4), axis=0, onnx=Onnx("Concat", {"axis": 0})),
        case("concat", whole(0, 9, 1, 2), whole(0, 9, 2, 2), axis=0, onnx=Onnx("Concat", {"axis": 0})),
    ]
    x = normal(3, 4)
    for mode, (before, after) in product(("constant", "reflect", "edge", "wrap"), (((1, 0), (2, 1)), ((-1, 1), (0, -2)),
                                                                                  ((2, 3), (2, 0)))):
        pads = np.array([*before, *after])
        if mode == "constant":
            node = Onnx("Pad", {"mode": mode}, (x, pads, np.array(7, F32)), opset=19)
            cases.append(case("pad", x, np.array(7, F32), before=before, after=after, mode=mode, onnx=node))
        elif min(*before, *after) >= 0:
            grow = list(zip(before, after, strict=True))
            cases.append(case("pad", x, before=before, after=after, mode=mode, expected=np.pad(x, grow, mode=mode)))  # type: ignore[call-overload]
    long: Any = np.pad(np.arange(3), (7, 8), mode="reflect")
    cases += [
        case("pad", np.arange(3), before=(7,), after=(8,), mode="reflect", expected=long),
        case("pad", np.array([5.0], F32), before=(2,), after=(1,), mode="reflect", expected=np.full(4, 5, F32)),
        case("pad", np.arange(3), before=(4,), after=(4,), mode="wrap", expected=np.pad(np.arange(3), 4, mode="wrap")),
        case("pad", x, before=(-1, 0), after=(1, 0), mode="edge", expected=np.concatenate([x[1:], x[2:]])),
        case("pad", np.zeros((0, 2), F32), before=(1, 0), after=(0, 0), expected=np.zeros((1, 2), F32)),
        case("pad", normal(2, dtype=ml_dtypes.bfloat16)[:1] * 0, before=(1,), after=(0,),
             expected=np.zeros(2, ml_dtypes.bfloat16)),
    ]
    for upper, k in product((True, False), (-2, 0, 1, 9)):
        y = np.where(np.arange(12).reshape(3, 4) == 5, NAN, normal(2, 3, 4)).astype(F32)
        node = Onnx("Trilu", {"upper": int(upper)}, (y, np.array(k)))
        cases.append(case("trilu", y, upper=upper, k=k, onnx=node))
    return cases


def gathers() -> list[Case]:
    x = normal(3, 4, 5)
    cases = []
    for axis, dtype in product((0, 1, 2), (np.int32, np.int64)):
        node = Onnx("Gather", {"axis": axis})
        cases += [case("gather", x, whole(-3, 3, 2, 2, dtype=dtype), axis=axis, onnx=node),
                  case("gather", x, np.array(1, dtype), axis=axis, onnx=node),
                  case("gather", x, np.zeros((0, 2), dtype), axis=axis, onnx=node)]
        elements = Onnx("GatherElements", {"axis": axis})
        cases += [case("gather_elements", x, whole(-3, 3, 3, 4, 5, dtype=dtype), axis=axis, onnx=elements),
                  case("gather_elements", x, whole(-3, 3, 2, 3, 2, dtype=dtype), axis=axis, onnx=elements)]
    for shape, batch in (((2, 1), 0), ((2, 3), 0), ((3, 2), 1), ((3, 4, 1), 2), ((3, 2, 2), 1), ((3,), 0), ((0, 2), 0)):
        cases.append(case("gather_nd", x, whole(-3, 3, *shape), batch_dims=batch,
                          onnx=Onnx("GatherND", {"batch_dims": batch}) if shape != (0, 2) else None,
                          expected=None if shape != (0, 2) else np.zeros((0, 5), F32)))
    return cases


def scatters() -> list[Case]:
    cases = []
    for reduction, axis in product(("none", "add", "mul", "max", "min"), (0, 1)):
        x = normal(4, 5)
        places = np.take(np.argsort(normal(4, 5), axis=axis), np.arange(2), axis=axis)   # no place twice
        node = Onnx("ScatterElements", {"axis": axis, "reduction": reduction}, opset=18)
        places = places - (x.shape[axis] if axis else 0)
        cases.append(case("scatter_elements", x, places, normal(*places.shape), axis=axis, reduction=reduction,
                          onnx=node))
        nd = Onnx("ScatterND", {"reduction": reduction}, opset=18)
        cases += [case("scatter_nd", x, np.array([[1], [-1]]), normal(2, 5), reduction=reduction, onnx=nd),
                  case("scatter_nd", x, np.array([[1, 2], [0, 4], [3, -5]]), normal(3), reduction=reduction, onnx=nd)]
    twice = np.array([[1, 1, 0]])
    x, u = np.array([[1, 2, 3]], F32), np.array([[10, 20, 30]], F32)
    cases += [
        case("scatter_elements", x, twice, u, axis=1, expected=np.array([[30, 20, 3]], F32)),
        case("scatter_elements", x, twice, u, axis=1, reduction="add", expected=np.array([[31, 32, 3]], F32)),
        case("scatter_elements", x, twice, u, axis=1, reduction="max", expected=np.array([[30, 20, 3]], F32)),
        case("scatter_elements", x, twice[:, :1], np.array([[NAN]], F32), axis=1, reduction="min",
             expected=np.array([[1, NAN, 3]], F32)),
        case("scatter_elements", x, np.zeros((0, 1), np.int64), np.zeros((0, 1), F32), axis=1, expected=x),
        case("scatter_nd", x, np.zeros((2, 0), np.int64), np.stack([x, u]), expected=u),
        case("scatter_nd", x, np.zeros((0, 2), np.int64), np.zeros(0, F32), expected=x),
        case("scatter_elements", np.array([True, False]), np.array([1]), np.array([True]), axis=0,
             expected=np.array([True, True])),
    ]
    return cases


def choosing() -> list[Case]:
    cases = []
    values = np.array([2, 5], F32)
    for axis in (0, 1, 2):
        i = np.array([[0, -1], [3, 7]])
        cases.append(case("one_hot", i, values, depth=4, axis=axis,
                          onnx=Onnx("OneHot", {"axis": axis}, (i, np.array(4), values))))
    cases.append(case("one_hot", np.array(2.0, F32), np.array([0, 1]), depth=3, axis=0, expected=np.array([0, 0, 1])))
    for axis, largest in product((0, 1), (True, False)):
        x = whole(0, 5, 6, 7).astype(F32)
        node = Onnx("TopK", {"axis": axis, "largest": int(largest)}, (x, np.array([3])), outputs=2)
        cases.append(case("top_k", x, k=3, axis=axis, largest=largest, onnx=node))
    x = np.array([1, NAN, 3, 3, -np.inf], F32)
    cases += [
        case("top_k", x, k=3, axis=0, expected=(np.array([NAN, 3, 3], F32), np.array([1, 2, 3]))),
        case("top_k", x, k=5, axis=0, largest=False,
             expected=(np.array([-np.inf, 1, 3, 3, NAN], F32), np.array([4, 0, 2, 3, 1]))),
        case("top_k", x, k=0, axis=0, expected=(np.zeros(0, F32), np.zeros(0, np.int64))),
        case("top_k", np.array([5, 250, 3], np.uint8), k=1, axis=0,
             expected=(np.array([250], np.uint8), np.array([1]))),
        case("non_zero", whole(0, 2, 3, 4), symbol="n", onnx="NonZero"),
        case("non_zero", HARD, symbol="n", expected=np.flatnonzero(HARD != 0).reshape(1, -1)),
        case("non_zero", np.zeros((2, 3), bool), symbol="n", expected=np.zeros((2, 0), np.int64)),
        case("non_zero", np.array(5), symbol="n", expected=np.zeros((0, 1), np.int64)),
    ]
    return cases


CASES = [*counting(), *views(), *joining(), *gathers(), *scatters(), *choosing()]
