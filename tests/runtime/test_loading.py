"""Which files load, and how models live side by side in a process."""
from __future__ import annotations

import gc
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton.artifact import Model, Session
from lepton.codegen.weights_segment import seal
from lepton.ir.diagnostics import LeptonError
from lepton.library import load
from tests.runtime import handmade

Artifact = Callable[..., Path]
X = np.array([0, 1, 2, 3], np.float32)
A, B = np.ones((2, 4), np.float32), np.ones(4, np.float32)


@pytest.fixture
def dynamic(artifact: Artifact) -> Model:
    return load(artifact("dynamic"))


def expect(a: Any, b: Any) -> Any:
    """What the dynamic program computes."""
    return 2 * a + b


# ---- wrong files ----

def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(LeptonError, match=r"cannot load .*nowhere.so: No such file"):
        load(tmp_path / "nowhere.so")
    with pytest.raises(LeptonError, match="it is a folder"):
        load(tmp_path)
    with pytest.raises(LeptonError, match="embedded null"):
        load("model.so\0")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc")
def test_a_file_that_cannot_be_read() -> None:
    with pytest.raises(LeptonError, match="it cannot be read: Input/output error"):
        load("/proc/self/mem")  # nothing is mapped at 0


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
    with pytest.raises(LeptonError, match="not written by this version of leptonc"):
        load(tmp_path / "other.so")
    with open(tmp_path / "other.so", "r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(seal(file.fileno(), file.tell()))
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


def test_python_goes_on_while_a_model_runs(artifact: Artifact) -> None:
    """The kernel waits (at most 10 s) for what only this thread does, and never sees it if Python stands still."""
    model, x = load(artifact("waiting"), threads=1), np.array([0, 1, 2, 3], np.float32)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(model(x)))
    thread.start()
    while x[1] != -1 and thread.is_alive():  # not in the kernel yet
        time.sleep(0.001)
    x[0] = 1
    thread.join()
    np.testing.assert_array_equal(results[0], [9, 5, 11, 13])


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


def _in_child(work: Callable[[], bool]) -> int:
    """The exit status of a forked child: 0 where `work` gives True; it may not hang."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            signal.alarm(20)
            status = 0 if work() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("own", [False, True], ids=["model", "session"])
def test_a_fork_in_the_middle_of_another_threads_run(artifact: Artifact, own: bool) -> None:
    """The model makes its child another session; a session says that it is of no use there. Neither waits."""
    model = load(artifact("waiting"), threads=1)
    runner = model.session() if own else model
    x = np.array([0, 1, 2, 3], np.float32)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(runner(x)))
    thread.start()
    while x[1] != -1 and thread.is_alive():  # not in the kernel yet
        time.sleep(0.001)
    running = np.array([1, 1, 2, 3], np.float32)

    def runs() -> bool:
        return bool((model(running) == [9, 5, 11, 13]).all())

    def refuses() -> bool:
        assert isinstance(runner, Session)
        for call in (lambda: runner(running), runner.profile, lambda: runner.seed(1)):
            with pytest.raises(LeptonError, match="another thread was running this session when the process forked"):
                call()
        return runs()

    status = _in_child(refuses if own else runs)
    x[0] = 1
    thread.join()
    assert status == 0
    np.testing.assert_array_equal(results[0], [9, 5, 11, 13])
    np.testing.assert_array_equal(runner(running), [9, 5, 11, 13])  # the parent's is whole


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_while_another_thread_makes_a_models_session(artifact: Artifact) -> None:
    model = load(artifact("static"))
    with_lock, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with model._making:
            with_lock.set()
            go_on.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    with_lock.wait(30)
    status = _in_child(lambda: bool((model(X) == model.session()(X)).all()))
    go_on.set()
    thread.join()
    assert status == 0


def test_loading_needs_no_compiler(artifact: Artifact) -> None:
    script = f"""
import sys, numpy as np
from lepton.library import load
print(load({str(artifact("static"))!r})(np.zeros(4, np.float32)))
heavy = [m for m in ("onnx", "llvmlite", "networkx", "ml_dtypes", "lepton.codegen", "lepton.passes",
                     "lepton.frontends") if m in sys.modules]
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=handmade.ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[7. 7. 7. 7.]\n"
