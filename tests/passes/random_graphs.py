"""Random graphs of what the passes know: images and rows, convolutions, products, views, elementwise ops."""
from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.dims import sym
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType

Maker = Callable[[random.Random, list[Value]], Value | None]


def random_graph(seed: int, size: int = 24) -> Graph:
    """A graph of about `size` nodes with up to three outputs; the batch is symbolic in every other graph."""
    choose = random.Random(seed)
    batch = sym("N") if seed % 2 else 2
    inputs = [Value(TensorType(DType.F32, (batch, 4, 6, 6)), name="x"),
              Value(TensorType(DType.F32, (batch, 3, 8)), name="y")]
    pool = list(inputs)
    while len(pool) < size:
        made = choose.choice(MAKERS)(choose, pool)
        if made is not None and made.tensor.rank <= 6 and _moderate(made):
            pool.append(made)
    ends = [v for v in pool[2:] if not v.uses]
    return Graph.of("random", inputs, choose.sample(ends, min(3, len(ends))))


def _moderate(value: Value) -> bool:
    size = 1
    for n in value.tensor.shape:
        size *= n if isinstance(n, int) else 2
    return 0 < size <= 4096


def _constant(choose: random.Random, shape: tuple[int, ...], low: float = -1.0, high: float = 1.0) -> Value:
    values = np.random.default_rng(choose.randrange(1 << 30)).uniform(low, high, shape)
    return ops.constant(value=Tensor.of(values.astype(np.float32)))


def _of_rank(choose: random.Random, pool: list[Value], *ranks: int) -> Value | None:
    fits = [v for v in pool if v.tensor.rank in ranks]
    return choose.choice(fits) if fits else None


def _sizes(value: Value) -> list[int]:
    return [n if isinstance(n, int) else 0 for n in value.tensor.shape]


def conv(choose: random.Random, pool: list[Value]) -> Value | None:
    x = _of_rank(choose, pool, 3, 4)
    if x is None or not isinstance(x.tensor.shape[1], int):
        return None
    channels, rank = x.tensor.shape[1], x.tensor.rank - 2
    group = choose.choice([g for g in (1, 2, channels) if channels % g == 0])
    filters = group * choose.choice((1, 2))
    kernel = choose.choice((1, 1, 3))
    if kernel == 3 and any(n < 2 for n in _sizes(x)[2:]):
        return None
    weight = _constant(choose, (filters, channels // group, *[kernel] * rank))
    bias = _constant(choose, (filters,)) if choose.random() < 0.5 else None
    return ops.conv(x, weight, bias, strides=(choose.choice((1, 2)),) * rank, pads_begin=(kernel // 2,) * rank,
                    pads_end=(kernel // 2,) * rank, dilations=(1,) * rank, group=group)


def pool_op(choose: random.Random, pool: list[Value]) -> Value | None:
    x = _of_rank(choose, pool, 3, 4)
    if x is None or any(n < 2 for n in _sizes(x)[2:]):
        return None
    rank = x.tensor.rank - 2
    op = choose.choice((ops.max_pool, ops.avg_pool))
    return op(x, kernel=(2,) * rank, strides=(choose.choice((1, 2)),) * rank, pads_begin=(0,) * rank,
              pads_end=(1,) * rank, dilations=(1,) * rank)


def unary(choose: random.Random, pool: list[Value]) -> Value:
    op = choose.choice((ops.relu, ops.tanh, ops.sigmoid, ops.neg, ops.abs_, ops.hard_swish, ops.erf))
    return op(choose.choice(pool))


def binary(choose: random.Random, pool: list[Value]) -> Value | None:
    x = choose.choice(pool)
    others = [v for v in pool if v.type == x.type]
    return choose.choice((ops.add, ops.mul, ops.maximum, ops.sub))(x, choose.choice(others))


def with_constant(choose: random.Random, pool: list[Value]) -> Value:
    x = choose.choice(pool)
    static = [n if isinstance(n, int) else 1 for n in x.tensor.shape]
    axis = choose.randrange(len(static)) if static else 0
    shape = tuple(n if a == axis else 1 for a, n in enumerate(static))[choose.choice((0, axis)):]
    c = _constant(choose, choose.choice((shape, (), (1,) if static else ())), 0.5, 1.5)
    return choose.choice((ops.add, ops.mul, ops.sub, ops.div, ops.minimum))(*choose.sample([x, c], 2)
                                                                            if choose.random() < 0.3 else (x, c))


def batch_norm(choose: random.Random, pool: list[Value]) -> Value | None:
    x = _of_rank(choose, pool, 3, 4)
    if x is None or not isinstance(x.tensor.shape[1], int):
        return None
    parameters = [_constant(choose, (x.tensor.shape[1],), 0.5, 1.5) for _ in range(4)]
    return ops.batch_norm(x, *parameters, epsilon=1e-3)


def concat(choose: random.Random, pool: list[Value]) -> Value | None:
    x = _of_rank(choose, pool, 2, 3, 4)
    if x is None:
        return None
    axis = choose.randrange(1, x.tensor.rank)
    fits = [v for v in pool if v.tensor.rank == x.tensor.rank
            and all(m == n for a, (m, n) in enumerate(zip(v.tensor.shape, x.tensor.shape, strict=True)) if a != axis)]
    return ops.concat(*choose.choices(fits, k=choose.choice((1, 2, 3))), axis=axis)


def transpose(choose: random.Random, pool: list[Value]) -> Value:
    x = choose.choice(pool)
    rank = x.tensor.rank
    usual: dict[int, list[tuple[int, ...]]] = {4: [(0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 1, 3)], 3: [(0, 2, 1)]}
    return ops.transpose(x, perm=choose.choice(usual.get(rank) or [tuple(choose.sample(range(rank), rank))]))


def reshape(choose: random.Random, pool: list[Value]) -> Value:
    """Split an axis, merge two, or add an axis of size 1."""
    x = choose.choice(pool)
    shape = list(x.tensor.shape)
    axis = choose.randrange(len(shape)) if shape else 0
    n = shape[axis] if shape else 1
    if isinstance(n, int) and n % 2 == 0 and n > 2 and choose.random() < 0.5:
        shape[axis:axis + 1] = choose.choice(([2, n // 2], [n // 2, 2]))
    elif axis + 1 < len(shape):
        shape[axis:axis + 2] = [shape[axis] * shape[axis + 1]]
    else:
        shape.insert(axis, 1)
    return ops.reshape(x, shape=tuple(shape))


def slice_op(choose: random.Random, pool: list[Value]) -> Value | None:
    x = choose.choice(pool)
    axes = [a for a, n in enumerate(_sizes(x)) if n >= 2]
    if not axes:
        return None
    axis = choose.choice(axes)
    rank, start = x.tensor.rank, choose.choice((0, 1))
    sizes = tuple(n - 1 if a == axis and isinstance(n, int) else n for a, n in enumerate(x.tensor.shape))
    return ops.slice_(x, starts=tuple(start if a == axis else 0 for a in range(rank)), sizes=sizes, steps=(1,) * rank)


def pad(choose: random.Random, pool: list[Value]) -> Value | None:
    x = _of_rank(choose, pool, 3, 4)
    if x is None:
        return None
    amounts = [tuple(choose.choice((0, 0, 1)) if a else 0 for a in range(x.tensor.rank)) for _ in range(2)]
    return ops.pad(x, before=amounts[0], after=amounts[1])


def reduction(choose: random.Random, pool: list[Value]) -> Value | None:
    x = _of_rank(choose, pool, 2, 3, 4)
    if x is None:
        return None
    axes = choose.choice([(x.tensor.rank - 1,), tuple(range(2, x.tensor.rank)) or (1,), (1,)])
    op = choose.choice((ops.reduce_mean, ops.reduce_max, ops.reduce_sum))
    return op(x, axes=axes, keepdims=choose.random() < 0.5)


def softmax(choose: random.Random, pool: list[Value]) -> Value | None:
    x = _of_rank(choose, pool, 2, 3, 4)
    return None if x is None else ops.softmax(x, axis=choose.randrange(1, x.tensor.rank))


def matmul(choose: random.Random, pool: list[Value]) -> Value | None:
    x = _of_rank(choose, pool, 2, 3, 4)
    if x is None or not isinstance(x.tensor.shape[-1], int):
        return None
    return ops.matmul(x, _constant(choose, (x.tensor.shape[-1], choose.choice((1, 4, 8)))))


def gate(choose: random.Random, pool: list[Value]) -> Value | None:
    x = _of_rank(choose, pool, 4)
    return None if x is None else ops.mul(x, ops.sigmoid(ops.reduce_mean(x, axes=(2, 3), keepdims=True)))


MAKERS: tuple[Maker, ...] = (
    conv, conv, conv, pool_op, unary, unary, binary, binary, with_constant, with_constant, batch_norm, concat,
    transpose, reshape, reshape, slice_op, pad, reduction, softmax, matmul, gate,
)
