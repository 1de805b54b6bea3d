"""Running compiled models from Python: right and wrong arguments."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lepton.artifact import Model
from lepton.ir.diagnostics import LeptonError
from lepton.library import load

Artifact = Callable[..., Path]
X = np.array([0, 1, 2, 3], np.float32)


@pytest.fixture
def static(artifact: Artifact) -> Model:
    return load(artifact("static"))


@pytest.fixture
def dynamic(artifact: Artifact) -> Model:
    return load(artifact("dynamic"))


def expect(a: Any, b: Any) -> Any:
    """What the dynamic program computes."""
    return 2 * a + b


# ---- right ----

def test_ports_target_metadata(static: Model, dynamic: Model) -> None:
    assert [str(p) for p in static.inputs + static.outputs] == ["x: f32[4]", "y: f32[4]"]
    assert [str(p) for p in dynamic.inputs] == ["a: f32[N,M]", "b: f32[M]"]
    assert dynamic.inputs[0].shape == ("N", "M")
    assert dynamic.inputs[0].dtype == np.float32
    assert static.target == "test"
    assert static.metadata == {"model": "static"}
    assert (static.workspace_size, dynamic.workspace_size) == (64, 0)
    assert "x: f32[4]" in repr(static)


def test_runs_by_position_and_by_name(static: Model) -> None:
    for y in (static(X), static.run({"x": X})["y"], static.session()(X), static.session(1).run({"x": X})["y"]):
        np.testing.assert_array_equal(y, 2 * X + 7)


def test_results_are_the_callers(static: Model) -> None:
    first = static(X)
    second = static(X + 1)
    np.testing.assert_array_equal(first, 2 * X + 7)
    assert not np.shares_memory(first, second)


def test_shapes_come_and_go(dynamic: Model) -> None:
    rng = np.random.default_rng(0)
    for n, m in ((1, 2), (5, 8), (0, 4), (1, 2), (300, 64), (3, 0)):
        a, b = rng.standard_normal((n, m), np.float32), rng.standard_normal(m, np.float32)
        np.testing.assert_array_equal(dynamic(a, b), expect(a, b))
        np.testing.assert_array_equal(dynamic.run({"b": b, "a": a})["y"], expect(a, b))


def test_strided_and_readonly_and_misaligned_inputs(dynamic: Model) -> None:
    wide = np.arange(48, dtype=np.float32).reshape(6, 8)
    b = np.arange(4, dtype=np.float32)
    misaligned = np.zeros(4 * 4 + 1, np.uint8)[1:].view(np.float32)
    readonly = wide[:, :4].copy()
    readonly.flags.writeable = False
    for a in (wide[:, ::2], wide[:4, :6].T[:4], readonly, misaligned.reshape(1, 4)):
        np.testing.assert_array_equal(dynamic(a, b), expect(a, b))


def test_lists_and_scalars_go_through_numpy(artifact: Artifact) -> None:
    loop = load(artifact("loop"))
    assert loop(np.int64(4)) == 10
    assert loop(5) == 15
    assert loop(np.array(6)).shape == ()


def test_results_go_into_the_callers_arrays(dynamic: Model) -> None:
    a, b = np.ones((2, 4), np.float32), np.arange(4, dtype=np.float32)
    mine = np.full((2, 4), np.nan, np.float32)
    results = dynamic.run({"a": a, "b": b}, outputs={"y": mine})
    assert results["y"] is mine
    np.testing.assert_array_equal(mine, expect(a, b))
    np.testing.assert_array_equal(dynamic(a, b), expect(a, b))


class Dlpack:
    """An array from elsewhere, as torch and others hand it over."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def test_dlpack_objects_are_read(dynamic: Model) -> None:
    a, b = np.ones((2, 4), np.float32), np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(dynamic(Dlpack(a), Dlpack(b)), expect(a, b))


def test_dlpack_from_another_device_is_refused(dynamic: Model) -> None:
    class OnGpu(Dlpack):
        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("it lies on cuda:0")

    with pytest.raises(LeptonError, match="input 'a': cannot read a OnGpu as an array: it lies on cuda:0"):
        dynamic(OnGpu(np.ones((2, 4), np.float32)), np.ones(4, np.float32))


@pytest.mark.parametrize(("code", "size", "dtype"), [
    ("BF16", 2, ml_dtypes.bfloat16), ("F16", 2, np.float16), ("BOOL", 1, np.bool_), ("U8", 1, np.uint8),
    ("I64", 8, np.int64), ("C64", 8, np.complex64), ("F8E4M3FN", 1, ml_dtypes.float8_e4m3fn), ("I4", 1, ml_dtypes.int4),
    ("F4E2M1", 1, ml_dtypes.float4_e2m1fn),
])
def test_element_types_cross_unchanged(artifact: Artifact, code: str, size: int, dtype: Any) -> None:
    model = load(artifact("copy", code, size))
    x = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    y = model(x)
    assert y.dtype == x.dtype == model.inputs[0].dtype
    np.testing.assert_array_equal(y.view(np.uint8), x.view(np.uint8))


def test_late_sizes(artifact: Artifact) -> None:
    late = load(artifact("late"))
    for x in ([1, -1, 2], [-1], [], [1, 2, 3, 4, 5], [-3, 9]):
        array = np.array(x, np.float32)
        np.testing.assert_array_equal(late(array), 2 * array[array > 0])
    with pytest.raises(LeptonError, match="output 'y': its size depends on the data"):
        late.run({"x": X}, outputs={"y": np.zeros(3, np.float32)})


def test_step_times(static: Model) -> None:
    session = static.session()
    assert session.step_times() == []
    session.profile()
    session(X)
    session(X)
    times = session.step_times()
    assert [(t.name, t.calls) for t in times] == [("twice", 2), ("add", 2)]
    assert all(0 < t.seconds < 1 for t in times)
    session.profile(False)
    session(X)
    assert session.step_times() == times


# ---- wrong arguments ----

A, B = np.ones((2, 4), np.float32), np.ones(4, np.float32)


@pytest.mark.parametrize(("feeds", "words"), [
    ({"a": A}, "missing input 'b'; the model's inputs are 'a', 'b'"),
    ({"a": A, "b": B, "c": B}, "unknown input 'c'"),
    ({"a": A, "c": B}, "missing input 'b'; unknown input 'c'"),
    ([A, B], "inputs must be a dict from names to arrays, got list"),
    ({"a": A.astype(np.float64), "b": B}, r"input 'a': expected f32\[N,M\], got f64\[2,4\]\n.*astype\('float32'\)"),
    ({"a": A.astype(">f4"), "b": B}, r"input 'a': expected f32\[N,M\], got >f4\[2,4\]"),
    ({"a": A[0], "b": B}, r"input 'a': expected f32\[N,M\], got f32\[4\]"),
    ({"a": A, "b": B[:2]}, r"input 'b': expected f32\[M=4\], got f32\[2\]"),
    ({"a": A[:, :3], "b": B[:3]}, r"node 'halve': M must be even \(1 against 0\)"),
    ({"a": A.reshape((1,) * 20 + (8,)), "b": B}, "got f32 of rank 21"),
    ({"a": object(), "b": B}, r"input 'a': expected f32\[N,M\], got \|O\[\]"),
    ({"a": [[1], [2, 3]], "b": B}, "input 'a': cannot read a list as an array"),
])
def test_wrong_inputs_are_named(dynamic: Model, feeds: Any, words: str) -> None:
    with pytest.raises(LeptonError, match=words):
        dynamic.run(feeds)
    np.testing.assert_array_equal(dynamic(A, B), expect(A, B))  # as good as new


@pytest.mark.parametrize(("outputs", "words"), [
    ({"z": A}, "unknown output 'z'; the model's outputs are 'y'"),
    ({"y": [1, 2]}, "output 'y': expected a numpy array to write into, got list"),
    ({"y": np.zeros((2, 5), np.float32)}, r"output 'y': expected f32\[2,4\], got f32\[2,5\]"),
    ({"y": np.zeros((2, 4))}, r"output 'y': expected f32\[2,4\], got f64\[2,4\]"),
    ({"y": np.zeros((4, 2), np.float32).T}, "must be C-contiguous, aligned and writeable"),
    ({"y": np.broadcast_to(np.float32(0), (2, 4))}, "must be C-contiguous, aligned and writeable"),
])
def test_wrong_outputs_are_named(dynamic: Model, outputs: Any, words: str) -> None:
    with pytest.raises(LeptonError, match=words):
        dynamic.run({"a": A, "b": B}, outputs=outputs)


def test_outputs_may_not_overlap_inputs(dynamic: Model) -> None:
    a = np.ones((2, 4), np.float32)
    with pytest.raises(LeptonError, match="output 'y': its memory overlaps 'a'"):
        dynamic.run({"a": a, "b": B}, outputs={"y": a})


def test_wrong_counts(dynamic: Model) -> None:
    with pytest.raises(LeptonError, match=r"takes 2 inputs \(a, b\), got 1"):
        dynamic(A)
    with pytest.raises(LeptonError, match="threads is -1"):
        dynamic.session(threads=-1)
