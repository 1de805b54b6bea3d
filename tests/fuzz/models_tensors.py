"""ONNX nodes over any tensors: elementwise, views, reductions, indexing, products, recurrent and quantised layers."""
from __future__ import annotations

from typing import Any

import numpy as np

from tests.fuzz.recipe import Recipe

Attrs = dict[str, Any]
UNARY: dict[str, int] = {
    "Abs": 13, "Ceil": 13, "Cos": 7, "Cosh": 9, "Erf": 13, "Exp": 13, "Floor": 13, "HardSwish": 14, "Mish": 18,
    "Neg": 13, "Relu": 14, "Round": 11, "Sigmoid": 13, "Sign": 13, "Sin": 7, "Sinh": 9, "Softplus": 1, "Softsign": 1,
    "Tan": 7, "Tanh": 13, "Atan": 7, "Asinh": 9, "Identity": 13, "IsNaN": 13,
}
WITH: dict[str, Attrs] = {"LeakyRelu": {"alpha": 0.1}, "Elu": {"alpha": 1.3}, "Celu": {"alpha": 0.7}, "Selu": {},
        "HardSigmoid": {"alpha": 0.3}, "ThresholdedRelu": {"alpha": 0.5}, "Shrink": {"lambd": 0.4, "bias": 0.1}}


def unary(r: Recipe) -> None:
    x = r.input(r.array(r.shape(0, 4)))
    if r.chance(0.3):
        op = r.pick(*WITH)
        r.node(op, [x], opset=r.pick(16, 20), **WITH[op])
    else:
        op = r.pick(*UNARY)
        r.node(op, [x], opset=max(UNARY[op], r.pick(13, 17)))


def binary(r: Recipe) -> None:
    op = r.pick("Add", "Sub", "Mul", "Div", "Max", "Min", "Less", "Greater", "LessOrEqual", "Equal", "PRelu", "Pow",
                "Mod", "Sum", "Mean", "Where", "And", "Xor", "BitwiseAnd", "BitShift")
    shape = r.shape(0, 4)
    other = tuple(1 if r.chance(0.3) else n for n in shape)[r.choose.randrange(len(shape) + 1) if r.chance(0.3) else 0:]
    dtype = r.pick(np.float32, np.float32, np.float64, np.int32, np.int64)
    dtype = np.float32 if op in ("PRelu", "Mean", "Sum") else dtype
    attrs: dict[str, Any] = {}
    if op in ("And", "Xor"):
        dtype = np.bool_
    if op == "BitwiseAnd":
        dtype = np.int32
    if op == "BitShift":
        dtype, attrs = np.uint8, {"direction": r.pick("LEFT", "RIGHT")}
    a, b = r.array(shape, dtype), r.array(other, dtype)
    if op in ("Div", "Mod") and b.dtype.kind == "i":
        b = np.where(b == 0, b.dtype.type(3), b)
    if op == "Mod" and b.dtype.kind == "f":
        attrs["fmod"] = 1
    if op == "Pow":
        a, b = (np.abs(a) + a.dtype.type(1)), np.clip(b, -3, 3) if b.dtype.kind == "f" else np.abs(b) % 4
    if op == "BitShift":
        b = b % 8
    inputs = [r.input(a), r.either(np.asarray(b, a.dtype))]
    if op == "Where":
        inputs.insert(0, r.input(r.array(shape, np.bool_)))
    r.node(op, inputs, opset=18, **attrs)


def cast(r: Recipe) -> None:
    from onnx import TensorProto as T

    x = r.array(r.shape(0, 3), r.pick(np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_, np.float16))
    if x.dtype.kind == "f":
        x = x * x.dtype.type(20)
    to = r.pick(T.FLOAT, T.DOUBLE, T.INT32, T.INT64, T.INT8, T.BOOL, T.FLOAT16, T.INT16)
    r.node("Cast", [r.input(x)], opset=r.pick(13, 19), to=int(to))


def reduce(r: Recipe) -> None:
    op = "Reduce" + r.pick("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")
    x = r.array(r.shape(1, 4))
    if op == "ReduceLogSum":
        x = np.abs(x) + np.float32(0.5)
    axes = sorted(r.choose.sample(range(x.ndim), r.choose.randrange(0, x.ndim + 1)))
    given = [a - x.ndim * r.chance(0.4) for a in axes]
    opset = r.pick(11, 13, 18)
    attrs: dict[str, Any] = {"keepdims": r.pick(0, 1)}
    if opset == 18 or (op == "ReduceSum" and opset == 13):
        inputs = [r.input(x)] + ([r.weight(np.array(given, np.int64))] if given or r.chance(0.5) else [])
        if r.chance(0.4):
            attrs["noop_with_empty_axes"] = r.pick(0, 1)
        r.node(op, inputs, opset=opset, **attrs)
    else:
        r.node(op, [r.input(x)], opset=opset, **(attrs | ({"axes": given} if given else {})))


def along(r: Recipe) -> None:
    x = r.array(r.shape(1, 4))
    axis = r.choose.randrange(-x.ndim, x.ndim)
    match r.pick("Softmax", "LogSoftmax", "Hardmax", "CumSum", "ArgMax", "ArgMin", "TopK"):
        case "CumSum":
            r.node("CumSum", [r.input(x), r.weight(np.array(axis, np.int64))], opset=14, exclusive=r.pick(0, 1),
                   reverse=r.pick(0, 1))
        case "ArgMax" | "ArgMin" as op:
            x = np.round(x)
            r.node(op, [r.input(x)], opset=r.pick(12, 13), axis=axis, keepdims=r.pick(0, 1),
                   select_last_index=r.pick(0, 1))
        case "TopK":
            k = np.array([r.choose.randrange(1, x.shape[axis] + 1)], np.int64)
            r.node("TopK", [r.input(x), r.weight(k)], opset=11, outputs=2, axis=axis, largest=r.pick(0, 1))
        case op:
            r.node(op, [r.input(x)], opset=r.pick(11, 13), axis=axis)


def slice_(r: Recipe) -> None:
    x = r.array(r.shape(1, 4))
    axes = r.choose.sample(range(x.ndim), r.choose.randrange(1, x.ndim + 1))
    starts = [r.pick(0, 1, -1, -2, 2, 100, -100) for _ in axes]
    ends = [r.pick(1, 2, 3, -1, 2**31 - 1, 2**63 - 1, -(2**31), 0) for _ in axes]
    steps = [r.pick(1, 1, 2, -1, -2, 3) for _ in axes]
    if r.chance(0.15):
        r.node("Slice", [r.input(x)], opset=1, axes=sorted(axes), starts=starts, ends=ends)
        return
    given = [a - x.ndim * r.chance(0.4) for a in axes]
    inputs = [r.input(x), *(r.weight(np.array(v, np.int64)) for v in (starts, ends, given))]
    r.node("Slice", [*inputs, r.weight(np.array(steps, np.int64))] if r.chance(0.7) else inputs, opset=r.pick(10, 13))


def reshape(r: Recipe) -> None:
    x = r.array(r.shape(1, 4))
    match r.pick("Reshape", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile", "Concat",
                 "Split"):
        case "Reshape":
            shape = list(x.shape)
            axis = r.choose.randrange(len(shape))
            shape[axis] = r.pick(0, -1)
            if r.chance(0.5):
                shape.insert(axis, 1)
                shape[axis + 1] = -1 if 0 not in x.shape else x.shape[axis]
            r.node("Reshape", [r.input(x), r.weight(np.array(shape, np.int64))], opset=r.pick(5, 13, 14))
        case "Transpose":
            r.node("Transpose", [r.input(x)], opset=13, perm=r.choose.sample(range(x.ndim), x.ndim))
        case "Flatten":
            r.node("Flatten", [r.input(x)], opset=r.pick(9, 13), axis=r.choose.randrange(x.ndim + 1))
        case "Squeeze":
            x = x[None, ..., None]
            r.node("Squeeze", [r.input(x), r.weight(np.array([0, -1], np.int64))], opset=13)
        case "Unsqueeze":
            r.node("Unsqueeze", [r.input(x), r.weight(np.array([0, -1], np.int64))], opset=13)
        case "Expand":
            shape = [r.pick(2, 3) if n == 1 else r.pick(1, n) for n in x.shape]
            r.node("Expand", [r.input(x), r.weight(np.array([*([2] * r.chance(0.3)), *shape], np.int64))], opset=13)
        case "Tile":
            r.node("Tile", [r.input(x), r.weight(np.array([r.pick(1, 2, 3) for _ in x.shape], np.int64))], opset=13)
        case "Concat":
            axis = r.choose.randrange(-x.ndim, x.ndim)
            r.node("Concat", [r.input(x), r.either(r.array(x.shape)), r.input(r.array(x.shape))], opset=13, axis=axis)
        case "Split":
            axis = r.choose.randrange(x.ndim)
            cut = r.choose.randrange(x.shape[axis] + 1)
            r.node("Split", [r.input(x), r.weight(np.array([cut, x.shape[axis] - cut], np.int64))], opset=13, outputs=2,
                   axis=axis)


def indexing(r: Recipe) -> None:
    x = r.array(r.shape(1, 4))
    axis = r.choose.randrange(x.ndim)
    n = x.shape[axis]

    def places(*shape: int) -> str:
        return r.either(r.rng.integers(-n, n, shape).astype(np.int64))

    match r.pick("Gather", "GatherElements", "ScatterElements", "GatherND", "ScatterND", "OneHot"):
        case "Gather":
            r.node("Gather", [r.input(x), places(*r.shape(0, 2))], opset=13, axis=r.pick(axis, axis - x.ndim))
        case "GatherElements":
            r.node("GatherElements", [r.input(x), places(*x.shape)], opset=13, axis=axis)
        case "ScatterElements":
            reduction = r.pick("none", "add", "max", "min", "mul")
            shape = x.shape if reduction != "none" else tuple(1 if a == axis else m for a, m in enumerate(x.shape))
            r.node("ScatterElements", [r.input(x), places(*shape), r.input(r.array(shape))], opset=18, axis=axis,
                   **({"reduction": reduction} if reduction != "none" else {}))
        case "GatherND":
            where = r.rng.integers(-x.shape[0], x.shape[0], (r.size(1), 1)).astype(np.int64)
            r.node("GatherND", [r.input(x), r.either(where)], opset=13)
        case "ScatterND":
            where = r.rng.permutation(x.shape[0])[:2].reshape(-1, 1).astype(np.int64)
            r.node("ScatterND", [r.input(x), r.either(where), r.input(r.array((len(where), *x.shape[1:])))], opset=18,
                   **({"reduction": r.pick("add", "max")} if r.chance(0.4) else {}))
        case "OneHot":
            inputs = [places(*x.shape), r.weight(np.array(n, np.int64)), r.weight(np.array([0.5, 2], np.float32))]
            r.node("OneHot", inputs, opset=11, axis=r.choose.randrange(-x.ndim - 1, x.ndim + 1))


def choosing(r: Recipe) -> None:
    x = r.array(r.shape(1, 4))
    axis = r.choose.randrange(x.ndim)
    match r.pick("Trilu", "NonZero", "Compress", "ReverseSequence", "EyeLike"):
        case "Trilu":
            inputs = [r.input(r.array((2, *r.shape(2, 2)))), r.weight(np.array(r.pick(-1, 0, 2), np.int64))]
            r.node("Trilu", inputs, opset=14, upper=r.pick(0, 1))
        case "NonZero":
            r.node("NonZero", [r.input(np.round(x))], opset=13)
        case "Compress":
            r.node("Compress", [r.input(x), r.weight(r.array((x.shape[axis],), np.bool_))], opset=11, axis=axis)
        case "ReverseSequence":
            y = r.array((r.size(2), r.size(2), 2))
            lengths = r.rng.integers(1, y.shape[0] + 1, y.shape[1]).astype(np.int64)
            r.node("ReverseSequence", [r.input(y), r.weight(lengths)],
                   opset=10, time_axis=0, batch_axis=1)
        case "EyeLike":
            r.node("EyeLike", [r.input(r.array(r.shape(2, 2)))], opset=9, k=r.pick(-1, 0, 1))


EQUATIONS = ("ij,jk->ik", "bij,bjk->bik", "ij->ji", "ii->i", "ij,ij->", "bhqd,bhkd->bhqk", "i,j->ij", "...ij->...ji",
             "bij->b", "ij,kj->ki", "abc,c->ab")


def products(r: Recipe) -> None:
    match r.pick("MatMul", "MatMul", "Gemm", "Einsum"):
        case "MatMul":
            a = r.array(r.shape(1, 4))
            b = r.array((a.shape[-1], r.size(1)) if r.chance(0.6) else (*a.shape[:-2], a.shape[-1], r.size(1)))
            r.node("MatMul", [r.input(a), r.either(b)], opset=r.pick(9, 13))
        case "Gemm":
            m, k, n = r.size(1), r.size(1), r.size(1)
            ta, tb = r.pick(0, 1), r.pick(0, 1)
            inputs = [r.input(r.array((k, m) if ta else (m, k))), r.either(r.array((n, k) if tb else (k, n)))]
            if r.chance(0.7):
                inputs.append(r.either(r.array(r.pick((), (n,), (m, 1), (m, n), (1, n)))))
            r.node("Gemm", inputs, opset=r.pick(11, 13), transA=ta, transB=tb, alpha=r.pick(1.0, 0.5),
                   beta=r.pick(1.0, 2.0))
        case "Einsum":
            equation = r.pick(*EQUATIONS)
            sizes = {c: r.size(1) for c in "abcdhijkq"}
            left = equation.split("->")[0].split(",")
            shapes = [tuple(sizes[c] for c in term.replace("...", "ab")) for term in left]
            r.node("Einsum", [r.input(r.array(s)) for s in shapes], opset=12, equation=equation)


def recurrent(r: Recipe) -> None:
    op = r.pick("LSTM", "GRU", "RNN")
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    direction = r.pick("forward", "reverse", "bidirectional")
    ways, hidden = 1 + (direction == "bidirectional"), r.pick(1, 3, 8)
    size, steps, batch = r.size(1), r.size(1), r.size(1)
    inputs = [r.input(r.array((steps, batch, size))), r.weight(r.array((ways, gates * hidden, size))),
              r.weight(r.array((ways, gates * hidden, hidden)))]
    inputs.append(r.weight(r.array((ways, 2 * gates * hidden))) if r.chance(0.5) else "")
    inputs.append(r.weight(r.rng.integers(1, steps + 1, batch).astype(np.int32)) if r.chance(0.3) else "")
    inputs.append(r.input(r.array((ways, batch, hidden))) if r.chance(0.3) else "")
    attrs: dict[str, Any] = {"direction": direction, "hidden_size": hidden}
    if op == "GRU":
        attrs["linear_before_reset"] = r.pick(0, 1)
    if op == "LSTM":
        inputs.append(r.input(r.array((ways, batch, hidden))) if r.chance(0.3) else "")
        inputs.append(r.weight(r.array((ways, 3 * hidden))) if r.chance(0.2) else "")
    if r.chance(0.2):
        attrs["clip"] = 0.5
    r.node(op, inputs, opset=r.pick(7, 14, 22), outputs=3 if op == "LSTM" else 2, **attrs)


def quantised(r: Recipe) -> None:
    byte = r.pick(np.uint8, np.int8)

    def scale(*shape: int) -> np.ndarray:
        return np.asarray(np.abs(r.array(shape)) * np.float32(0.1) + np.float32(0.02))

    match r.pick("QuantizeLinear", "DequantizeLinear", "QLinearMatMul", "QLinearConv", "MatMulInteger", "ConvInteger",
                 "DynamicQuantizeLinear"):
        case "QuantizeLinear" | "DequantizeLinear" as op:
            x = r.array(r.shape(1, 4), np.float32 if op == "QuantizeLinear" else byte)
            axis = r.choose.randrange(x.ndim)
            shape = r.pick((), (x.shape[axis],))
            inputs = [r.input(x), r.weight(scale(*shape)), r.weight(r.array(shape, byte))]
            r.node(op, inputs if r.chance(0.8) else inputs[:2], opset=r.pick(13, 19, 21), axis=axis)
        case "QLinearMatMul":
            m, k, n = r.size(1), r.size(1), r.size(1)
            ends = [s for _ in range(2) for s in (r.weight(scale()), r.weight(r.array((), byte)))]
            inputs = [r.input(r.array((m, k), byte)), *ends[:2], r.either(r.array((k, n), byte)), *ends[2:],
                      r.weight(scale() * np.float32(20)), r.weight(r.array((), byte))]
            r.node("QLinearMatMul", inputs, opset=r.pick(10, 21))
        case "QLinearConv":
            filters = r.pick(1, 4)
            shape = r.pick((), (filters,))
            inputs = [r.input(r.array((1, 3, 5, r.size(3)), np.uint8)), r.weight(scale()),
                      r.weight(r.array((), np.uint8)), r.weight(r.array((filters, 3, 3, 3), np.int8)),
                      r.weight(scale(*shape)), r.weight(np.zeros(shape, np.int8)),
                      r.weight(scale() * np.float32(20)), r.weight(r.array((), np.uint8))]
            if r.chance(0.5):
                inputs.append(r.weight(r.array((filters,), np.int32)))
            r.node("QLinearConv", inputs, opset=10, pads=[1, 1, 1, 1])
        case "MatMulInteger":
            m, k, n = r.size(1), r.size(1), r.size(1)
            r.node("MatMulInteger", [r.input(r.array((m, k), np.uint8)), r.either(r.array((k, n), byte)),
                                     r.weight(r.array((), np.uint8)), r.weight(r.array((), byte))], opset=10)
        case "ConvInteger":
            r.node("ConvInteger", [r.input(r.array((1, 2, 5, 6), np.uint8)), r.weight(r.array((3, 2, 3, 3), np.uint8)),
                                   r.weight(r.array((), np.uint8))], opset=10, pads=[r.pick(0, 1)] * 4)
        case _:
            r.node("DynamicQuantizeLinear", [r.input(r.array(r.shape(1, 3)))], opset=11, outputs=3)


def attention(r: Recipe) -> None:
    batch, heads, size = r.pick(1, 2), r.pick(2, 4), r.pick(4, 8)
    groups = r.pick(heads, 1, 2)
    s, t = r.size(1), r.size(1)
    q, k, v = r.array((batch, heads, s, size)), r.array((batch, groups, t, size)), r.array((batch, groups, t, size))
    inputs = [r.input(q), r.input(k), r.input(v)]
    if r.chance(0.4):
        inputs.append(r.input(r.array((s, t))))
    attrs: dict[str, Any] = {}
    if r.chance(0.3):
        attrs["is_causal"] = 1
    if r.chance(0.3):
        attrs["scale"] = 0.3
    if r.chance(0.2):
        attrs["softcap"] = 2.0
    r.node("Attention", inputs, opset=23, **attrs)


MAKERS = ((unary, 3), (binary, 4), (cast, 1), (reduce, 4), (along, 3), (slice_, 3), (reshape, 4), (indexing, 4),
          (choosing, 2), (products, 3), (recurrent, 3), (quantised, 3), (attention, 1))
