"""Bugs planted in what a block does together: orders, sums up, finds, combines. The simulator shows every one."""
from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
import pytest

from lepton.codegen.cuda import order
from lepton.ir import ops
from lepton.ir.types import DType
from tests.codegen import harness
from tests.cuda import simulated, test_mutations
from tests.cuda.test_mutations import Bug, Case, planted, random, right

pytestmark = test_mutations.pytestmark


def firsts(rows: int, n: int, k: int, shared: int, every: int) -> Case:
    """Many are alike, and some are hard to order."""
    order.SHARED_BYTES = shared  # in a process of its own
    x = harness.value((rows, n))
    data = np.random.default_rng(1).permuted(np.tile(np.arange(n, dtype=np.float32) // 4, (rows, 1)), axis=1)
    hard = np.array([np.nan, 0.0, -np.nan, np.inf, -0.0, -np.inf], np.float32)
    data[:, 3::every] = np.resize(hard, data[0, 3::every].size)
    return ops.top_k.node(x, k=k, axis=1, largest=True), {x: data}


def running(exclusive: bool = False) -> Case:
    """Long rows of whole numbers, whose sums are exact, three for two blocks."""
    x = harness.value((3, 3000), DType.I64)
    node = ops.cumsum(x, axis=1, exclusive=exclusive).producer
    assert node is not None
    return node, {x: np.random.default_rng(1).integers(-9, 9, (3, 3000))}


def found() -> Case:
    data = np.random.default_rng(1).random(9000) < 0.3
    x = harness.value((9000,), DType.BOOL)
    return partial(harness.check_node, ops.non_zero.node(x, symbol="hits"), {x: data}, simulated.CUDA,
                   env={"hits": int(data.sum())})


def sorted_rows() -> Case:
    x = harness.value((700, 2), DType.I32)
    node = ops.sort_rows(x).producer
    assert node is not None
    return node, {x: np.random.default_rng(1).integers(0, 9, (700, 2), np.int32)}


def combined() -> Case:
    """Rows of whole numbers, whose sums are exact, by loops that the threads of a block share."""
    x = harness.value((40, 3000))
    node = ops.reduce_sum(x, axes=(1,)).producer
    assert node is not None
    return node, {x: np.random.default_rng(1).integers(-9, 9, (40, 3000)).astype(np.float32)}


def softmax() -> Case:
    x = harness.value((5, 300))
    node = ops.softmax(x, axis=1).producer
    assert node is not None
    return node, {x: random((5, 300))}


FIRSTS = partial(firsts, 3, 5000, 20, 16 * 1024, 997)
ALL = partial(firsts, 5, 300, 300, 512, 7)
BUGS = [
    Bug("sort: no barrier before a step", "lp_sync();\n      for (i64 i = LP_THREAD;; ", "for (i64 i = LP_THREAD;; ",
        FIRSTS),
    Bug("sort: no barrier after the last step", "    }\n  lp_sync();\n}\n\n// What the threads before",
        "    }\n}\n\n// What the threads before", ALL),
    Bug("sort: items behind the last are read", "if (high >= n || ", "if (", ALL),
    Bug("sort: runs descend", "low / (2 * step) * 4 * step + 2 * step - 1 - low", "low + step", ALL),
    Bug("sorted rows: those alike in any order", "lp_less<i64>(v_i, v_j)", "lp_less<i64>(v_j, v_i)", sorted_rows),
    Bug("sorted rows: by the first column", "v_c = 0, n = 2LL", "v_c = 0, n = 1LL", sorted_rows),
    Bug("sorted rows: their numbers are not there yet", "lp_sync();\n      for (i64 i = LP_THREAD;; ",
        "if (half > 1) lp_sync();\n      for (i64 i = LP_THREAD;; ", sorted_rows),
    Bug("first: those alike in any order", "x.key == y.key && x.at < y.at", "x.key == y.key && x.at > y.at", FIRSTS),
    Bug("first: -0 before 0", "x == T(0) ? T(0) : x", "x", ALL),
    Bug("first: NaN has a sign", "if (x != x) return Bits(~Bits(0));", "", FIRSTS),
    Bug("first: a threshold that is too high", "last = kept[k - 1];", "last = kept[0];", FIRSTS),
    Bug("first: more is kept than there is room for", "count = count < k ? count : k;", "", FIRSTS),
    Bug("first: places of the threads before", "i64 place = count + lp_before(mine, 0u, all, room, [](u32 a",
        "i64 place = count + 0 * lp_before(mine, 0u, all, room, [](u32 a", FIRSTS),
    Bug("before: parts are read before they are there", "parts[warp] = x;\n  lp_sync();", "parts[warp] = x;", running),
    Bug("before: parts are written before they were read", "  lp_sync();\n  return op(front, mine);",
        "  return op(front, mine);", running),
    Bug("before: lanes behind count", "if (lane & by) mine = op(other, mine);", "mine = op(other, mine);", running),
    Bug("before: half of the lanes", "int by = 1; by < 32; by *= 2) {\n    const T other",
        "int by = 1; by < 16; by *= 2) {\n    const T other", running),
    Bug("before: all warps count", "if (w < warp) front", "if (w <= warp) front", running),
    Bug("running: steps begin anew", "sum = op(sum, total);", "sum = total;", running),
    Bug("running: what is behind the row is read", "first + e < n ? get(first + e) : neutral", "get(first + e)",
        running),
    Bug("running: without itself", "Exclusive ? now : after", "after", partial(running, exclusive=True)),
    Bug("find: what is behind the last is a hit", "first + e < n && hit(first + e)", "hit(first + e)", found),
    Bug("find: steps begin anew", "found += all;", "found = all;", found),
    Bug("find: a bit too far", "hits >> e & 1", "hits >> (e + 1) & 1", found),
    Bug("combined: half of the lanes", "by = 16; by > 0; by /= 2) x = op(x, lp_shuffle_down_of(x, by));\n  T *parts",
        "by = 8; by > 0; by /= 2) x = op(x, lp_shuffle_down_of(x, by));\n  T *parts", combined),
    Bug("combined: parts are read before they are there", "parts[warp] = x;\n    lp_sync();", "parts[warp] = x;",
        combined),
    Bug("combined: warps that there are not count", "lane < warps ? parts[lane] : neutral", "parts[lane]", combined),
    Bug("combined: read before it is there", "parts[32] = x;\n  lp_sync();", "parts[32] = x;", softmax),
    Bug("loops: two threads take each turn", "v_r = LP_THREAD, n", "v_r = LP_THREAD / 2, n", combined),
    Bug("loops: a task behind the last", "v_t < tasks", "v_t <= tasks", combined),
]


@pytest.mark.parametrize("bug", planted(BUGS))
def test_planted_bugs_show(bug: Bug) -> None:
    assert not right(bug.case, bug)


@pytest.mark.parametrize("case", list({str(b.case): b.case for b in BUGS}.values()),
                         ids=lambda case: re.sub(" at 0x[0-9a-f]+", "", str(case)))
def test_nothing_planted(case: Any) -> None:
    assert right(case, None)
