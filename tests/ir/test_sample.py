"""Random inputs fit their types; answers that differ are told apart from answers that only round differently."""
from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lepton.ir.diagnostics import LeptonError
from lepton.ir.parser import parse
from lepton.ir.sample import difference, random_inputs, random_run, sizes_for
from lepton.ir.types import DType


@pytest.mark.parametrize("dtype", list(DType))
def test_inputs_have_the_type(dtype: DType) -> None:
    graph = parse(f"graph @g(%x: {dtype.value}[N,(N+1)//2,3]) {{ return %x }}")
    (array,) = random_inputs(graph)
    assert array.dtype == dtype.numpy
    n = sizes_for(graph)["N"]
    assert array.shape == (n, (n + 1) // 2, 3)
    (again,) = random_inputs(graph)
    np.testing.assert_array_equal(array, again)
    (pinned,) = random_inputs(graph, sizes={"N": 5})
    assert pinned.shape == (5, 3, 3)


def test_sizes_make_every_dimension_positive() -> None:
    graph = parse("graph @g(%x: f32[N-4,M]) { return %x }")
    assert sizes_for(graph)["N"] > 4
    with pytest.raises(LeptonError, match="no small sizes"):
        sizes_for(parse("graph @g(%x: f32[N-1000]) { return %x }"))


def test_sizes_are_raised_until_the_graph_runs() -> None:
    graph = parse("""graph @g(%x: f32[1,1,T], %w: f32[1,1,50]) {
      %0 = conv(%x, %w, strides=(1,), pads_begin=(0,), pads_end=(0,), dilations=(1,))
      return %0 }""")
    inputs, _ = random_run(graph)
    assert inputs[0].shape[2] >= 50


F32 = np.linspace(1, 2, 100, dtype=np.float32)


@pytest.mark.parametrize(("want", "got", "accuracy", "text"), [
    (F32, F32, "exact", ""),
    (F32, F32 * np.float32(1 + 1e-6), "exact", ""),
    (F32, F32 * np.float32(1 + 1e-4), "exact", "off by"),
    (F32, F32 * np.float32(1 + 1e-4), "reassociating", ""),
    (F32, F32 * np.float32(1 + 1e-2), "reassociating", "off by"),
    (F32, F32 * np.float32(1 + 1e-2), "approximate", ""),
    (F32, -F32, "approximate", "off by"),
    (F32, F32 + np.float32(0.05), 0.1, ""),
    (F32, F32 + np.float32(0.05), 0.01, "off by"),
    (F32, F32.astype(np.float64), "approximate", "float64[100], expected float32[100]"),
    (F32, F32[:, None], "approximate", "float32[100, 1], expected"),
    (np.array([np.nan, np.inf]), np.array([np.nan, np.inf]), "exact", ""),
    (np.array([np.nan, np.inf]), np.array([np.nan, -np.inf]), "approximate", "infinities or NaNs differ"),
    (np.array([np.nan, 1.0]), np.array([0.0, 1.0]), "approximate", "infinities or NaNs differ"),
    (np.arange(4), np.arange(4), "exact", ""),
    (np.arange(4), np.array([0, 1, 2, 4]), "approximate", "1 of 4 elements differ"),
    (np.array(["a", "b"], object), np.array(["a", "c"], object), "approximate", "1 of 2 elements differ"),
    (np.array([1 + 1j]), np.array([1 - 1j]), "approximate", "off by"),
    (np.ones(3, ml_dtypes.bfloat16), np.full(3, 1.5, ml_dtypes.bfloat16), "exact", "off by"),
    (F32.astype(np.float16), F32.astype(np.float16) * np.float16(1.5), "approximate", "off by"),
    (F32.astype(np.float16), F32.astype(np.float16) * np.float16(1.01), "reassociating", ""),
    (np.array([1, 2], ml_dtypes.int4), np.array([1, 3], ml_dtypes.int4), "approximate", "1 of 2 elements differ"),
])
def test_difference(want: Any, got: Any, accuracy: Any, text: str) -> None:
    found = difference([want], [got], accuracy)
    assert found == "" if text == "" else text in found


def test_numbers_of_results_are_compared() -> None:
    assert difference([F32], [], "exact") == "0 results, expected 1"
    assert difference([F32, F32], [F32, -F32]).startswith("result 1: off by")
