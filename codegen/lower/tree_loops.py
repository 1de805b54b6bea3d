"""tree_ensemble as loops: every element of the result walks all trees by itself.

Neighbouring elements of a row walk alike, so on a GPU they read the same nodes at the same time. A walk takes as many
steps as its tree is deep: leaves lead to themselves.
"""
from __future__ import annotations

import numpy as np

from lepton.codegen.group import Group, LowerOptions
from lepton.codegen.kernel import Kernel, packed
from lepton.codegen.loops import Cast, Const, Expr, For, Let, Load, Ref, Select, Stmt, Update, Var, add, i64, mul
from lepton.codegen.lower.anchored import Anchored
from lepton.codegen.lower.nest import cut, grain_for, nest_loops, sub
from lepton.codegen.lower.scalar import ap
from lepton.ir.dims import product
from lepton.ir.ops.trees import NOTHING
from lepton.ir.tensor import Array
from lepton.ir.types import DType

COMBINE = {"sum": "add", "min": "minimum", "max": "maximum"}


def tree_loops(group: Group, options: LowerOptions) -> Kernel:
    """A task is one or more elements of the result."""
    return _Trees(group).kernel()


def depths(roots: Array, yes: Array, no: Array) -> Array:
    """The inner nodes on the longest way from each root to a leaf: i64 [trees]. Children stand behind parents."""
    below = np.zeros(len(yes) + 1, np.int64)  # the last: of leaves
    for i in range(len(yes) - 1, -1, -1):
        below[i] = 1 + max(below[max(yes[i], -1)], below[max(no[i], -1)])
    found: Array = below[np.maximum(roots, -1)]
    return found


class _Trees(Anchored):
    def __init__(self, group: Group) -> None:
        super().__init__(group)
        x = self.node.inputs[0]
        assert x is not None
        self.x, self.attrs = x, self.node.attrs
        arrays = {name: self.attrs[name].array for name in ("roots", "feature", "threshold", "yes", "no", "nan_yes")}
        self.depth = depths(arrays["roots"], arrays["yes"], arrays["no"])
        self.tables = {name: self.table(array) for name, array in arrays.items()}
        self.tables |= {"depths": self.table(self.depth), "weights": self.table(self.attrs["weights"].array)}
        if self.attrs["target"] is not None:
            self.tables["target"] = self.table(self.attrs["target"].array)

    def table(self, array: Array) -> tuple[str, DType]:
        """A constant operand. What has no elements gets one, which nobody reads."""
        array = array if array.size else np.zeros(1, array.dtype)
        dtype = DType.of(array.dtype)
        return self.nest.constant(packed(array), dtype), dtype

    def kernel(self) -> Kernel:
        shape, steps = self.result.shape, int(self.depth.sum())
        tasks = cut(shape, vector=False, work=max(1, 4 * steps))
        (row, column), around = nest_loops(shape, tasks, self.nest, vector=False)
        total, tree = Ref(self.nest.fresh("total"), DType.F64), self.nest.var("tree")
        nothing = Const(NOTHING[self.attrs["aggregate"]], DType.F64)
        found = Select(ap("equal", total, nothing), Const(0.0, DType.F64), total)
        wanted = self.result.dtype
        body = (Var(total.name, nothing),
                For(tree.name, i64(len(self.depth)), tuple(self.walk(tree, row, column, total))),
                *self.finish({self.node.results[0]: found if wanted is DType.F64 else Cast(found, wanted)},
                             [row, column]))
        return self.nest.kernel(around.around(body), tasks.count, grain=grain_for(tasks), writes=self.group.outputs,
                                flops=product([*shape, 4 * steps]))

    def walk(self, tree: Ref, row: Expr, column: Expr, total: Ref) -> list[Stmt]:
        """From the root of a tree to a leaf, whose weight goes to `total`."""
        at, step = Ref(self.nest.fresh("at"), DType.I64), self.nest.var("step")
        leaf = Ref(self.nest.fresh("leaf"), DType.I64)
        return [Var(at.name, self.look("roots", tree)),
                For(step.name, self.look("depths", tree), tuple(self.step(at, row))),
                Let(leaf.name, sub(i64(-1), at)),
                Update(total.name, COMBINE[self.attrs["aggregate"]], self.weight(leaf, column))]

    def step(self, at: Ref, row: Expr) -> list[Stmt]:
        node, seen = Ref(self.nest.fresh("node"), DType.I64), Ref(self.nest.fresh("seen"), self.x.tensor.dtype)
        low = ap("less_equal", seen, self.look("threshold", node))
        goes = ap("logical_or", low, ap("logical_and", ap("is_nan", seen), self.look("nan_yes", node)))
        on = Select(goes, self.look("yes", node), self.look("no", node))
        there = ap("less", at, i64(0))
        return [Let(node.name, ap("maximum", at, i64(0))),
                Let(seen.name, self.element(self.x, [row, self.look("feature", node)])),
                Update(at.name, "set", Select(there, at, on))]

    def weight(self, leaf: Ref, column: Expr) -> Expr:
        """f64: what the leaf says of this column."""
        width = 1 if self.attrs["target"] is not None else self.attrs["targets"]
        place = leaf if width == 1 else add(mul(leaf, i64(width)), column)
        value = self.look("weights", place)
        value = value if value.dtype is DType.F64 else Cast(value, DType.F64)
        if self.attrs["target"] is None:
            return value
        nothing = Const(NOTHING[self.attrs["aggregate"]], DType.F64)
        return Select(ap("equal", self.look("target", leaf), column), value, nothing)

    def look(self, name: str, index: Expr) -> Expr:
        """An element of a table; integers as i64."""
        buffer, dtype = self.tables[name]
        value = Load(buffer, index, dtype)
        return value if dtype.is_float or dtype in (DType.I64, DType.BOOL) else Cast(value, DType.I64)
