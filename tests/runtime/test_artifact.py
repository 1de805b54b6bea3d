"""Loading and running compiled models from Python."""
from __future__ import annotations

import gc
import os
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lepton.artifact import Model, load
from lepton.ir.diagnostics import LeptonError
from tests.runtime import handmade

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
    ({"a": A.astype(np.float64), "b": B}, r"input 'a': expected f32\[N,M\], got f64\[2,4\]"),
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


# ---- wrong files ----

def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(LeptonError, match=r"cannot load .*nowhere.so: No such file"):
        load(tmp_path / "nowhere.so")
    with pytest.raises(LeptonError, match="it is a folder"):
        load(tmp_path)


def _changed(artifact: Artifact, tmp_path: Path, offset: int, data: bytes) -> Path:
    content = bytearray(artifact("static").read_bytes())
    content[offset:offset + len(data)] = data
    (tmp_path / "changed.so").write_bytes(content)
    return tmp_path / "changed.so"


@pytest.mark.parametrize(("offset", "data", "words"), [
    (0, b"\x7fELG", "it is not a shared library"),
    (4, b"\x01", "was compiled for"),
    (18, struct.pack("<H", 8), "was compiled for machine 8, this is"),
    (16, struct.pack("<H", 2), "not a shared library"),
    (32, struct.pack("<Q", 1 << 40), r"damaged or truncated \(program headers\)"),
    (40, struct.pack("<Q", 1 << 62), r"damaged or truncated \(section headers\)"),
])
def test_damaged_headers(artifact: Artifact, tmp_path: Path, offset: int, data: bytes, words: str) -> None:
    with pytest.raises(LeptonError, match=words):
        load(_changed(artifact, tmp_path, offset, data))


def test_every_truncation_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    whole = artifact("static").read_bytes()
    for length in [*range(0, 200, 7), *range(200, len(whole), 997), len(whole) - 1]:
        (tmp_path / "short.so").write_bytes(whole[:length])
        with pytest.raises(LeptonError, match=r"cannot load"):
            load(tmp_path / "short.so")


def test_other_libraries_and_texts_are_refused(tmp_path: Path) -> None:
    import _ctypes

    if str(_ctypes.__file__).endswith(".so"):
        with pytest.raises(LeptonError, match="no compiled model: it has no lepton_query"):
            load(_ctypes.__file__)
    (tmp_path / "text.so").write_text("#!/bin/sh\n" * 50)
    with pytest.raises(LeptonError, match="it is not a shared library"):
        load(tmp_path / "text.so")


def test_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.c").write_text("const void *lepton_query(unsigned v) { return v == 77 ? &lepton_query : 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", "other.so", "other.c"], cwd=tmp_path, check=True)
    with pytest.raises(LeptonError, match="does not speak version 1"):
        load(tmp_path / "other.so")


def test_missing_instructions(artifact: Artifact) -> None:
    with pytest.raises(LeptonError, match="compiled for test-impossible; this machine lacks features 0x10000000000"):
        load(artifact("impossible"))
    only_to_read = load(artifact("impossible"), runnable=False)
    assert only_to_read.target is None
    assert only_to_read.inputs[0].name == "x"
    with pytest.raises(LeptonError, match="this machine lacks"):
        only_to_read(X)


# ---- living together ----

def test_two_models_and_two_copies(artifact: Artifact, tmp_path: Path) -> None:
    other = handmade.build("static", tmp_path, weights=struct.pack("<f", 100))
    models = [load(artifact("static")), load(other), load(artifact("dynamic")), load(artifact("static"))]
    for _ in range(3):
        np.testing.assert_array_equal(models[0](X), 2 * X + 7)
        np.testing.assert_array_equal(models[1](X), 2 * X + 100)
        np.testing.assert_array_equal(models[2](A, B), expect(A, B))
        np.testing.assert_array_equal(models[3](X), 2 * X + 7)


def test_a_replaced_file_is_a_new_model(tmp_path: Path) -> None:
    path = handmade.build("static", tmp_path)
    old = load(path)
    handmade.build("static", tmp_path, path, weights=struct.pack("<f", 50))
    new = load(path)
    np.testing.assert_array_equal(new(X), 2 * X + 50)
    np.testing.assert_array_equal(old(X), 2 * X + 7)


def test_a_deleted_file_runs_on(artifact: Artifact, tmp_path: Path) -> None:
    copy = shutil.copy(artifact("static"), tmp_path / "copy.so")
    model = load(copy)
    os.unlink(copy)
    np.testing.assert_array_equal(model(X), 2 * X + 7)


def test_the_library_goes_with_its_last_user(artifact: Artifact, tmp_path: Path) -> None:
    path = Path(shutil.copy(artifact("static"), tmp_path / "mine.so"))
    model = load(path)
    session = model.session(threads=2)
    session(X)
    del model
    gc.collect()
    assert str(path) in Path("/proc/self/maps").read_text()
    np.testing.assert_array_equal(session(X), 2 * X + 7)
    del session
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_models_do_not_pile_up(artifact: Artifact) -> None:
    def count() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    before = count()
    for _ in range(20):
        load(artifact("static"), threads=3)(X)
    assert count() == before


def _in_threads(count: int, work: Callable[[int], None]) -> None:
    errors: list[BaseException] = []

    def guarded(i: int) -> None:
        try:
            work(i)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors


def test_threads_with_sessions_of_their_own(dynamic: Model) -> None:
    def work(i: int) -> None:
        session = dynamic.session(threads=2)
        for k in range(50):
            a = np.full((40 + i, 2 + 2 * (k % 3)), i, np.float32)
            b = np.full(a.shape[1], k, np.float32)
            np.testing.assert_array_equal(session(a, b), expect(a, b))

    _in_threads(6, work)


def test_threads_sharing_one_model(dynamic: Model) -> None:
    def work(i: int) -> None:
        for k in range(50):
            a, b = np.full((3 + i, 4), i, np.float32), np.full(4, k, np.float32)
            np.testing.assert_array_equal(dynamic(a, b), expect(a, b))

    _in_threads(6, work)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_runs_the_parents_model(artifact: Artifact) -> None:
    model = load(artifact("dynamic"), threads=3)
    a, b = np.ones((500, 4), np.float32), np.arange(4, dtype=np.float32)
    model(a, b)
    child = os.fork()
    if child == 0:
        good = all((model(a + i, b) == expect(a + i, b)).all() for i in range(20))
        good = good and bool((model.session(threads=2)(a, b) == expect(a, b)).all())
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(model(a, b), expect(a, b))


def test_loading_needs_no_compiler(artifact: Artifact) -> None:
    script = f"""
import sys, numpy as np
from lepton.artifact import load
print(load({str(artifact("static"))!r})(np.zeros(4, np.float32)))
heavy = [m for m in ("onnx", "llvmlite", "networkx", "ml_dtypes", "lepton.codegen", "lepton.passes",
                     "lepton.frontends") if m in sys.modules]
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=handmade.ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[7. 7. 7. 7.]\n"
