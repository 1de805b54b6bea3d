"""Operators that make, ask for, or change shapes."""
from __future__ import annotations

from lepton.frontends.onnx.broadcasting import common as open_size
from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.reading import Element, shape_of
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType


@imports("Constant")
def constant(c: Call) -> Value:
    if c.has("sparse_value"):
        c.ignore("sparse_value")
        return c(ops.constant, value=c.scope.store.sparse(c.attributes["sparse_value"].sparse_tensor, "Constant"))
    if (value := c.t("value")) is not None:
        return c(ops.constant, value=value)
    for name, dtype, read in (
        ("value_float", DType.F32, c.f), ("value_floats", DType.F32, c.floats), ("value_int", DType.I64, c.i),
        ("value_ints", DType.I64, c.ints), ("value_string", DType.STRING, c.s),
        ("value_strings", DType.STRING, c.strings),
    ):
        if c.has(name):
            return c.const(read(name), dtype)
    raise LeptonError("a Constant without a value", where=c.where)


@imports("Identity")
def identity(c: Call) -> Value:
    value = c.opt(0)
    if value is None:
        raise LeptonError("input 0 is missing", where=c.where)
    return value


@imports("Shape")
def shape(c: Call) -> Value:
    kind = c.x().tensor
    start, end = c.i("start", 0), c.i("end", kind.rank)
    low, high = (min(max(v + kind.rank if v < 0 else v, 0), kind.rank) for v in (start, end))
    return c.sizes(kind.shape[low:high])


@imports("Size")
def size(c: Call) -> Value:
    return c.sizes((c.x().tensor.size,), scalar=True)


@imports("Reshape")
def reshape_1(c: Call) -> Value:
    c.ignore("consumed_inputs")
    return c.reshape(c.x(), resolved(c, c.x(), c.ints("shape", REQUIRED), allow_zero=False))


@imports("Reshape", since=5)
def reshape(c: Call) -> Value:
    wanted, allow_zero = c.elements(1, "the shape"), c.flag("allowzero")
    if any(isinstance(e, Element) for e in wanted):
        wanted = list(shape_of(c, c.x(), wanted, allow_zero=allow_zero))
    known = tuple(d for d in wanted if not isinstance(d, Element))
    return c.reshape(c.x(), resolved(c, c.x(), known, allow_zero=allow_zero))


def resolved(c: Call, x: Value, wanted: tuple[Dim, ...], *, allow_zero: bool) -> tuple[Dim, ...]:
    """The shape that ONNX's 0 (as before) and -1 (what is left) stand for."""
    kind = x.tensor
    if any(d == 0 and i >= kind.rank for i, d in enumerate(wanted)) and not allow_zero:
        raise LeptonError(f"shape {list(wanted)} copies an axis that {kind} does not have", where=c.where)
    shape = [kind.shape[i] if d == 0 and not allow_zero else d for i, d in enumerate(wanted)]
    if shape.count(-1) > 1 or any(isinstance(d, int) and d < -1 for d in shape):
        raise LeptonError(f"shape {list(wanted)} cannot be resolved", where=c.where)
    if -1 in shape:
        at = shape.index(-1)
        others = dims.product([d for i, d in enumerate(shape) if i != at])
        if others == 0:
            raise LeptonError(f"-1 in shape {list(wanted)} of an empty tensor", where=c.where)
        shape[at] = dims.floordiv(kind.size, others)
    return tuple(shape)


@imports("Flatten")
def flatten(c: Call) -> Value:
    kind = c.x().tensor
    axis = c.i("axis", 1)
    axis = axis + kind.rank if axis < 0 else axis
    if not 0 <= axis <= kind.rank:
        raise LeptonError(f"axis {axis} for rank {kind.rank}", where=c.where)
    return c.reshape(c.x(), (dims.product(kind.shape[:axis]), dims.product(kind.shape[axis:])))


def _axes(c: Call, rank: int) -> tuple[int, ...] | None:
    """Axes from the attribute (until opset 12) or from input 1, where they are given."""
    if c.opset < 13:
        axes = c.ints("axes", None)
        return None if axes is None else c.axes_of(axes, rank)
    return None if c.opt(1) is None else c.axes_of(c.ints_in(1, "the axes"), rank)


@imports("Squeeze")
def squeeze(c: Call) -> Value:
    shape = c.x().tensor.shape
    axes = _axes(c, len(shape))
    if axes is None:
        if any(not isinstance(d, int) for d in shape):
            c.open_sizes(shape, "which axes to squeeze depends on open dimensions",
                         help="give Squeeze its axes, or pin them")
        axes = tuple(i for i, d in enumerate(shape) if d == 1)
    if wrong := [i for i in axes if isinstance(shape[i], int) and shape[i] != 1]:
        raise LeptonError(f"axis {wrong[0]} of {c.x().tensor} is not 1", where=c.where)
    return c.reshape(c.x(), [d for i, d in enumerate(shape) if i not in axes])


@imports("Unsqueeze")
def unsqueeze(c: Call) -> Value:
    given = c.ints("axes", REQUIRED) if c.opset < 13 else c.ints_in(1, "the axes")
    axes = c.axes_of(given, c.x().tensor.rank + len(given))
    left = iter(c.x().tensor.shape)
    return c.reshape(c.x(), [1 if i in axes else next(left) for i in range(c.x().tensor.rank + len(axes))])


@imports("Transpose")
def transpose(c: Call) -> Value:
    rank = c.x().tensor.rank
    perm = c.ints("perm", None)
    perm = tuple(reversed(range(rank))) if perm is None else perm
    if sorted(perm) != list(range(rank)):
        raise LeptonError(f"perm {list(perm)} for rank {rank}", where=c.where)
    return c.x() if perm == tuple(range(rank)) else c(ops.transpose, c.x(), perm=perm)


@imports("Expand", since=8)
def expand(c: Call) -> Value:
    return broadcast(c, c.x(), c.dims(1, "the shape"))


def broadcast(c: Call, x: Value, shape: tuple[Dim, ...]) -> Value:
    """x broadcast together with `shape`, in which 1 gives way."""
    old = x.tensor.shape
    rank = max(len(old), len(shape))
    a, b = ((1,) * (rank - len(s)) + tuple(s) for s in (old, shape))
    result = []
    for axis, (m, n) in enumerate(zip(a, b, strict=True)):
        common = n if m == 1 else m if n == 1 else open_size(m, n) or dims.unify(m, n)
        if common is None:
            raise LeptonError(f"cannot expand {x.tensor} to {list(shape)}: axis {axis}", where=c.where)
        result.append(common)
    return x if tuple(result) == old else c(ops.broadcast_to, x, shape=tuple(result))


@imports("ConstantOfShape", since=9)
def constant_of_shape(c: Call) -> Value:
    value = c.t("value") or Tensor.of([0.0], DType.F32)
    element = c.const(value.array.reshape(-1)[0], value.type.dtype)
    shape = c.dims(0, "the shape")
    return c(ops.broadcast_to, element, shape=shape) if shape else element


@imports("Range", since=11)
def range_(c: Call) -> Value:
    """start, start+delta, …: counted out where the count follows from sizes, data dependent otherwise."""
    operands = [c.reshape(c.x(i), ()) for i in range(3)]
    dtype = operands[0].tensor.dtype
    known = [c.known(i) for i in range(3)]
    if not dtype.is_integer or any(k is None for k in known) or known[2] == (0,) or not isinstance(
            (step := known[2][0] if known[2] else 0), int):
        return c(ops.range_, *operands, symbol=c.fresh("range"))
    (start,), (limit,) = known[0] or (0,), known[1] or (0,)
    span = limit - start if step > 0 else start - limit
    count = dims.dim_max(dims.ceildiv(span, abs(step)), 0)
    steps = c(ops.iota, size=count, dtype=dtype)
    scaled = steps if step == 1 else c(ops.mul, steps, c.like(step, steps))
    return scaled if start == 0 else c(ops.add, scaled, operands[0])


@imports("EyeLike", since=9)
def eye_like(c: Call) -> Value:
    kind = c.x().tensor
    if kind.rank != 2:
        raise LeptonError(f"{kind} is not a matrix", where=c.where)
    dtype, k = c.dtype("dtype", kind.dtype), c.i("k", 0)
    rows, columns = (c(ops.iota, size=d, dtype=DType.I64) for d in kind.shape)
    shifted = c(ops.add, c.reshape(rows, (kind.shape[0], 1)), c.const(k, DType.I64))
    return c(ops.cast, c(ops.equal, shifted, columns), to=dtype)
