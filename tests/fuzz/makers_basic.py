"""Makers of elementwise ops, views, reductions, and what reads or writes by index."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import Dim
from lepton.ir.op import OPS, Op, Trait
from lepton.ir.types import DType
from tests.fuzz.draw import Draw

Maker = Callable[[Draw], Value | None]


def number(dtype: DType) -> bool:
    return (dtype.is_float or dtype.is_integer) and dtype is not DType.F8E8M0


def floating(dtype: DType) -> bool:
    return dtype.is_float and dtype is not DType.F8E8M0


def wide_float(dtype: DType) -> bool:
    """Floats of 16 bits and more."""
    return dtype.is_float and dtype.bits >= 16


# --- elementwise ----------------------------------------------------------------------------------

CASTS = tuple(d for d in DType if not d.is_complex and d is not DType.STRING)
# Attributes without a default, and those worth changing; drawn anew for each node.
ATTRIBUTES: dict[str, dict[str, Callable[[Draw], Any]]] = {
    "cast": {"to": lambda d: d.choose.choice(CASTS), "saturate": lambda d: d.chance(0.8)},
    "bitcast": {"to": lambda d: d.choose.choice(CASTS)},
    "celu": {"alpha": lambda d: d.choose.choice((0.5, 1.0, 1.3))},
    "elu": {"alpha": lambda d: d.choose.choice((0.5, 1.0, -0.7))},
    "gelu": {"approximate": lambda d: d.choose.choice(("none", "tanh"))},
    "hard_sigmoid": {"alpha": lambda d: d.choose.choice((0.2, 1 / 6)), "beta": lambda d: 0.5},
    "is_inf": {"positive": lambda d: d.chance(0.6), "negative": lambda d: d.chance(0.6)},
    "leaky_relu": {"alpha": lambda d: d.choose.choice((0.01, 0.2, -1.5, 2.0))},
    "mod": {"fmod": lambda d: d.chance(0.5)},
    "selu": {"alpha": lambda d: 1.6732632, "gamma": lambda d: 1.0507009},
    "shrink": {"lambd": lambda d: d.choose.choice((0.5, 1.0)), "bias": lambda d: d.choose.choice((0.0, 0.3))},
    "swish": {"alpha": lambda d: d.choose.choice((1.0, 1.702, -0.5))},
    "to_level": {"to": lambda d: d.choose.choice((DType.I8, DType.U8, DType.I16, DType.U16)),
                 "zero": lambda d: d.choose.choice((0, 3, 100))},
    "thresholded_relu": {"alpha": lambda d: d.choose.choice((0.0, 0.9, -0.5))},
}
ELEMENTWISE = tuple(op for _, op in sorted(OPS.items()) if op.has(Trait.ELEMENTWISE))
BINARY = tuple(op for op in ELEMENTWISE if op.arity == (2, 2))
COMMON = (ops.add, ops.mul, ops.sub, ops.div, ops.maximum, ops.relu, ops.sigmoid, ops.neg, ops.exp, ops.tanh, ops.where,
          ops.clip, ops.cast, ops.less, ops.sqrt, ops.erf)


def elementwise(d: Draw) -> Value | None:
    return _elementwise(d, d.choose.choice(COMMON if d.chance(0.4) else ELEMENTWISE))


SCALES = (ops.cast, ops.bitcast, ops.where)  # f8e8m0 holds scales: nothing is computed in it


def _elementwise(d: Draw, op: Op) -> Value | None:
    attrs = {name: draw(d) for name, draw in ATTRIBUTES.get(op.name, {}).items()}
    for _ in range(4):
        first = d.pick((lambda t: t is DType.BOOL) if op is ops.where else None)
        if first is None:
            continue
        operands: list[Value | None] = [first]
        least, most = op.arity
        if op is ops.where:
            a = partner(d, first, d.dtype(), grow=True)
            operands += [a, partner(d, a, a.tensor.dtype) if a is not None else None]
        else:
            while len(operands) < (most or 2):
                optional = len(operands) >= least
                scalar = op is ops.clip
                dtype = d.dtype() if op is ops.pow_ and d.chance(0.3) else first.tensor.dtype
                operands.append(None if optional and d.chance(0.3) else
                                partner(d, first, dtype, scalar=scalar, grow=op is not ops.prelu))
        if any(v is None for v in operands[:least]):
            continue
        if op not in SCALES and any(v is not None and v.tensor.dtype is DType.F8E8M0 for v in operands):
            continue
        if op.has(Trait.COMMUTATIVE) and d.chance(0.3):
            operands[:2] = operands[1::-1]
        if (made := d.apply(op, *operands, **attrs)) is not None:
            return made
    return None


def partner(d: Draw, x: Value | None, dtype: DType, *, scalar: bool = False, grow: bool = False) -> Value | None:
    """A value of that element type which broadcasts with x: from the pool, or fresh."""
    if x is None:
        return None
    shape = x.tensor.shape
    if not scalar and d.chance(0.6):
        fits = [v for v in d.pool if v.tensor.dtype is dtype and _broadcast(v.tensor.shape, shape, grow)]
        if fits:
            return d.choose.choice(fits)
    if scalar:
        return d.fresh(dtype, ())
    kept: list[Dim] = [1 if d.chance(0.25) else n for n in shape]
    cut = d.choose.choice((0, 0, 0, *range(len(shape) + 1)))
    wanted = (*[d.choose.choice((1, 2))] * (grow and d.chance(0.05)), *kept[cut:])
    return d.fresh(dtype, wanted) or d.fresh(dtype, ())


def _broadcast(a: tuple[Dim, ...], b: tuple[Dim, ...], grow: bool) -> bool:
    if not grow and len(a) > len(b):
        return False
    pairs = list(zip(reversed(a), reversed(b), strict=False))
    return all(x in (y, 1) or (grow and y == 1) for x, y in pairs)


def chain(d: Draw) -> Value | None:
    """Several elementwise ops in a row: what becomes one kernel."""
    made = elementwise(d)
    for _ in range(d.choose.choice((1, 2, 4))):
        made = elementwise(d) or made
    return made


# --- views ----------------------------------------------------------------------------------------


def reshape(d: Draw) -> Value | None:
    """Split an axis, merge neighbours, add or drop axes of size 1, flatten."""
    x = d.pick()
    if x is None:
        return None
    shape = list(x.tensor.shape)
    axis = d.choose.randrange(len(shape)) if shape else 0
    n = shape[axis] if shape else 1
    match d.choose.choice(("split", "merge", "one", "squeeze", "flat")):
        case "split" if isinstance(n, int) and n > 1:
            part = d.choose.choice([k for k in range(1, n + 1) if n % k == 0])
            shape[axis:axis + 1] = [part, n // part]
        case "merge" if axis + 1 < len(shape):
            shape[axis:axis + 2] = [shape[axis] * shape[axis + 1]]
        case "squeeze" if 1 in shape:
            shape.remove(1)
        case "flat":
            shape = [x.tensor.size]
        case _:
            shape.insert(axis, 1)
    return d.apply(ops.reshape, x, shape=tuple(shape))


def transpose(d: Draw) -> Value | None:
    x = d.pick(least=2)
    if x is None:
        return None
    rank = x.tensor.rank
    usual: dict[int, tuple[tuple[int, ...], ...]] = {3: ((0, 2, 1),), 4: ((0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 1, 3))}
    often = rank in usual and d.chance(0.5)
    perm = d.choose.choice(usual[rank]) if often else tuple(d.choose.sample(range(rank), rank))
    return d.apply(ops.transpose, x, perm=perm)


def slice_(d: Draw) -> Value | None:
    x = d.pick(least=1)
    if x is None:
        return None
    starts: list[Dim] = []
    sizes: list[Dim] = []
    steps: list[int] = []
    for n in x.tensor.shape:
        start, size, step = (0, n, 1) if d.chance(0.5) else _slice_axis(d, n)
        starts, sizes, steps = [*starts, start], [*sizes, size], [*steps, step]
    return d.apply(ops.slice_, x, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps))


def _slice_axis(d: Draw, n: Dim) -> tuple[Dim, Dim, int]:
    least = d.least(n)
    if least < 2:
        return (n - 1, n, -1) if least == 1 else (0, n, 1)
    step = d.choose.choice((1, 1, 1, 2, 3, -1, -2))
    cut = d.choose.randrange(min(least, 3))
    if step < 0:
        return n - 1 - cut, (n - cut + (-step - 1)) // -step, step
    if d.chance(0.2):
        return d.choose.randrange(least), 1, step
    return cut, (n - cut + step - 1) // step, step


def broadcast_to(d: Draw) -> Value | None:
    x = d.pick()
    if x is None:
        return None
    shape = [d.dim() if n == 1 else n for n in x.tensor.shape]
    return d.apply(ops.broadcast_to, x, shape=(*[d.dim() for _ in range(d.choose.choice((0, 0, 1)))], *shape))


def concat(d: Draw) -> Value | None:
    x = d.pick(least=1)
    if x is None:
        return None
    axis = d.choose.randrange(x.tensor.rank)
    fits = [v for v in d.pool if v.tensor.rank == x.tensor.rank and v.tensor.dtype is x.tensor.dtype
            and all(m == n for a, (m, n) in enumerate(zip(v.tensor.shape, x.tensor.shape, strict=True)) if a != axis)]
    extra = d.fresh(x.tensor.dtype, [d.dim() if a == axis else n for a, n in enumerate(x.tensor.shape)])
    return d.apply(ops.concat, *d.choose.choices([*fits, *([extra] if extra else [])], k=d.choose.choice((1, 2, 3))),
                   axis=axis)


def pad(d: Draw) -> Value | None:
    x = d.pick(least=1)
    if x is None:
        return None
    mode = d.choose.choice(("constant", "constant", "reflect", "edge", "wrap"))
    low = -1 if d.chance(0.2) else 0
    amounts = [tuple(d.choose.choice((0, 0, 1, 2, 3, low)) for _ in x.tensor.shape) for _ in range(2)]
    value = d.fresh(x.tensor.dtype, ()) if mode == "constant" and d.chance(0.4) else None
    return d.apply(ops.pad, x, value, before=amounts[0], after=amounts[1], mode=mode)


def trilu(d: Draw) -> Value | None:
    return d.apply(ops.trilu, d.pick(least=2), upper=d.chance(0.5), k=d.choose.choice((-2, -1, 0, 1, 3)))


# --- along axes -----------------------------------------------------------------------------------

REDUCTIONS = (ops.reduce_sum, ops.reduce_mean, ops.reduce_max, ops.reduce_min, ops.reduce_prod)


def reduction(d: Draw) -> Value | None:
    op = d.choose.choice(REDUCTIONS)
    x = d.pick(number)
    if x is None:
        return None
    axes = tuple(a for a in range(x.tensor.rank) if d.chance(0.5)) or tuple(range(x.tensor.rank))[-1:]
    return d.apply(op, x, axes=axes, keepdims=d.chance(0.5))


def along(d: Draw) -> Value | None:
    """An op along one axis."""
    op = d.choose.choice((ops.softmax, ops.log_softmax, ops.hardmax, ops.arg_max, ops.arg_min, ops.cumsum, ops.cumprod,
                          ops.softmax))
    x = d.pick(number if op in (ops.arg_max, ops.arg_min, ops.cumsum, ops.cumprod) else floating, least=1)
    if x is None:
        return None
    names = [name for name, default in op.attributes.items() if isinstance(default, bool)]
    flags: dict[str, Any] = {name: d.chance(0.5) for name in names}
    return d.apply(op, x, axis=d.choose.randrange(x.tensor.rank), **flags)


def top_k(d: Draw) -> Value | None:
    x = d.pick(number, least=1)
    if x is None:
        return None
    axis = d.choose.randrange(x.tensor.rank)
    n = x.tensor.shape[axis]
    k = n if d.chance(0.2) else d.choose.randrange(d.least(n) + 1)
    node = d.node(ops.top_k, x, k=k, axis=axis, largest=d.chance(0.5))
    return None if node is None else node.results[0]


# --- by index -------------------------------------------------------------------------------------


def indices(d: Draw, limit: Dim, shape: tuple[Dim, ...]) -> Value | None:
    """Integers that index an axis of size `limit`: constants, or computed from data."""
    least = d.least(limit)
    if least < 1 or not d.fits(shape):
        return None
    dtype = d.choose.choice((DType.I32, DType.I64, DType.I64))
    if all(isinstance(n, int) for n in shape) and d.chance(0.6):
        return d.constant(d.rng.integers(-least, least, [n for n in shape if isinstance(n, int)]), dtype)
    raw = d.fresh(dtype, shape)
    return d.apply(ops.mod, raw, d.constant(np.array(least), dtype), fmod=d.chance(0.5)) if raw is not None else None


def gather(d: Draw) -> Value | None:
    x = d.pick(least=1)
    if x is None:
        return None
    axis = d.choose.randrange(x.tensor.rank)
    return d.apply(ops.gather, x, indices(d, x.tensor.shape[axis], d.shape(d.choose.choice((0, 1, 1, 2)))), axis=axis)


def by_element(d: Draw) -> Value | None:
    """gather_elements or scatter_elements."""
    x = d.pick(least=1)
    if x is None:
        return None
    axis = d.choose.randrange(x.tensor.rank)
    shape = tuple(d.dim() if a == axis else d.choose.randrange(1, max(2, d.least(n) + 1)) if d.chance(0.3) else n
                  for a, n in enumerate(x.tensor.shape))
    where = indices(d, x.tensor.shape[axis], shape)
    if d.chance(0.5):
        return d.apply(ops.gather_elements, x, where, axis=axis)
    known = number(x.tensor.dtype)
    reduction = d.choose.choice(("none", "none", "add", "mul", "max", "min")) if known else "none"
    return d.apply(ops.scatter_elements, x, where, d.fresh(x.tensor.dtype, shape), axis=axis, reduction=reduction)


def by_vector(d: Draw) -> Value | None:
    """gather_nd or scatter_nd; the indices are constants."""
    x = d.pick(least=1)
    if x is None:
        return None
    batch = d.choose.choice((0, 0, 1)) if x.tensor.rank > 1 and isinstance(x.tensor.shape[0], int) else 0
    depth = d.choose.randrange(1, x.tensor.rank - batch + 1)
    limits = [d.least(n) for n in x.tensor.shape[batch:batch + depth]]
    lead = tuple(n for n in x.tensor.shape[:batch] if isinstance(n, int)) + tuple(
        d.choose.choice((1, 2, 3, 5)) for _ in range(d.choose.choice((0, 1, 2))))
    if min(limits) < 1 or not d.fits((*lead, depth)):
        return None
    places = np.stack([d.rng.integers(-n, n, lead) for n in limits], axis=-1)
    where = d.constant(places, d.choose.choice((DType.I32, DType.I64)))
    if batch or d.chance(0.5):
        return d.apply(ops.gather_nd, x, where, batch_dims=batch)
    updates = d.fresh(x.tensor.dtype, (*lead, *x.tensor.shape[depth:]))
    reduction = d.choose.choice(("none", "none", "add", "max", "min")) if number(x.tensor.dtype) else "none"
    return d.apply(ops.scatter_nd, x, where, updates, reduction=reduction)


def one_hot(d: Draw) -> Value | None:
    x = d.pick(number)
    if x is None:
        return None
    return d.apply(ops.one_hot, x, d.fresh(d.dtype(), (2,)), depth=d.dim(), axis=d.choose.randrange(x.tensor.rank + 1))


# --- sizes and counting ---------------------------------------------------------------------------


def counting(d: Draw) -> Value | None:
    """Sizes as data, 0, 1, 2, …, and sizes found in data."""
    match d.choose.choice(("iota", "shape", "range", "non_zero", "non_zero")):
        case "iota":
            return d.apply(ops.iota, size=d.dim(), dtype=d.choose.choice((DType.F32, DType.I64, DType.I32, DType.U8)))
        case "shape":
            return d.apply(ops.shape_values, dims=tuple(d.dim() * d.choose.choice((1, 2)) + d.choose.choice((0, 1))
                                                        for _ in range(d.choose.choice((1, 2, 3)))))
        case "range":
            dtype = d.choose.choice((DType.I64, DType.I32, DType.F32))
            ends = [d.constant(np.array(n), dtype) for n in (d.choose.choice((-2, 0, 3)), d.choose.randrange(9),
                                                             d.choose.choice((1, 2, 3, -1)))]
            if d.depth == 0 and (open_end := d.fresh(dtype, (), hard=False)) is not None:
                ends[1] = open_end
            return d.apply(ops.range_, *ends, symbol=d.symbol("R"))
    return d.apply(ops.non_zero, d.pick(), symbol=d.symbol("Z"))


def draws(d: Draw) -> Value | None:
    """Random numbers, which are functions of a state."""
    state = d.fresh(DType.U64, (2,))
    dtype = d.choose.choice((DType.F32, DType.F32, DType.F64, DType.F16))
    if d.chance(0.5):
        return d.apply(ops.random_uniform, state, shape=d.shape(), dtype=dtype, low=d.choose.choice((0.0, -2.0)))
    return d.apply(ops.random_normal, state, shape=d.shape(), dtype=dtype, mean=d.choose.choice((0.0, 1.5)))


def sort_rows(d: Draw) -> Value | None:
    return d.apply(ops.sort_rows, d.pick(rank=(2,)))


MAKERS: tuple[tuple[Maker, int], ...] = (
    (elementwise, 14), (chain, 4), (reshape, 4), (transpose, 4), (slice_, 4), (broadcast_to, 2), (concat, 4), (pad, 3),
    (trilu, 1), (reduction, 5), (along, 4), (top_k, 1), (gather, 2), (by_element, 2), (by_vector, 1), (one_hot, 1),
    (counting, 2), (sort_rows, 1), (draws, 1),
)
