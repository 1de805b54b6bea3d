"""What is worth measuring: schedules that compete for a kernel, and which ones code can be made for."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from lepton.codegen.group import Group
from lepton.codegen.lower import conv_cost, matmul_cost
from lepton.codegen.lower.conv_cost import Shape
from lepton.codegen.lower.matmul_cost import Problem
from lepton.codegen.schedule import Choice, Schedule, known, words
from lepton.codegen.target import Target
from lepton.codegen.templates.depthwise import tile_width
from lepton.codegen.templates.dots import FMA, Dot
from lepton.codegen.templates.tiles import MOST_ROWS, WIDTHS, Tile, candidates, most_rows, sweep_cost
from lepton.codegen.templates.winograd import OUTPUT, saving
from lepton.ir.types import DType

T = TypeVar("T")
TILES = 10            # the most promising by the cost model
SPREAD = 1.6          # of the least cost: what is dearer is not worth a try
LEAST_SAVING = 0.75   # of a direct convolution's multiplications, for Winograd's form to be tried
DEEPEST_TILE = 4      # output rows of a direct convolution's tile


def gemm_choice(group: Group, target: Target, problem: Problem, dtype: DType, dot: Dot = FMA) -> Choice:
    """A matrix product. Of narrow elements, `problem` counts groups of them and `dtype` is what a group fills."""
    sizes = (*problem.batch, problem.m, problem.n, problem.k, *problem.a[-2:])
    moving = () if problem.weights is not None else problem.b[-2:]
    key = words(gemm=group.name, type=_type(dtype, dot), batch=(*problem.batch, 1), m=problem.m, n=problem.n,
                k=problem.k, a=problem.a[-2:], b=moving or "packed") if known(sizes, moving) and all(sizes[:-2]) else ""

    def others() -> list[Schedule]:
        rows, columns, k = (n for n in (problem.m, problem.n, problem.k) if isinstance(n, int))
        tiles = {t for limit in (6, 14, MOST_ROWS) for t in candidates(target, rows, limit, dot)}
        tiles = {t for t in tiles if t.vectors <= -(-columns // target.lanes(dtype))}
        ranked = _ranked(tiles, lambda t: sweep_cost(target, t, rows, columns, k, dtype))
        return [matmul_cost.with_blocks(target, problem, t, dtype) for t in ranked]

    def around(best: Schedule) -> list[Schedule]:
        rows, panels = map(_int, best.block)
        whole = -(-_int(problem.m) // best.tile[0]) * best.tile[0]
        most = -(-_int(problem.n) // (best.tile[1] * target.lanes(dtype)))
        cuts = [(r, p) for r in _near(rows, best.tile[0], whole) for p in _near(panels, 1, most)]
        return [replace(best, block=cut, order=order) for cut in cuts for order in ("rows", "columns")]

    def legal(s: Schedule) -> bool:
        return (s.form == "gemm" and (len(s.tile), len(s.block)) == (2, 2) and s.tile[1] in WIDTHS
                and s.tile[0] <= most_rows(target, s.tile[1], dot) and _divides(s.tile[0], s.block[0]))

    return Choice(group, key, lambda: matmul_cost.gemm_schedule(target, problem, dtype, dot), others, around, legal)


def conv_choice(group: Group, target: Target, shape: Shape, dot: Dot = FMA, *, winograd: bool = False) -> Choice:
    """A convolution that is no product: direct, or in Winograd's form where that is allowed."""
    sizes = (shape.images, shape.out, shape.into, shape.pads, shape.x)
    forms = ("direct", *("winograd",) * (winograd and conv_cost.can_winograd(shape)))
    key = words(conv=group.name, type=_type(shape.dtype, dot), n=shape.images, out=shape.out, into=shape.into,
                groups=shape.groups, c=shape.channels, f=shape.filters, kernel=shape.kernel, strides=shape.strides,
                dilations=shape.dilations, pads=shape.pads, x=shape.x, by="|".join(forms)) if known(*sizes) else ""

    def model() -> Schedule:
        if "winograd" in forms and conv_cost.suits_winograd(shape):
            return conv_cost.winograd_schedule(target, shape)
        return conv_cost.direct_schedule(target, shape, dot)

    def others() -> list[Schedule]:
        thin = shape.thinned()
        ranked = _ranked(conv_cost.direct_tiles(target, thin, dot, MOST_ROWS, DEEPEST_TILE),
                         lambda t: conv_cost.sweep(target, thin, t, conv_cost.whole(target, thin)))
        found = [conv_cost.with_direct_blocks(target, thin, t) for t in ranked]
        if "winograd" in forms and saving((_int(shape.out[1]), _int(shape.out[2])), shape.channels,
                                          shape.filters) > LEAST_SAVING:
            found = [*_winograd_others(target, shape), *found]
        return found

    def around(best: Schedule) -> list[Schedule]:
        if best.form == "winograd":
            return _winograd_blocks(target, shape, best)
        high, wide, panels = (_int(n) for n in best.block)
        tall, broad, vectors = best.tile
        most = -(-shape.filters // (vectors * target.lanes(shape.dtype)))
        return [replace(best, block=(h, w, p)) for h in _near(high, tall, _int(shape.out[1]))
                for w in _near(wide, broad, _int(shape.out[2]), few=True) for p in _near(panels, 1, most, few=True)]

    return Choice(group, key, model, others, around, lambda s: s.form in forms and _legal(target, shape, dot, s))


def depthwise_choice(group: Group, target: Target, shape: Shape, reads: DType) -> Choice:
    """A filter for each channel; what it reads may be bytes."""
    sizes = (shape.images, shape.out, shape.into, shape.pads, shape.x)
    key = words(depthwise=group.name, type=_type(reads, FMA), n=shape.images, out=shape.out, into=shape.into,
                c=shape.groups, kernel=shape.kernel, strides=shape.strides, dilations=shape.dilations, pads=shape.pads,
                x=shape.x) if known(*sizes) else ""
    most = tile_width(target, shape.kernel[2])

    def others() -> list[Schedule]:
        model = conv_cost.depthwise_schedule(target, shape)
        wide = _int(shape.out[2])
        widths = {-(-wide // -(-wide // w)) for w in range(1, most + 1)}
        return [replace(model, tile=(w,)) for w in sorted(widths, reverse=True)]

    def around(best: Schedule) -> list[Schedule]:
        return [replace(best, block=(h,)) for h in _near(_int(best.block[0]), 1, _int(shape.out[1]))]

    def legal(s: Schedule) -> bool:
        return s.form == "depthwise" and (len(s.tile), len(s.block)) == (1, 1) and s.tile[0] <= most

    return Choice(group, key, lambda: conv_cost.depthwise_schedule(target, shape), others, around, legal)


# --- parts ----------------------------------------------------------------------------------------


def _type(dtype: DType, dot: Dot) -> str:
    """`f32`, or how narrow elements are multiplied."""
    return {1: dtype.name, 2: "bf16"}.get(dot.group, "i8" + ("flipped" if dot.flip else "")).lower()


def _ranked(found: Iterable[T], cost: Callable[[T], float]) -> list[T]:
    """The cheapest, cheapest first."""
    costs = sorted(((cost(t), i, t) for i, t in enumerate(sorted(found, key=repr))), key=lambda row: row[:2])
    return [t for c, _, t in costs[:TILES] if c <= SPREAD * costs[0][0]]


def _near(size: int, step: int, most: int, few: bool = False) -> list[int]:
    """Block sizes to try beside `size`: multiples of `step`, and all of `most`."""
    shares = (0.5, 2) if few else (0.25, 0.5, 2)
    found = [size, *(max(step, int(size * share) // step * step) for share in shares), most]
    return list(dict.fromkeys(n if n < most else most for n in found))


def _int(dim: object) -> int:
    assert isinstance(dim, int)
    return dim


def _divides(step: int, block: object) -> bool:
    return isinstance(block, int) and block % step == 0


def _legal(target: Target, shape: Shape, dot: Dot, s: Schedule) -> bool:
    if s.form == "winograd":
        return (len(s.tile), len(s.block)) == (2, 2) and _fits(target, s.tile, FMA)
    if (len(s.tile), len(s.block)) != (3, 3) or not _fits(target, (s.tile[0] * s.tile[1], s.tile[2]), dot):
        return False
    return all(_divides(t, b) or b == n for t, b, n in zip(s.tile[:2], s.block[:2], shape.out[1:], strict=True))


def _fits(target: Target, tile: Sequence[int], dot: Dot) -> bool:
    return tile[1] in WIDTHS and tile[0] <= most_rows(target, tile[1], dot)


def _winograd_others(target: Target, shape: Shape) -> list[Schedule]:
    """Other tiles for the rows of tiles that the cost model takes."""
    model = conv_cost.winograd_schedule(target, shape)
    rows = _int(model.block[0]) * -(-_int(shape.out[2]) // OUTPUT)
    tiles = {t for limit in (6, 14, MOST_ROWS) for t in candidates(target, rows, limit)}
    ranked = _ranked((t for t in tiles if t.vectors <= -(-shape.filters // target.lanes(shape.dtype))),
                     lambda t: sweep_cost(target, t, rows, shape.filters, shape.channels, shape.dtype))
    return [model, *(conv_cost.with_winograd_blocks(target, shape, t, _int(model.block[0])) for t in ranked)]


def _winograd_blocks(target: Target, shape: Shape, best: Schedule) -> list[Schedule]:
    rows, panels = (_int(n) for n in best.block)
    most = -(-shape.filters // (best.tile[1] * target.lanes(shape.dtype)))
    high = -(-_int(shape.out[1]) // OUTPUT)
    tile = Tile(best.tile[0], best.tile[1])
    found = [replace(best, block=(rows, p)) for p in _near(panels, 1, most)]
    return [*found, *(conv_cost.with_winograd_blocks(target, shape, tile, r) for r in _near(rows, 1, high))]
