"""Makers of products, convolutions, pools, norms, recurrent layers, quantisation, resizing."""
from __future__ import annotations

from typing import Any

from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.dims import Dim
from lepton.ir.types import DType
from tests.fuzz.draw import Draw
from tests.fuzz.makers_basic import Maker, number, wide_float


def matmul(d: Draw) -> Value | None:
    a = d.pick(number, least=1)
    if a is None:
        return None
    t = a.tensor
    fits = [v for v in d.pool if v.tensor.dtype is t.dtype and v.tensor.rank
            and v.tensor.shape[max(0, v.tensor.rank - 2)] == t.shape[-1]]
    if fits and d.chance(0.4):
        b: Value | None = d.choose.choice(fits)
    else:
        batch = t.shape[:-2][d.choose.randrange(max(1, t.rank - 1)):]
        columns = () if d.chance(0.1) else (d.dim(),)
        b = d.fresh(t.dtype, (*(batch if columns else ()), t.shape[-1], *columns))
    return d.apply(ops.matmul, a, b)


def matmul_integer(d: Draw) -> Value | None:
    kinds = (DType.I8, DType.U8)
    a = d.pick(lambda t: t in kinds, least=1)
    if a is None:
        return None
    b = d.fresh(d.choose.choice(kinds), (a.tensor.shape[-1], d.dim()))
    if b is None:
        return None
    rows = a.tensor.shape[-2:-1] if d.chance(0.3) and a.tensor.rank > 1 else ()
    za = d.fresh(a.tensor.dtype, rows) if d.chance(0.5) else None
    zb = d.fresh(b.tensor.dtype, b.tensor.shape[-1:] if d.chance(0.3) else ()) if d.chance(0.5) else None
    return d.apply(ops.matmul_integer, a, b, za, zb)


def matmul_coded(d: Draw) -> Value | None:
    x = d.pick(lambda t: t is DType.F32, least=1)
    dtype = d.choose.choice((DType.U8, DType.I8, DType.U4, DType.U4, DType.I4, DType.U2, DType.I2))
    if x is None:
        return None
    inner, columns, block = x.tensor.shape[-1], d.dim(), d.choose.choice((1, 2, 4, 16, 32))
    codes = d.fresh(dtype, (inner, columns))
    blocks = dims.ceildiv(inner, block), columns
    scale = d.fresh(DType.F32, blocks, hard=False)
    zero = d.fresh(DType.F32, blocks, hard=False) if d.chance(0.4) else None
    table = d.fresh(DType.F32, (1 << dtype.bits,), hard=False) if not dtype.is_signed and d.chance(0.3) else None
    return d.apply(ops.matmul_coded, x, codes, scale, zero, table, block=block)


def attention(d: Draw) -> Value | None:
    dtype = d.choose.choice((DType.F32, DType.F32, DType.F16, DType.F64))
    batch, heads, s, t, size, out = (d.dim(zero=False) for _ in range(6))
    q, k = d.fresh(dtype, (batch, heads, s, size)), d.fresh(dtype, (batch, heads, t, size))
    v = d.fresh(dtype, (batch, heads, t, out))
    mask = d.fresh(dtype, d.choose.choice(((s, t), (1, t), (batch, 1, 1, t)))) if d.chance(0.4) else None
    if q is None or k is None or v is None:
        return None
    return d.apply(ops.attention, q, k, v, mask, scale=d.choose.choice((0.3, 1.0)))


# --- windows --------------------------------------------------------------------------------------


def image(d: Draw, kind: Any = wide_float) -> Value | None:
    """A value with a batch, channels and one to three spatial axes."""
    x = d.pick(kind, rank=(3, 4, 4, 4, 5))
    if x is None or d.chance(0.3):
        rank = d.choose.choice((1, 2, 2, 2, 3))
        dtypes = [t for t in (DType.F32, DType.F32, DType.F32, DType.F64, DType.F16, DType.I8, DType.U8) if kind(t)]
        x = d.fresh(d.choose.choice(dtypes), (d.dim(), d.choose.choice((1, 2, 3, 4, 8, 16)),
                                              *(d.dim() for _ in range(rank)))) or x
    return x


def window(d: Draw, rank: int, kernel: tuple[int, ...], *, pads: bool = True) -> dict[str, Any]:
    def draw(*values: int) -> tuple[int, ...]:
        return tuple(d.choose.choice(values) for _ in range(rank))

    around = [tuple(d.choose.choice((0, 0, k // 2, 1)) if pads else 0 for k in kernel) for _ in range(2)]
    if d.chance(0.4):
        around[1] = around[0]
    return {"strides": draw(1, 1, 2, 3) if d.chance(0.5) else (1,) * rank,
            "dilations": draw(1, 1, 2) if d.chance(0.3) else (1,) * rank,
            "pads_begin": around[0], "pads_end": around[1]}


def _kernel(d: Draw, rank: int) -> tuple[int, ...]:
    return d.choose.choice(((1,) * rank, (3,) * rank, tuple(d.choose.choice((1, 2, 3, 5)) for _ in range(rank))))


def conv(d: Draw) -> Value | None:
    x = image(d)
    if x is None or not isinstance(x.tensor.shape[1], int):
        return None
    channels, rank = x.tensor.shape[1], x.tensor.rank - 2
    if not channels:
        return None
    group = d.choose.choice([1, 1, *(g for g in (2, channels) if channels % g == 0)])
    filters = group * d.choose.choice((1, 1, 2, 3, 8))
    kernel = _kernel(d, rank)
    w = d.fresh(x.tensor.dtype, (filters, channels // group, *kernel))
    b = d.fresh(x.tensor.dtype, (filters,)) if d.chance(0.5) else None
    return d.apply(ops.conv, x, w, b, group=group, **window(d, rank, kernel))


def conv_integer(d: Draw) -> Value | None:
    x = image(d, lambda t: t in (DType.I8, DType.U8))
    if x is None or not isinstance(x.tensor.shape[1], int) or not x.tensor.shape[1]:
        return None
    rank = x.tensor.rank - 2
    kernel = _kernel(d, rank)
    w = d.fresh(d.choose.choice((DType.I8, DType.U8)), (d.choose.choice((1, 3, 8)), x.tensor.shape[1], *kernel))
    if w is None:
        return None
    zx = d.fresh(x.tensor.dtype, ()) if d.chance(0.5) else None
    zw = d.fresh(w.tensor.dtype, d.choose.choice(((), w.tensor.shape[:1]))) if d.chance(0.5) else None
    return d.apply(ops.conv_integer, x, w, zx, zw, **window(d, rank, kernel))


def conv_transpose(d: Draw) -> Value | None:
    x = image(d)
    if x is None or not isinstance(x.tensor.shape[1], int) or not x.tensor.shape[1]:
        return None
    channels, rank = x.tensor.shape[1], x.tensor.rank - 2
    group = d.choose.choice([1, 1, *(g for g in (2, channels) if channels % g == 0)])
    kernel = _kernel(d, rank)
    filters = d.choose.choice((1, 2, 5))
    w = d.fresh(x.tensor.dtype, (channels, filters, *kernel))
    b = d.fresh(x.tensor.dtype, (filters * group,)) if d.chance(0.5) else None
    attrs = window(d, rank, kernel)
    extra = tuple(d.choose.randrange(s) for s in attrs["strides"])
    return d.apply(ops.conv_transpose, x, w, b, group=group, output_padding=extra, **attrs)


POOLS = (ops.max_pool, ops.max_pool, ops.avg_pool, ops.avg_pool, ops.lp_pool, ops.max_pool_indices)


def pool(d: Draw) -> Value | None:
    op = d.choose.choice(POOLS)
    x = image(d, number if op in (ops.max_pool, ops.max_pool_indices) else wide_float)
    if x is None:
        return None
    rank = x.tensor.rank - 2
    kernel = tuple(d.choose.choice((1, 2, 2, 3)) for _ in range(rank))
    more: dict[str, Any] = {"ceil_mode": d.chance(0.3)}
    if op is ops.avg_pool:
        more["count_include_pad"] = d.chance(0.5)
    if op is ops.lp_pool:
        more["p"] = d.choose.choice((1, 2, 3))
    if op is ops.max_pool_indices:
        more["storage_order"] = d.choose.choice((0, 0, 1))
    attrs = window(d, rank, kernel, pads=max(kernel) > 1)
    if op is ops.max_pool_indices:  # of a window in the padding alone, which dilation makes, there is no index to tell
        attrs["dilations"] = (1,) * rank
        if min(map(d.least, x.tensor.shape[2:])) < 1:
            return None
    for side in ("pads_begin", "pads_end"):  # no window may lie in the padding alone
        attrs[side] = tuple(min(p, k - 1) for p, k in zip(attrs[side], kernel, strict=True))
    return d.apply(op, x, kernel=kernel, **attrs, **more)


# --- norms ----------------------------------------------------------------------------------------


def norm(d: Draw) -> Value | None:
    x = d.pick(wide_float, least=2)
    if x is None:
        return None
    dtype, shape = x.tensor.dtype, x.tensor.shape

    def vector(size: Dim) -> Value | None:
        return d.fresh(dtype, (size,), hard=False)

    match d.choose.choice(("batch", "instance", "group", "layer", "layer", "rms", "lrn")):
        case "batch":
            var = vector(shape[1])
            var = d.apply(ops.abs_, var) if var is not None else None
            return d.apply(ops.batch_norm, x, vector(shape[1]), vector(shape[1]), vector(shape[1]), var, epsilon=1e-3)
        case "instance":
            return d.apply(ops.instance_norm, x, vector(shape[1]), vector(shape[1]), epsilon=1e-3)
        case "group":
            groups = d.choose.choice([g for g in (1, 2, 3, 4) if not isinstance(shape[1], int) or shape[1] % g == 0])
            return d.apply(ops.group_norm, x, vector(shape[1]), vector(shape[1]), groups=groups, epsilon=1e-3)
        case "lrn":
            return d.apply(ops.lrn, x, size=d.choose.choice((1, 3, 4, 5)), alpha=0.1, bias=1.0,
                           beta=d.choose.choice((0.75, 0.75, 0.5, 0.6, 1.0)), layout=d.choose.choice(("nchw", "nhwc")))
        case kind:
            axis = d.choose.randrange(x.tensor.rank)
            scale, bias = (d.fresh(dtype, shape[axis:], hard=False) for _ in range(2))
            if kind == "rms":
                return d.apply(ops.rms_norm, x, scale, axis=axis, epsilon=1e-3)
            return d.apply(ops.layer_norm, x, scale, bias if d.chance(0.7) else None, axis=axis, epsilon=1e-3)


# --- recurrent ------------------------------------------------------------------------------------

GATES = {ops.lstm: 4, ops.gru: 3, ops.rnn: 1}


def recurrent(d: Draw) -> Value | None:
    op = d.choose.choice(tuple(GATES))
    direction = d.choose.choice(("forward", "reverse", "bidirectional"))
    ways, gates = 2 if direction == "bidirectional" else 1, GATES[op]
    dtype = d.choose.choice((DType.F32, DType.F32, DType.F64))
    hidden, size = d.choose.choice((1, 2, 5, 8, 17)), d.choose.choice((1, 3, 8))
    steps, batch = d.dim(), d.dim(zero=False)
    layout = d.choose.choice((0, 0, 0, 1))

    def maybe(kind: DType, *shape: Dim) -> Value | None:
        return d.fresh(kind, shape, hard=False) if d.chance(0.4) else None

    state = (ways, batch, hidden) if layout == 0 else (batch, ways, hidden)
    x = d.fresh(dtype, (steps, batch, size) if layout == 0 else (batch, steps, size))
    w, r = d.fresh(dtype, (ways, gates * hidden, size), hard=False), d.fresh(dtype, (ways, gates * hidden, hidden),
                                                                              hard=False)
    if x is None or w is None or r is None:
        return None
    operands = [x, w, r, maybe(dtype, ways, 2 * gates * hidden), None, maybe(dtype, *state)]
    more: dict[str, Any] = {"clip": d.choose.choice((0.0, 0.0, 0.5))}
    if op is ops.lstm:
        operands += [maybe(dtype, *state), maybe(dtype, ways, 3 * hidden)]
        more["input_forget"] = d.chance(0.2)
    if op is ops.gru:
        more["linear_before_reset"] = d.chance(0.5)
    return d.apply(op, *operands, hidden=hidden, direction=direction, layout=layout, **more)


# --- quantisation, resizing, the rest -------------------------------------------------------------


def quantize(d: Draw) -> Value | None:
    x = d.pick(lambda t: t in (DType.F32, DType.F16, DType.BF16), least=1)
    if x is None:
        return None
    to = d.choose.choice((DType.I8, DType.U8, DType.I8, DType.U8, DType.I16, DType.I4, DType.U4, DType.F8E4M3FN,
                          DType.F8E5M2))
    axis = d.choose.randrange(x.tensor.rank)
    shape, block = _granularity(d, x, axis)
    scale = d.fresh(x.tensor.dtype, shape, hard=False)
    scale = d.apply(ops.clip, scale, d.constant(0.05, x.tensor.dtype)) if scale is not None else None
    zero = d.fresh(to, shape, hard=False) if d.chance(0.5) else None
    return d.apply(ops.quantize, x, scale, zero, axis=axis, to=to, block=block)


def dequantize(d: Draw) -> Value | None:
    kinds = (DType.I8, DType.U8, DType.I16, DType.I32, DType.I4, DType.U4, DType.F8E4M3FN, DType.F8E5M2)
    x = d.pick(lambda t: t in kinds, least=1)
    if x is None:
        return None
    axis = d.choose.randrange(x.tensor.rank)
    shape, block = _granularity(d, x, axis)
    scale = d.fresh(d.choose.choice((DType.F32, DType.F32, DType.F16)), shape)
    zero = d.fresh(x.tensor.dtype, shape) if d.chance(0.5) else None
    return d.apply(ops.dequantize, x, scale, zero, axis=axis, block=block)


def _granularity(d: Draw, x: Value, axis: int) -> tuple[tuple[Dim, ...], int]:
    """The shape of scales: one for all, one per place of the axis, or one per block."""
    match d.choose.choice(("all", "all", "axis", "block")):
        case "axis":
            return (x.tensor.shape[axis],), 0
        case "block":
            block = d.choose.choice((1, 2, 3))
            return tuple((n + block - 1) // block if a == axis else n for a, n in enumerate(x.tensor.shape)), block
    return (), 0


def dynamic_quantize(d: Draw) -> Value | None:
    node = d.node(ops.dynamic_quantize, d.pick(wide_float))
    return None if node is None else node.results[0]


COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")


def resize(d: Draw) -> Value | None:
    x = d.pick(wide_float, rank=(1, 2, 3, 4))
    if x is None:
        return None
    free = {a for a in range(x.tensor.rank) if a >= x.tensor.rank - 2 and d.chance(0.7)}
    sizes = tuple(d.choose.choice((n * 2, n * 3, d.choose.choice((1, 2, 5, 9)), n)) if a in free else n
                  for a, n in enumerate(x.tensor.shape))
    mode = d.choose.choice(("nearest", "nearest", "linear", "linear", "cubic"))
    return d.apply(ops.resize, x, sizes=sizes, mode=mode, coordinates=d.choose.choice(COORDINATES),
                   nearest=d.choose.choice(("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
                   exclude_outside=mode == "cubic" and d.chance(0.3), antialias=mode != "nearest" and d.chance(0.2))


def det(d: Draw) -> Value | None:
    n = d.choose.choice((1, 2, 3, 5))
    lead = d.shape(d.choose.choice((0, 1, 2)))
    return d.apply(ops.det, d.fresh(d.choose.choice((DType.F32, DType.F64)), (*lead, n, n), hard=False))


MAKERS: tuple[tuple[Maker, int], ...] = (
    (matmul, 5), (matmul_coded, 1), (matmul_integer, 1), (attention, 1), (conv, 4), (conv_integer, 1),
    (conv_transpose, 1), (pool, 3),
    (norm, 3), (recurrent, 1), (quantize, 1), (dequantize, 1), (dynamic_quantize, 1), (resize, 2), (det, 1),
)
