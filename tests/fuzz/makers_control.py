"""Makers of branches and loops; their regions are random programs themselves."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton.ir import dims, ops
from lepton.ir.core import Graph, Value
from lepton.ir.types import DType
from tests.fuzz.draw import Draw
from tests.fuzz.makers_basic import Maker, number

DEEPEST = 2


def _fill(inner: Draw, nodes: int) -> None:
    from tests.fuzz.programs import grow

    grow(inner, nodes)


def _like(inner: Draw, wanted: Value, stand_in: Value) -> Value:
    """A value of `wanted`'s type that the region made, the last one if there are several; else what went in."""
    fits = [v for v in inner.pool if v.type == wanted.type and v.producer is not None]
    return fits[-1] if fits else stand_in


def _captures(d: Draw, count: int) -> list[Value]:
    fits = [v for v in d.pool if v.producer is None or v.producer.op is not ops.constant] or d.pool
    return list(dict.fromkeys(d.choose.choices(fits, k=count))) if fits else []


def _scalar(d: Draw, dtype: DType, elements: object) -> Value:
    """A scalar from outside if there is room, else a constant."""
    made = d.fresh(dtype, (), hard=False) if d.depth == 0 and d.chance(0.5) else None
    return made if made is not None else d.constant(np.array(elements), dtype)


def _condition(d: Draw) -> Value:
    """bool[]: a comparison of data, or a constant."""
    x = d.pick(number)
    if x is not None and d.chance(0.6):
        total = d.apply(ops.reduce_max, x, axes=tuple(range(x.tensor.rank)))
        made = d.apply(ops.greater, total, d.constant(np.array(1), total.tensor.dtype)) if total is not None else None
        if made is not None:
            return made
    return _scalar(d, DType.BOOL, d.chance(0.5))


def branch(d: Draw) -> Value | None:
    if d.depth >= DEEPEST:
        return None
    cond, captures = _condition(d), _captures(d, d.choose.choice((1, 2, 3)))
    if not captures:
        return None
    wanted = [d.choose.choice(captures) for _ in range(d.choose.choice((1, 1, 2)))]
    regions = []
    for name in ("then", "else"):
        inner = d.inner(captures)
        _fill(inner, d.choose.randrange(5))
        outputs = [_like(inner, w, inner.inputs[captures.index(w)]) for w in wanted]
        regions.append(Graph.of(name, inner.inputs, outputs))
    return d.apply(ops.if_, cond, *captures, regions=regions)


def loop(d: Draw) -> Value | None:
    if d.depth >= DEEPEST:
        return None
    values = _captures(d, d.choose.choice((1, 2, 3)))
    if not values:
        return None
    carried = d.choose.randrange(len(values) + 1)
    trips = d.choose.choice((0, 1, 2, 3, 4))
    trip = d.constant(np.array(trips), DType.I64)
    if d.depth == 0 and d.chance(0.5) and (raw := d.fresh(DType.I64, (), hard=False)) is not None:
        trip = d.apply(ops.mod, raw, d.constant(np.array(5), DType.I64)) or trip
    runs = len(d.envs)
    head = [d.constant(np.array(0), DType.I64), d.constant(np.array(True))]
    inner = d.inner([*head, *values], [[np.array(0)] * runs, [np.array(True)] * runs, *(d.held[v] for v in values)])
    _fill(inner, d.choose.randrange(1, 5))
    going = inner.apply(ops.less, inner.inputs[0], inner.constant(np.array(d.choose.choice((0, 1, 9))), DType.I64))
    assert going is not None
    outputs = [going, *(_like(inner, v, s) for v, s in zip(values[:carried], inner.inputs[2:], strict=False))]
    if not carried or d.chance(0.5):
        # Sizes that no operand mentions are 0 after no rounds, or what they would have been: ONNX leaves that open.
        known = _symbols(values)
        outputs.append(d.choose.choice([v for v in inner.pool if _symbols([v]) <= known][-4:]))
    symbols = tuple(d.symbol("L") for _ in range(8))
    body = Graph.of("body", inner.inputs, outputs)
    return d.apply(ops.loop_, trip if d.chance(0.9) else None, None, *values, carried=carried, symbols=symbols,
                   regions=[body])


def _symbols(values: Sequence[Value]) -> set[str]:
    return {name for v in values for n in v.tensor.shape for name in dims.symbols(n)}


def scan(d: Draw) -> Value | None:
    if d.depth >= DEEPEST:
        return None
    scanned = d.pick(least=1)
    if scanned is None:
        return None
    state = _captures(d, d.choose.choice((0, 1, 1)))
    captures = _captures(d, d.choose.choice((0, 1)))
    axis = d.choose.randrange(scanned.tensor.rank)
    if d.least(scanned.tensor.shape[axis]) < 1:
        return None
    slice_type = Value(scanned.tensor.with_shape([n for a, n in enumerate(scanned.tensor.shape) if a != axis]))
    first = [np.asarray(np.take(x, 0, axis)) for x in d.held[scanned]]
    inner = d.inner([*state, slice_type, *captures],
                    [*(d.held[v] for v in state), first, *(d.held[v] for v in captures)])
    _fill(inner, d.choose.randrange(1, 5))
    outputs = [_like(inner, v, s) for v, s in zip(state, inner.inputs, strict=False)]
    collected = [d.choose.choice(inner.pool[-4:])]
    axes = tuple(d.choose.randrange(v.tensor.rank + 1) for v in collected)
    return d.apply(ops.scan, *state, scanned, *captures, carried=len(state), input_axes=(axis,), output_axes=axes,
                   input_reverse=(d.chance(0.3),), output_reverse=(d.chance(0.3),),
                   regions=[Graph.of("body", inner.inputs, [*outputs, *collected])])


MAKERS: tuple[tuple[Maker, int], ...] = ((branch, 3), (loop, 4), (scan, 2))
