"""Tree ensembles (ai.onnx.ml): nodes of every kind brought into the form of ops.tree_ensemble.

There every branch asks x <= limit. x < t is x <= (the float before t), x >= t its opposite; x == t and membership of a
set are a small search among the borders of the intervals that belong and those that do not.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton.frontends.onnx.call import Call
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.ops.trees import NOTHING
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
_MOST = 1 << 27


@dataclass(frozen=True, slots=True)
class Branch:
    """A node as a model says it. Children >= 0 are branches, -1 - j is leaf j; `tracks`: NaN goes to `yes`."""

    mode: str
    feature: int
    limit: float
    yes: int
    no: int
    tracks: bool
    members: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Leaves:
    """What the leaves give, entry by entry: weight[i] of leaf[i] for target[i]."""

    count: int
    leaf: Array
    target: Array
    weight: Array


def grown(c: Call, x: Value, branches: Sequence[Branch], roots: Sequence[int], leaves: Leaves, targets: int,
          aggregate: str, dtype: DType) -> Value:
    """[N, targets] of `dtype`: what the trees say of x [N, features], f32 or f64, combined."""
    width = x.tensor.shape[1]
    feature = [b.feature for b in branches]
    if not isinstance(width, int) or (feature and not 0 <= min(feature) <= max(feature) < width):
        raise LeptonError(f"feature {max(feature, default=0)} of {x.tensor}", where=c.where)
    nodes = _Nodes(c, x.tensor.dtype.numpy)
    for place, branch in enumerate(branches):
        nodes.branch(place, branch)
    tables = nodes.tables(roots)
    used = np.unique(tables["feature"])
    if len(used) * 4 < width:  # of many columns, the few that are asked for
        x = c(ops.gather, x, c.const(used, DType.I64), axis=1)
        tables["feature"] = np.searchsorted(used, tables["feature"]).astype(np.int32)
    attrs: dict[str, Any] = {name: Tensor.of(table) for name, table in tables.items()}
    weights, target = _weights(c, leaves, targets, aggregate, dtype)
    return c(ops.tree_ensemble, x, **attrs, weights=weights, target=target, targets=targets, aggregate=aggregate)


def features(c: Call) -> Value:
    """The operand [N, features] in a type that trees compare in: integers are compared as f32, as ONNX Runtime does."""
    x = c.ranked(0, 2)
    return x if x.tensor.dtype in (DType.F32, DType.F64) else c.cast(x, DType.F32)


def _weights(c: Call, leaves: Leaves, targets: int, aggregate: str, dtype: DType) -> tuple[Tensor, Tensor | None]:
    """One weight and its target per leaf where no leaf has more; else a row of all targets."""
    if leaves.count * targets > _MOST:
        c.fail(f"{targets} targets of {leaves.count} leaves")
    if targets > 1 and len(np.unique(leaves.leaf)) == len(leaves.leaf):
        weight, target = np.full((leaves.count, 1), NOTHING[aggregate]), np.zeros(leaves.count, np.int32)
        weight[leaves.leaf, 0], target[leaves.leaf] = leaves.weight, leaves.target
        return Tensor.of(weight.astype(dtype.numpy)), Tensor.of(target)
    rows = np.full((leaves.count, targets), NOTHING[aggregate])
    {"sum": np.add, "min": np.minimum, "max": np.maximum}[aggregate].at(
        rows, (leaves.leaf, leaves.target), leaves.weight)
    return Tensor.of(rows.astype(dtype.numpy)), None


class _Nodes:
    """Branches as comparisons x <= limit. The i-th branch keeps place i; more that it needs stands behind."""

    def __init__(self, c: Call, dtype: np.dtype[Any]) -> None:
        self.c, self.dtype = c, dtype
        self.rows: dict[int, tuple[int, float, int, int, bool]] = {}   # feature, limit, yes, no, whether NaN is a yes
        self.extra = 1 << 40

    def before(self, limit: float) -> float:
        """The largest float of x's type below `limit`. Below -inf there is only NaN: nothing is at or below it."""
        if limit == -np.inf:
            return np.nan
        return float(np.nextafter(self.dtype.type(limit), self.dtype.type(-np.inf)))

    def branch(self, place: int, b: Branch) -> None:
        limit, mode = float(self.dtype.type(b.limit)), b.mode
        if limit != limit and mode in MODES[:6]:   # compared with NaN nothing holds but "differs"
            mode = "BRANCH_NEQ" if mode == "BRANCH_NEQ" else "BRANCH_LEQ"
        match mode:
            case "BRANCH_LEQ":
                self.rows[place] = b.feature, limit, b.yes, b.no, b.tracks
            case "BRANCH_LT":
                self.rows[place] = b.feature, self.before(limit), b.yes, b.no, b.tracks
            case "BRANCH_GT":
                self.rows[place] = b.feature, limit, b.no, b.yes, not b.tracks
            case "BRANCH_GTE":
                self.rows[place] = b.feature, self.before(limit), b.no, b.yes, not b.tracks
            case "BRANCH_EQ":
                self.search(place, b.feature, [limit], b.yes, b.no, b.tracks)
            case "BRANCH_NEQ":  # NaN differs from all, so it goes the same way whether or not it is said to track
                self.search(place, b.feature, [limit], b.no, b.yes, False)
            case "BRANCH_MEMBER":
                self.search(place, b.feature, b.members, b.yes, b.no, b.tracks)
            case _:
                self.c.fail(f"trees with the branch {b.mode}")

    def search(self, place: int, feature: int, members: Sequence[float], yes: int, no: int, tracks: bool) -> None:
        """Whether x is one of the members: between which borders it lies. NaN goes right, and at the last border, which
        the last member lies left of, where it is told to."""
        inside = np.unique(np.array(members, self.dtype))
        borders = [b for m in inside[~np.isnan(inside)].tolist() for b in (self.before(m), m)]
        if not borders:
            self.rows[place] = feature, np.nan, yes, no, tracks
            return

        def between(low: int, high: int, own: int | None = None) -> int:
            if low == high:
                return yes if low % 2 else no
            if own is None:
                own, self.extra = self.extra, self.extra + 1
            middle = (low + high) // 2
            last = middle == len(borders) - 1
            self.rows[own] = feature, borders[middle], between(low, middle), between(middle + 1, high), last and tracks
            return own

        between(0, len(borders), place)

    def tables(self, roots: Sequence[int]) -> dict[str, Array]:
        """The attributes of ops.tree_ensemble that speak of nodes; parents stand before their children."""
        order = self.order(roots)
        place = {node: k for k, node in enumerate(order)}

        def child(node: int) -> int:
            return node if node < 0 else place[node]

        columns = list(zip(*((f, t, child(y), child(n), m) for f, t, y, n, m in map(self.rows.__getitem__, order)),
                           strict=True)) or [()] * 5
        types = (np.dtype(np.int32), self.dtype, np.dtype(np.int32), np.dtype(np.int32), np.dtype(np.bool_))
        names = ("feature", "threshold", "yes", "no", "nan_yes")
        found = {name: np.array(col, t) for name, col, t in zip(names, columns, types, strict=True)}
        return found | {"roots": np.array([child(r) for r in roots], np.int32)}

    def order(self, roots: Sequence[int]) -> list[int]:
        """The nodes below the roots, each before its children and, if it can be, right before one of them. Raises
        LeptonError for a cycle."""
        found: list[int] = []
        done: dict[int, bool] = {}   # False: entered, not left
        for root in reversed(roots):
            todo = [root]
            while todo:
                node = todo[-1]
                if node < 0 or done.get(node):
                    todo.pop()
                elif node in done:
                    done[todo.pop()] = True
                    found.append(node)
                else:
                    done[node] = False
                    _, _, yes, no, _ = self.rows[node]
                    if done.get(yes) is False or done.get(no) is False:
                        raise LeptonError("the nodes of a tree form a cycle", where=self.c.where)
                    todo += (yes, no)
        return found[::-1]
