"""Every op that the CPU compiles has a form for GPUs; trees, whose form is theirs alone, against their meaning."""
from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import lepton.codegen.cuda.lowering  # noqa: F401  (fills the family's lowerings)
from lepton.codegen.group import FAMILY_LOWERINGS, LOWERINGS
from lepton.codegen.llvm.spell import LoopBody
from lepton.ir import ops
from lepton.ir.dims import sym
from lepton.ir.ops.trees import NOTHING
from lepton.ir.types import DType
from tests.codegen.harness import value
from tests.codegen.test_trees import rows
from tests.cuda.checking import check, on_simulator
from tests.cuda.simulated import COMPILER
from tests.ir.trees import ensemble

__all__ = ["on_simulator"]


def writes_llvm(lowering: Any) -> bool:
    """Whether a lowering's module takes bodies from codegen/templates, which CPUs alone can run."""
    found = vars(sys.modules[lowering.__module__]).values()
    return any(isinstance(x, type) and x.__module__.startswith("lepton.codegen.templates") and hasattr(x, "emit")
               for x in found)


def test_what_is_llvm_text_on_cpus_has_a_lowering_of_its_own() -> None:
    templates = {op for op, lowering in LOWERINGS.items() if writes_llvm(lowering)}
    assert {ops.tree_ensemble, ops.conv, ops.matmul, ops.attention, ops.lstm} <= templates
    missing = templates - FAMILY_LOWERINGS["cuda"].keys()
    assert not missing, [op.name if op else "maps" for op in missing]


@pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++")
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_lrn(layout: str, on_simulator: None) -> None:
    x = value((2, 5, 19, 21))
    node = ops.lrn.node(x, size=5, alpha=0.1, beta=0.75, bias=1.0, layout=layout)
    check(node, {x: rows(2 * 5 * 19, 21, np.float32).reshape(2, 5, 19, 21)}, LoopBody)


@pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++")
@pytest.mark.parametrize(("aggregate", "single", "targets", "dtype"), [
    ("sum", False, 3, DType.F32), ("min", True, 2, DType.F32), ("max", False, 1, DType.F64)])
def test_trees(aggregate: str, single: bool, targets: int, dtype: DType, on_simulator: None) -> None:
    x = value((sym("N"), 6), dtype)
    tables = ensemble(9, 6, targets, dtype, single=single, nothing=NOTHING[aggregate], hard=dtype is DType.F64)
    node = ops.tree_ensemble.node(x, aggregate=aggregate, **tables)
    check(node, {x: rows(19, 6, dtype.numpy)}, LoopBody, env={"N": 19})
    check(node, {x: np.zeros((0, 6), dtype.numpy)}, LoopBody, env={"N": 0})
