"""Random networks of layers with constant weights, compressed at random: what single random nodes hardly ever come to.

Products, convolutions, look-ups, recurrent layers and attention as exporters write it, then any recipe of
`lepton.compress`: bytes and 16-bit activations, weights alone in few bits, palettes, zeros in patterns, bytes in
recurrent layers; and halves. A program's meaning is that of the graph after compression."""
from __future__ import annotations

import random
import warnings
from contextlib import suppress
from typing import Any

import numpy as np

from lepton.compress.quantize import Calibration, recipe_of
from lepton.ir import dims, ops
from lepton.ir.core import Graph, Value, clone
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType
from lepton.passes.halves import Halves
from tests.fuzz.draw import Draw
from tests.fuzz.makers_layers import GATES
from tests.fuzz.programs import Program, graph_of

WIDTHS = (1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 40, 48, 64)
CHANNELS = (1, 3, 4, 8, 16, 17)
ACTIVATIONS = (ops.relu, ops.gelu, ops.sigmoid, ops.tanh, ops.abs_, ops.hard_swish)
PATTERNS = ("16x1", "16x4", "4x1", "2:4", "unstructured")


def layered_program(seed: int) -> Program:
    """The network that this seed stands for: one to four layers, open or known sizes, two runs."""
    choose = random.Random(seed)
    envs: list[dict[str, int]] = [{}]
    if choose.random() < 0.6:
        envs = [{"N": choose.choice((1, 2, 3, 5, 8, 17))} for _ in range(2)]
    batch: Dim = dims.sym("N") if envs[0] else choose.choice((1, 2, 3, 8, 33))
    while True:
        d = Draw(choose, np.random.default_rng(choose.randrange(2**32)), envs, hard=False)
        with suppress(TooLargeError):
            end = choose.choice((rows, rows, images, images, lookups, sequences, heads))(d, batch)
            break
    runs = [[d.held[v][run] for v in d.inputs] for run in range(len(envs))]
    return Program(seed, compressed(graph_of(f"l{seed}", d.inputs, [end]), runs, choose), runs)


class TooLargeError(Exception):
    """A layer's results have more elements than `Draw` makes: to be drawn anew."""


def made(value: Value | None) -> Value:
    if value is None:
        raise TooLargeError
    return value


def fed(d: Draw, shape: tuple[Dim, ...], dtype: DType = DType.F32) -> Value:
    """An input, never a constant, which would fold away."""
    value = Value(TensorType(dtype, shape), name=f"x{len(d.inputs)}")
    d.inputs.append(value)
    sizes = [[dims.evaluate(n, env) for n in shape] for env in d.envs]
    d.hold(value, [d.rng.standard_normal(s).astype(np.float32) if dtype is DType.F32 else d.rng.integers(-2, 2, s)
                   for s in sizes])
    return value


def weight(d: Draw, *shape: int) -> Value:
    scale = 1 / np.sqrt(max(1, int(np.prod(shape[1:]))))
    return d.constant((d.rng.standard_normal(shape) * scale).astype(np.float32))


def number(d: Draw, x: float) -> Value:
    return d.constant(np.float32(x))


def after(d: Draw, x: Value, before: Value, channels: int) -> Value:
    """Now and then a bias, an activation, a residual sum."""
    if d.chance(0.6):
        view = (channels, *[1] * (x.tensor.rank - 2)) if x.tensor.rank == 4 else (channels,)
        x = made(d.apply(ops.add, x, weight(d, *view)))
    if d.chance(0.6):
        x = made(d.apply(d.choose.choice(ACTIVATIONS), x))
    if x.tensor.shape == before.tensor.shape and d.chance(0.4):
        x = made(d.apply(ops.add, x, before))
    return x


def rows(d: Draw, batch: Dim, start: Value | None = None) -> Value:
    """Products of matrices, on two or three axes."""
    leading = (batch,) if d.chance(0.6) else (batch, d.choose.choice((1, 3, 9)))
    x = start if start is not None else fed(d, (*leading, d.choose.choice(WIDTHS)))
    for _ in range(d.choose.choice((1, 2, 3))):
        inner, columns = x.tensor.shape[-1], d.choose.choice(WIDTHS)
        assert isinstance(inner, int)
        x = after(d, made(d.apply(ops.matmul, x, weight(d, inner, columns))), x, columns)
    return x


def images(d: Draw, batch: Dim) -> Value:
    """Convolutions of every kind, pooling between them."""
    x = fed(d, (batch, d.choose.choice(CHANNELS), d.choose.choice((3, 6, 9)), d.choose.choice((1, 5, 12))))
    for _ in range(d.choose.choice((1, 2, 3))):
        channels = x.tensor.shape[1]
        assert isinstance(channels, int)
        group = d.choose.choice([1, 1, channels, *(g for g in (2, 4) if channels % g == 0)])
        filters = group * d.choose.choice((1, 1, 2) if group == channels else (1, 3, 8, 16))
        kernel = (d.choose.choice((1, 3, 3, 5)), d.choose.choice((1, 3, 3)))
        window: dict[str, Any] = {
            "strides": (d.choose.choice((1, 1, 2)),) * 2, "dilations": (d.choose.choice((1, 1, 1, 2)),) * 2,
            "pads_begin": kernel, "pads_end": (kernel[0], kernel[1] // 2), "group": group}
        y = made(d.apply(ops.conv, x, weight(d, filters, channels // group, *kernel), None, **window))
        x = after(d, y, x, filters)
        if d.chance(0.3):
            x = made(d.apply(d.choose.choice((ops.max_pool, ops.avg_pool)), x, kernel=(2, 2), strides=(2, 2),
                             pads_begin=(1, 1), pads_end=(1, 1), dilations=(1, 1)))
    return x


def lookups(d: Draw, batch: Dim) -> Value:
    """Rows of a table, and what is made of them."""
    table = weight(d, d.choose.choice((2, 5, 40)), d.choose.choice(WIDTHS))
    return rows(d, batch, made(d.apply(ops.gather, table, fed(d, (batch,), DType.I64), axis=0)))


def sequences(d: Draw, batch: Dim) -> Value:
    """A recurrent layer or two; only the last steps' states of some."""
    x = fed(d, (d.choose.choice((1, 2, 7)), batch, d.choose.choice(WIDTHS[:10])))
    for _ in range(d.choose.choice((1, 1, 2))):
        op, hidden = d.choose.choice(tuple(GATES)), d.choose.choice(WIDTHS[:12])
        direction = d.choose.choice(("forward", "reverse", "bidirectional"))
        ways, gates, size = 2 if direction == "bidirectional" else 1, GATES[op], x.tensor.shape[-1]
        assert isinstance(size, int)
        bias = weight(d, ways, 2 * gates * hidden) if d.chance(0.7) else None
        more: dict[str, Any] = {"linear_before_reset": d.chance(0.5)} if op is ops.gru else {}
        node = d.node(op, x, weight(d, ways, gates * hidden, size), weight(d, ways, gates * hidden, hidden), bias,
                      hidden=hidden, direction=direction, **more)
        if node is None:
            raise TooLargeError
        if d.chance(0.2):
            return node.results[1]
        steps = made(d.apply(ops.transpose, node.results[0], perm=(0, 2, 1, 3)))
        x = made(d.apply(ops.reshape, steps, shape=(x.tensor.shape[0], batch, ways * hidden)))
    return rows(d, batch, x) if d.chance(0.5) else x


def heads(d: Draw, batch: Dim) -> Value:
    """Attention as exporters write it: three products, heads apart, scores scaled here or there, masks of some kind."""
    count, size = d.choose.choice((1, 2, 4)), d.choose.choice((4, 8, 16))
    length, width = d.choose.choice((1, 3, 8, 17)), count * size
    x = fed(d, (batch, length, width))
    y = x if d.chance(0.7) else fed(d, (batch, d.choose.choice((1, 5, 9)), width))
    q, k, v = (split(d, source, count, size) for source in (x, y, y))
    if early := d.chance(0.5):
        q = made(d.apply(ops.mul, q, number(d, size**-0.5)))
    scores = made(d.apply(ops.matmul, q, made(d.apply(ops.transpose, k, perm=(0, 1, 3, 2)))))
    if not early:
        scores = made(d.apply(ops.div, scores, number(d, size**0.5)))
    weights = made(d.apply(ops.softmax, masked(d, scores, batch), axis=3))
    mixed = made(d.apply(ops.transpose, made(d.apply(ops.matmul, weights, v)), perm=(0, 2, 1, 3)))
    joined = made(d.apply(ops.reshape, mixed, shape=(batch, length, width)))
    return after(d, made(d.apply(ops.matmul, joined, weight(d, width, width))), x, width)


def split(d: Draw, x: Value, count: int, size: int) -> Value:
    """[batch, heads, length, size] of what x becomes."""
    batch, length, width = x.tensor.shape
    assert isinstance(width, int)
    y = made(d.apply(ops.matmul, x, weight(d, width, width)))
    if d.chance(0.7):
        y = made(d.apply(ops.add, y, weight(d, width)))
    return made(d.apply(ops.transpose, made(d.apply(ops.reshape, y, shape=(batch, length, count, size))),
                        perm=(0, 2, 1, 3)))


def masked(d: Draw, scores: Value, batch: Dim) -> Value:
    _, count, s, t = scores.tensor.shape
    assert isinstance(count, int)
    assert isinstance(s, int)
    assert isinstance(t, int)
    match d.choose.randrange(5):
        case 0:
            return made(d.apply(ops.add, scores, fed(d, (batch, 1, 1, t))))
        case 1:
            return made(d.apply(ops.add, scores, weight(d, 1, count, s, t)))
        case 2:
            seen = d.constant(np.tril(np.ones((1, 1, s, t), np.bool_)))
            return made(d.apply(ops.where, seen, scores, number(d, -1e9)))
        case 3:
            hidden = np.where(np.tril(np.ones((s, t), np.bool_)), np.float32(0), np.float32(-np.inf))
            return made(d.apply(ops.add, scores, d.constant(hidden)))
        case _:
            return scores


# --- compression ----------------------------------------------------------------------------------


def compressed(graph: Graph, runs: list[list[Array]], choose: random.Random) -> Graph:
    """The graph by a recipe drawn at random; itself where nothing of it can be compressed so."""
    recipe = drawn_recipe(choose)
    data = [dict(zip((v.name for v in graph.inputs), arrays, strict=True)) for arrays in runs]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            smaller = Calibration.of(clone(graph), data).quantize(recipe_of(recipe))
    except LeptonError:
        smaller = graph
    if choose.random() < 0.25:
        Halves(choose.choice(("bf16", "fp16"))).run(smaller)
    return smaller


def drawn_recipe(choose: random.Random) -> dict[str, Any]:
    kind = choose.choice(("static", "static", "static", "dynamic", "weights", "weights", "palette", "float"))
    recipe: dict[str, Any] = {"kind": kind}
    if kind == "static":
        recipe |= {"activations": choose.choice(("u8", "i8", "u16", "i16")), "equalize": choose.random() < 0.2,
                   "ranges": choose.choice(("minmax", "mse", "percentile"))}
    if kind == "weights":
        bits = choose.choice((4, 8))
        recipe |= {"bits": bits, "block": choose.choice((0, 16, 32)), "embeddings": choose.random() < 0.5}
    if kind == "palette":
        recipe |= {"bits": choose.choice((2, 3, 4, 6)), "embeddings": choose.random() < 0.5}
    if choose.random() < (0.9 if kind == "float" else 0.3):
        recipe |= {"prune": choose.choice((0.3, 0.5, 0.8)), "pattern": choose.choice(PATTERNS)}
    return recipe
