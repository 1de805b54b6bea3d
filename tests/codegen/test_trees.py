"""Ensembles of trees, compiled, against their meaning."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower  # noqa: F401
from lepton.codegen.target import Target
from lepton.ir import ops
from lepton.ir.diagnostics import TypeRuleError
from lepton.ir.dims import sym
from lepton.ir.ops.trees import NOTHING
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType
from tests.codegen.harness import HERE, backwards, check_node, dense, gaps, reversed_axes, value
from tests.ir.trees import ensemble

targets = pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
RNG = np.random.default_rng(0)


def rows(n: int, features: int, dtype: Any = np.float32) -> Array:
    """What comparisons get wrong is among them, and what trees compare with."""
    x = RNG.integers(-3, 4, (n, features)).astype(dtype) / 2
    hard = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-40, -1e-40, -np.nan], dtype)
    return np.where(RNG.random(x.shape) < 0.2, RNG.choice(hard, x.shape), x)


@targets
@pytest.mark.parametrize("layout", [dense, reversed_axes, backwards, gaps])
@pytest.mark.parametrize(("n", "features", "trees"), [(1, 1, 1), (7, 3, 9), (8, 16, 8), (70, 17, 5), (0, 3, 2)])
def test_shapes(target: Target, layout: Any, n: int, features: int, trees: int) -> None:
    x = value((n, features))
    node = ops.tree_ensemble.node(x, **ensemble(trees, features, 1))
    check_node(node, {x: rows(n, features)}, target, layouts={x: layout, node.result: layout})


@targets
@pytest.mark.parametrize("count", [1, 2, 3, 10])
@pytest.mark.parametrize("aggregate", ["sum", "min", "max"])
@pytest.mark.parametrize("single", [False, True])
def test_targets(target: Target, count: int, aggregate: str, single: bool) -> None:
    x = value((19, 6))
    tables = ensemble(11, 6, count, single=single, nothing=NOTHING[aggregate])
    check_node(ops.tree_ensemble.node(x, aggregate=aggregate, **tables), {x: rows(19, 6)}, target)


@targets
@pytest.mark.parametrize("weights", [DType.F32, DType.F64])
def test_doubles(target: Target, weights: DType) -> None:
    x = value((21, 9), DType.F64)
    node = ops.tree_ensemble.node(x, **ensemble(10, 9, 3, DType.F64, weights))
    check_node(node, {x: rows(21, 9, np.float64)}, target)


@targets
def test_thresholds_of_every_kind(target: Target) -> None:
    x = value((40, 4))
    for nan_yes in (False, True):
        tables = ensemble(30, 4, 1, hard=True) | ({} if nan_yes else {"nan_yes": Tensor.of(np.zeros(0, bool))})
        if not nan_yes:
            tables["nan_yes"] = Tensor.of(np.zeros(tables["feature"].type.shape, bool))
        check_node(ops.tree_ensemble.node(x, **tables), {x: rows(40, 4)}, target)


@targets
@pytest.mark.parametrize("n", [0, 1, 9, 130])
def test_open_number_of_rows(target: Target, n: int) -> None:
    x = value((sym("n"), 5))
    check_node(ops.tree_ensemble.node(x, **ensemble(9, 5, 2)), {x: rows(n, 5)}, target, env={"n": n})


def test_wide_rows_and_leaves_alone() -> None:
    x = value((9, 1024))
    check_node(ops.tree_ensemble.node(x, **ensemble(9, 1024, 1)), {x: rows(9, 1024)}, HERE[-1])
    check_node(ops.tree_ensemble.node(x, **ensemble(9, 1024, 1, depth=0)), {x: rows(9, 1024)}, HERE[-1])


@pytest.mark.parametrize(("name", "to"), [("yes", [0]), ("no", [-99]), ("feature", [7]), ("roots", [5])])
def test_walks_that_would_leave_the_tables_are_refused(name: str, to: list[int]) -> None:
    tables: dict[str, Any] = ensemble(1, 2, 1, depth=1)
    assert len(tables["feature"].array) == 1
    with pytest.raises(TypeRuleError, match="does not exist"):
        ops.tree_ensemble(value((2, 2)), **tables | {name: Tensor.of(np.array(to, np.int32))})
