"""The CUDA part of the runtime, on the fake driver: devices, images, memory, graphs, sessions, errors."""
from __future__ import annotations

import ctypes
import gc
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16
from onnx import TensorProto

import lepton
from lepton.codegen.cuda import nvrtc
from lepton.codegen.cuda.nvrtc import nvrtc as real_nvrtc
from lepton.commands.inspect_ import artifact_record, text
from lepton.devices import ON_GPU
from lepton.ir.diagnostics import LeptonError, NotInstalledError, ResourceError, UsageError
from tests.cuda.fakecuda import Fake, OnDevice, installed
from tests.cuda.simulated import COMPILER
from tests.cuda.test_artifacts import draw, mlp, model_of, node, value

pytestmark = pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++")
TARGETS = "cuda-sm80,x86-sse4,cuda-sm90"


@pytest.fixture(scope="module")
def fake() -> Iterator[Fake]:
    with installed() as driver:
        yield driver


@pytest.fixture(autouse=True)
def restored(fake: Fake) -> Iterator[None]:
    """Each test finds the usual device and leaves nothing on it."""
    gc.collect()
    before = fake.counts()
    yield
    fake.set()
    gc.collect()
    after = fake.counts()
    assert (after.allocations, after.handles) == (before.allocations, before.handles)


@pytest.fixture(scope="module")
def artifact(fake: Fake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with an open batch, for two kinds of GPUs and for CPUs."""
    path = tmp_path_factory.mktemp("artifact") / "m.so"
    lepton.compile_to(mlp()[0].SerializeToString(), path, target=TARGETS)
    return path


@pytest.fixture(scope="module")
def expected(artifact: Path) -> Any:
    return lepton.load(artifact, device="cpu")


@pytest.fixture
def fresh(artifact: Path, tmp_path: Path) -> Path:
    """A copy, whose code asks for the device again: a library is in a process once, and remembers."""
    return Path(shutil.copy(artifact, tmp_path / "fresh.so"))


# --- which code runs ------------------------------------------------------------------------------


@pytest.mark.parametrize(("capability", "target"), [
    (90, "cuda-sm90"), (80, "cuda-sm80"), (86, "cuda-sm80"), (89, "cuda-sm80"),
    (100, "cuda-sm80"), (120, "cuda-sm80")])
def test_the_nearest_image_is_chosen(fresh: Path, expected: Any, fake: Fake, capability: int, target: str) -> None:
    fake.set(capability)
    model = lepton.load(fresh)
    assert model.target == target
    x = draw(2, 12)
    np.testing.assert_allclose(model(x), expected(x), rtol=1e-5)


def test_a_device_too_old_is_an_error(fresh: Path, fake: Fake) -> None:
    fake.set(75)
    with pytest.raises(LeptonError, match=r"compiled for cuda-sm80 \(compute capability 8.0, 8.0 and later\); this "
                                          r"GPU, Fake GPU, has 7.5.*--device cpu"):
        lepton.load(fresh)
    assert lepton.load(fresh, device="auto").target == "x86-sse4"


def test_without_a_gpu_only_the_cpu_that_was_asked_for_runs(fresh: Path, fake: Fake) -> None:
    fake.set(devices=0)
    for device in (None, "cuda"):
        with pytest.raises(LeptonError, match=r"shows no GPU to this process.*holds code for CPUs too"):
            lepton.load(fresh, device=device)
    for device in ("cpu", "auto"):
        assert lepton.load(fresh, device=device)(draw(1, 12)).shape == (1, 5)
    assert lepton.load(fresh, runnable=False).target is None


def test_models_for_cpus_leave_the_driver_alone(artifact: Path, fake: Fake) -> None:
    """From start to end: it would take time, and memory of the GPU. In a process that has not asked for it yet."""
    code = ("import gc, sys, numpy, lepton; m = lepton.load(sys.argv[1], device='cpu'); s = m.session(1); "
            "s.run({p.name: numpy.zeros([2 if isinstance(d, str) else d for d in p.shape], 'f4') for p in m.inputs}); "
            "del s, m; gc.collect(); print(sys.argv[2] in open('/proc/self/maps').read())")
    done = subprocess.run([sys.executable, "-c", code, str(artifact), str(fake.path)], capture_output=True, text=True,
                          check=False)
    assert done.stdout == "False\n", done.stderr


def test_without_a_driver_the_loader_says_why(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPTON_LIBCUDA", "/nowhere/libcuda.so.1")
    with pytest.raises(LeptonError, match=r"needs an NVIDIA GPU: there is no CUDA driver \(/nowhere/libcuda.so.1: "):
        lepton.load(fresh)
    record = artifact_record(str(fresh))
    assert (record["runs_here"], record["runs_on_cpu"]) == (False, True)
    assert "needs a GPU, which is not here; --device cpu runs it" in text(record)


def test_a_file_without_the_device_asked_for_says_so(fake: Fake, tmp_path: Path) -> None:
    made = mlp()[0].SerializeToString()
    lepton.compile_to(made, tmp_path / "cpu.so", target="x86-sse4")
    with pytest.raises(LeptonError, match="no code for CUDA, only for x86-sse4"):
        lepton.load(tmp_path / "cpu.so", device="cuda")
    with pytest.raises(UsageError, match="device 'tpu'"):
        lepton.load(tmp_path / "cpu.so", device="tpu")


def test_compiling_without_nvrtc_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real_nvrtc.cache_clear()
    monkeypatch.setattr(nvrtc, "nvrtc", real_nvrtc)
    monkeypatch.setenv("LEPTON_NVRTC", "/nowhere/libnvrtc.so")
    with pytest.raises(NotInstalledError, match="needs NVRTC, which is not installed") as caught:
        lepton.compile_to(mlp()[0].SerializeToString(), tmp_path / "m.so", target="cuda-sm90")
    assert "lepton-compiler[cuda]" in str(caught.value.help)


# --- memory ---------------------------------------------------------------------------------------


def test_sessions_share_code_and_constants(artifact: Path, expected: Any, fake: Fake) -> None:
    model = lepton.load(artifact)
    first = model.session()
    one = fake.counts().bytes
    others = [model.session() for _ in range(3)]
    assert fake.counts().bytes == one        # constants are there, nothing has run
    x = draw(7, 12)
    for session in (first, *others):
        np.testing.assert_allclose(session(x), expected(x), rtol=1e-5)
    del first, others, session
    gc.collect()
    assert fake.counts().bytes == 0          # the last one takes them along


def test_sessions_run_in_threads(artifact: Path, expected: Any) -> None:
    model = lepton.load(artifact)
    xs = [draw(n, 12) for n in range(1, 7)]
    wants = [expected(x) for x in xs]
    wrong: list[object] = []

    def work(number: int) -> None:
        session = model.session()
        for turn in range(8):
            i = (number + turn // 2) % len(xs)
            if not np.allclose(session(xs[i]), wants[i], rtol=1e-5):
                wrong.append((number, turn))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_too_little_memory_is_told_with_sizes(artifact: Path, expected: Any, fake: Fake) -> None:
    model = lepton.load(artifact)
    session = model.session()
    fake.set(memory=1 << 20)
    with pytest.raises(ResourceError, match=r"no memory for '?\w+.* \(\d+ bytes\) on the GPU \(Fake GPU\): out of "
                                            r"memory; \d+ of its 1048576 bytes are free"):
        session(draw(100000, 12))
    x = draw(3, 12)
    np.testing.assert_allclose(session(x), expected(x), rtol=1e-5)  # as good as before


def test_constants_that_do_not_fit_are_told(artifact: Path, fake: Fake) -> None:
    fake.set(memory=100)
    with pytest.raises(ResourceError, match=r"take the model's \d+ bytes of constants: CUDA_ERROR_OUT_OF_MEMORY: out"):
        lepton.load(artifact).session()


# --- graphs ---------------------------------------------------------------------------------------


def graphs_of(fake: Fake, session: Any, sizes: list[int]) -> list[int]:
    """How many graph launches each run made."""
    made = []
    for n in sizes:
        before = fake.counts().graph_launches
        session(draw(n, 12))
        made.append(fake.counts().graph_launches - before)
    return made


def test_shapes_seen_before_run_as_graphs(artifact: Path, fake: Fake) -> None:
    session = lepton.load(artifact).session()
    session(draw(8, 12))  # memory is as large as it will be
    assert graphs_of(fake, session, [2, 2, 2, 5, 2, 5, 5, 2]) == [0, 1, 1, 0, 1, 1, 1, 1]


def test_the_oldest_graph_is_forgotten(artifact: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPTON_CUDA_GRAPHS", "2")
    session = lepton.load(artifact).session()
    session(draw(8, 12))
    assert graphs_of(fake, session, [2, 2, 3, 3, 2, 4, 4, 3, 2, 2]) == [0, 1, 0, 1, 1, 0, 1, 0, 0, 1]


def test_graphs_can_be_switched_off(artifact: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPTON_CUDA_GRAPHS", "0")
    assert graphs_of(fake, lepton.load(artifact).session(), [2, 2, 2]) == [0, 0, 0]


def test_step_times_are_the_devices(artifact: Path) -> None:
    model = lepton.load(artifact)
    model.profile()
    model(draw(2, 12))
    assert [t.calls for t in model.step_times()] == [1] * len(model.step_times())
    assert all(abs(t.seconds - 1e-6) < 1e-9 for t in model.step_times())  # what the fake driver says of every kernel


# --- the caller's memory --------------------------------------------------------------------------


def test_arrays_on_the_device_are_read_and_written_there(artifact: Path, expected: Any, fake: Fake) -> None:
    model = lepton.load(artifact)
    x = draw(4, 12)
    want = expected(x)
    with OnDevice(fake, x) as there, OnDevice(fake, np.zeros_like(want)) as out:
        for _ in range(3):
            np.testing.assert_allclose(model(there), want, rtol=1e-5)
            assert model.run({"x": there}, {"y": out})["y"] is out
            np.testing.assert_allclose(out.numpy(), want, rtol=1e-5)
        np.testing.assert_allclose(model(x), want, rtol=1e-5)
        with pytest.raises(UsageError, match="lies on a GPU; the model was compiled for x86-sse4"):
            expected(there)
        with pytest.raises(UsageError, match=r"output 'y': expected f32\[4,5\], got f32\[4,12\]"):
            model.run({"x": x}, {"y": there})
        out.__cuda_array_interface__["data"] = (out.address, True)
        with pytest.raises(UsageError, match="output 'y': the array on the GPU is read-only"):
            model.run({"x": x}, {"y": out})
    with OnDevice(fake, draw(12, 4), (4, 48)) as across, pytest.raises(UsageError, match="dense and row-major"):
        model(across)
    with OnDevice(fake, np.zeros((4, 12))) as double, pytest.raises(UsageError, match=r"got f64\[4,12\] on a GPU"):
        model(double)


def test_dlpack_on_the_device_is_read_there(artifact: Path, expected: Any, fake: Fake) -> None:
    x = draw(3, 12)
    with OnDevice(fake, x) as there:
        np.testing.assert_allclose(lepton.load(artifact)(Packed(there)), expected(x), rtol=1e-5)


def test_results_stay_on_the_device(artifact: Path, expected: Any, fake: Fake) -> None:
    model = lepton.load(artifact)
    x, session, other = draw(4, 12), model.session(), model.session()
    want = expected(x)
    lent = session.run({"x": x}, {"y": ON_GPU})["y"]
    facts = lent.__cuda_array_interface__
    assert (lent.shape, facts["shape"], facts["typestr"]) == (want.shape, want.shape, "<f4")
    np.testing.assert_allclose(np.frombuffer(ctypes.string_at(facts["data"][0], want.nbytes), np.float32).reshape(4, 5),
                               want, rtol=1e-5)
    widened = np.zeros((4, 12), np.float32)  # a model that reads what another one lends
    with OnDevice(fake, widened) as there:
        lent_too = other.run({"x": there}, {"y": ON_GPU})["y"]
    with pytest.raises(LeptonError, match=r"input 'x': expected f32\[N,12\], got f32\[4,5\]"):
        session.run({"x": lent_too})
    session(x)
    with pytest.raises(UsageError, match="has run again"):
        _ = lent.__cuda_array_interface__
    with pytest.raises(UsageError, match="output 'y' lies on a GPU; the model was compiled for x86-sse4"):
        expected.run({"x": x}, {"y": ON_GPU})


def test_lent_results_are_inputs_of_other_sessions(fake: Fake, tmp_path: Path) -> None:
    made = model_of([node("Mul", ["x", "x"], ["y"])], [value("x", ["N"])], [value("y", ["N"])], [])
    lepton.compile_to(made.SerializeToString(), tmp_path / "m.so", target="cuda-sm90")
    model = lepton.load(tmp_path / "m.so")
    first, second, x = model.session(), model.session(), draw(9)
    lent = first.run({"x": x}, {"y": ON_GPU})["y"]
    np.testing.assert_allclose(second(lent), x**4, rtol=1e-5)
    for given in (lent, Packed(SimpleNamespace(like=x, address=lent.__cuda_array_interface__["data"][0]))):
        with pytest.raises(UsageError, match="input 'x' lies in memory of this session's own, lent for 'y'"):
            first.run({"x": given}, {"y": ON_GPU})
    np.testing.assert_allclose(first(x), x**2, rtol=1e-5)


@pytest.mark.usefixtures("fake")
def test_lent_halves_are_inputs_too(tmp_path: Path) -> None:
    """bf16, for which the array interface has no word."""
    made = model_of([node("Mul", ["x", "x"], ["y"])], [value("x", ["N"], TensorProto.BFLOAT16)],
                    [value("y", ["N"], TensorProto.BFLOAT16)], [])
    lepton.compile_to(made.SerializeToString(), tmp_path / "m.so", target="cuda-sm90")
    model = lepton.load(tmp_path / "m.so")
    first, x = model.session(), np.array([2, -0.5, np.inf], bfloat16)
    lent = first.run({"x": x}, {"y": ON_GPU})["y"]
    assert model.session()(lent).tolist() == [16, 0.0625, np.inf]
    with pytest.raises(UsageError, match="no word for elements of type bfloat16"):
        _ = lent.__cuda_array_interface__


def test_a_stream_of_anothers_is_waited_for(artifact: Path, expected: Any, fake: Fake) -> None:
    stream, x = ctypes.c_void_p(), draw(4, 12)
    driver = fake.library
    driver.cuCtxPushCurrent_v2(fake._context())
    assert driver.cuStreamCreate(ctypes.byref(stream), 1) == 0
    with OnDevice(fake, np.zeros_like(x)) as there:
        assert driver.cuMemcpyHtoDAsync_v2(ctypes.c_uint64(there.address), ctypes.c_void_p(x.ctypes.data),
                                           ctypes.c_size_t(x.nbytes), stream) == 0
        there.__cuda_array_interface__["stream"] = stream.value
        np.testing.assert_allclose(lepton.load(artifact)(there), expected(x), rtol=1e-5)
        assert driver.cuStreamDestroy_v2(stream) == 0
        there.__cuda_array_interface__["stream"] = 77
        with pytest.raises(LeptonError, match="cannot wait for its stream: as the fake driver says"):
            lepton.load(artifact)(there)
    driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def test_outputs_are_written_by_dlpack_too(artifact: Path, expected: Any, fake: Fake) -> None:
    x = draw(3, 12)
    want = expected(x)
    with OnDevice(fake, np.zeros_like(want)) as out:
        lepton.load(artifact).run({"x": x}, {"y": Packed(out)})
        np.testing.assert_allclose(out.numpy(), want, rtol=1e-5)


class Packed:
    """The same memory by DLPack alone, as torch has it: the capsule is numpy's, with another device and address."""

    def __init__(self, array: Any, number: int = 0) -> None:
        self.array, self.number = array, number

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.number

    def __dlpack__(self, *, stream: int) -> object:
        from lepton.devices import _Tensor

        assert stream == 1
        capsule = self.array.like.__dlpack__()
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        tensor = _Tensor.from_address(get(capsule, b"dltensor"))
        tensor.data, tensor.device = self.array.address, 2
        return capsule


def test_another_gpu_is_refused(artifact: Path, fake: Fake) -> None:
    with OnDevice(fake, draw(3, 12)) as there, pytest.raises(UsageError, match="lies on GPU 1; models run on"):
        lepton.load(artifact)(Packed(there, number=1))


# --- what is in the file --------------------------------------------------------------------------


def test_the_same_model_gives_the_same_file(fake: Fake, tmp_path: Path) -> None:
    made = mlp()[0].SerializeToString()
    for name in ("a.so", "b.so"):
        lepton.compile_to(made, tmp_path / name, target="cuda-sm90")
    assert (tmp_path / "a.so").read_bytes() == (tmp_path / "b.so").read_bytes()


def test_inspect_lists_images_and_kernels(artifact: Path) -> None:
    record = artifact_record(str(artifact))
    assert record["targets"] == ["cuda-sm90", "cuda-sm80", "x86-sse4"]
    assert [(i["arch"], i["kind"]) for i in record["cuda"]["images"]] == [(90, "cubin, this one alone")]
    assert record["cuda"]["kernels"][0]["threads"] % 32 == 0
    assert "image   9.0 (cubin, this one alone)" in text(record)


def test_draws_repeat_by_seed(fake: Fake, tmp_path: Path) -> None:
    made = model_of([node("RandomNormalLike", ["x"], ["r"]), node("Add", ["x", "r"], ["y"])],
                    [value("x", [64])], [value("y", [64])], [])
    lepton.compile_to(made.SerializeToString(), tmp_path / "m.so", target="cuda-sm90,x86-sse4")
    model, cpu = lepton.load(tmp_path / "m.so"), lepton.load(tmp_path / "m.so", device="cpu")
    x = np.zeros(64, np.float32)
    first, second = model(x), model(x)
    assert not np.array_equal(first, second)
    np.testing.assert_allclose(first, cpu(x), atol=1e-5)
    model.seed(0)
    np.testing.assert_array_equal(model(x), first)
