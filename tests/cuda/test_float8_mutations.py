"""Bugs planted in the products of 8-bit floats: the simulator shows every one."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from lepton.codegen.cuda import float8
from lepton.codegen.cuda.source import prelude
from lepton.codegen.cuda.templates.warpgroup import WarpgroupTile
from lepton.ir.types import DType
from tests.codegen import harness
from tests.cuda import simulated, test_mutations
from tests.cuda.test_float8 import draw, product
from tests.cuda.test_mutations import Bug, Case, right

pytestmark = test_mutations.pytestmark
E4M3, E5M2 = DType.F8E4M3FN, DType.F8E5M2


def checked(m: int, k: int) -> Case:
    """Their sums are not exact, as those of the other templates' cases are not, but larger."""
    a, node = product(E5M2, E4M3, m, 50, k)
    return partial(harness.check_node, node, {a: draw(E5M2, m, k)}, simulated.CUDA, rtol=1e-5, atol=1e-3)


def by_warps() -> Case:
    return checked(70, 150)


def by_warpgroups() -> Case:
    """Three tiles for two blocks, ten steps in a ring of four places."""
    float8.warpgroup_tile = lambda *_: WarpgroupTile("e5m2e4m3", 64, 4)  # type: ignore[attr-defined]
    return checked(300, 1280)


BUGS = [
    Bug("8-bit floats: the sums of a step go on in the next", "k > 0);", "1);", by_warpgroups),
    Bug("8-bit floats: sums begin anew within a step", "k > 0);", "0);", by_warpgroups),
    Bug("8-bit floats: added before they are there", "        lp_products_wait<0>();\n        if (lane",
        "        if (lane", by_warpgroups),
    Bug("8-bit floats: added before the last of them are there", "        lp_products_wait<0>();\n        if (lane",
        "        lp_products_wait<1>();\n        if (lane", by_warpgroups),
    Bug("8-bit floats: places are given back before they are read",
        "        lp_products_wait<0>();\n        if (lane == 0) lp_barrier_arrive(empty(shared, at));",
        "        if (lane == 0) lp_barrier_arrive(empty(shared, at));\n        lp_products_wait<0>();", by_warpgroups),
    Bug("8-bit floats: only the last step counts", "acc[i] += part[i]", "acc[i] = part[i]", by_warpgroups),
    Bug("8-bit floats by warps: only the last products count", "d[e] += part[e]", "d[e] = part[e]", by_warps),
    Bug("8-bit floats by warps: of the other format", "multiply(part, a, b0, b1)", "lp_mma_e4m3e4m3(part, a, b0, b1)",
        by_warps),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda b: b.name)
def test_planted_bugs_show(bug: Bug) -> None:
    assert bug.old in prelude("sim.hpp")
    assert not right(bug.case, bug)


@pytest.mark.parametrize("case", [by_warps, by_warpgroups], ids=lambda case: case.__name__)
def test_nothing_planted(case: Callable[[], Any]) -> None:
    assert right(case, None)
