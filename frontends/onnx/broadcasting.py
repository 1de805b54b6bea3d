"""Broadcasting of sizes that are open: what cannot be told to be equal may be 1 when the model runs.

Between types, the graph's ops take unequal open sizes for equal and have that checked. That is right where they are
related (`2*(H//2)` and H), and a promise that ONNX does not make where they are not. There the operands are
broadcast explicitly, by strides that are 0 where a size turns out to be 1, to `stretch(N,M)`; or, where one operand is
larger by its other axes (scores and their mask), to the sizes of that one, which then stays as it is.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

from lepton.frontends.onnx.bounds import lower
from lepton.ir import dims
from lepton.ir.core import Value
from lepton.ir.dims import Dim, Expr
from lepton.ir.types import TensorType

Spread = Callable[[Value, tuple[Dim, ...]], Value]


def common(a: Dim, b: Dim) -> Dim | None:
    """The size of two that are broadcast together; None where they cannot be, or where it is for the type rule to
    say, because they are known to be equal or taken to be."""
    if a == b or a == 1 or b == 1:
        return None
    mine, others = parts(a), parts(b)
    if any(not _unrelated(x, y) for x in mine - others for y in others - mine):
        return None
    above = [d for d in (a, b) if (lower(d) or 0) >= 2]
    if len(above) == 2:
        return None  # neither can be 1
    total: Dim = 1
    for d in sorted(mine | others, key=str, reverse=True):
        total = dims.stretch(d, total)
    return above[0] if above else total


def parts(dim: Dim) -> set[Dim]:
    """The sizes that were broadcast together to make this one."""
    return set(dims.operands("stretch", dim))


def _unrelated(a: Dim, b: Dim) -> bool:
    if isinstance(a, Expr) and isinstance(b, Expr):
        return not dims.symbols(a) & dims.symbols(b)
    if isinstance(a, Expr) == isinstance(b, Expr):
        return False
    return str(a).isidentifier() or str(b).isidentifier()  # a number and a size of the inputs' or the data's


def aligned(operands: Sequence[Value | None], spread: Spread, keep: int = 0) -> list[Value | None]:
    """The operands, those whose sizes are open spread to the sizes of the result; the last `keep` axes stay apart."""
    shapes = [v.type.shape for v in operands if v is not None and isinstance(v.type, TensorType)]
    shapes = [s[:len(s) - keep] for s in shapes]
    if all(isinstance(d, int) for s in shapes for d in s) or len(set(shapes)) < 2:
        return list(operands)
    rank = max(map(len, shapes))
    wide = {axis: size for axis in range(1, rank + 1)
            if (size := _stretched([s[-axis] for s in shapes if len(s) >= axis])) is not None}
    if not wide:
        return list(operands)
    if (large := _larger(shapes, rank)) is not None:
        wide = {axis: size if large[-axis] == 1 else large[-axis] for axis, size in wide.items()}
    return [v if v is None else _spread(v, wide, spread, keep) for v in operands]


def _larger(shapes: Sequence[tuple[Dim, ...]], rank: int) -> tuple[Dim, ...] | None:
    """The shape that has a size wherever another has one, and on some axis one where none of the others has."""
    full = [(1,) * (rank - len(s)) + s for s in shapes]
    for i, large in enumerate(full):
        others = [s for k, s in enumerate(full) if k != i]
        covers = all(m != 1 or n == 1 for s in others for m, n in zip(large, s, strict=True))
        if covers and any(m != 1 and all(s[a] == 1 for s in others) for a, m in enumerate(large)):
            return large
    return None


def _stretched(sizes: Sequence[Dim]) -> Dim | None:
    """What an axis is spread to; None where nothing need be done."""
    total: Dim = 1
    open_ = False
    for size in sizes:
        found = common(total, size)
        open_ |= found is not None
        total = found if found is not None else size if total == 1 else total
    return total if open_ else None


def _spread(value: Value, wide: dict[int, Dim], spread: Spread, keep: int) -> Value:
    shape = list(value.tensor.shape)
    for axis, size in wide.items():
        at = len(shape) - keep - axis
        if at >= 0 and shape[at] != 1:
            shape[at] = size
    return value if tuple(shape) == value.tensor.shape else spread(value, tuple(shape))
