"""The main job on a GPU: compile Magika's model for CUDA and let it name this repository's own files.

    make demo-cuda        or python -m benchmarks.cuda.demo

Without a GPU the same artifact runs on the simulator of the tests: its kernels' text goes through g++, one file at a
time; that needs g++ and is slow. Says which of the two it was. Exit status: 0 agrees with ONNX Runtime, 1 does not.
"""
from __future__ import annotations

import argparse
import ctypes
import shutil
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.demo import fetched, in_float64, interleaved, onnxruntime_session, own_files, show, verdict
from lepton.ir.diagnostics import Exit, UsageError

TARGETS = "cuda-sm80,cuda-sm90,cuda-sm120,x86-avx2"
ROUNDS = 30


def has_gpu() -> bool:
    """Whether the driver shows this process a GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def machine(gpu: bool) -> AbstractContextManager[object]:
    """Where CUDA's kernels run. Raises UsageError where there is no g++ to simulate with."""
    if gpu:
        return nullcontext()
    if shutil.which("g++") is None:
        raise UsageError("there is no GPU here, and no g++ for the simulator", help="apt install g++")
    from tests.cuda.fakecuda import installed

    return installed()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=0, help="how many files to name (default: 24; simulated: 2)")
    asked = parser.parse_args().files
    gpu = has_gpu()
    print("running on the GPU" if gpu else "no GPU here: running on the simulator, which is slow", flush=True)
    try:
        with machine(gpu), tempfile.TemporaryDirectory() as folder:
            return demonstrate(Path(folder) / "magika.so", gpu, asked or (24 if gpu else 2))
    except UsageError as error:
        print(f"demo-cuda: {error}", file=sys.stderr)
        return int(Exit.USAGE)


def demonstrate(artifact: Path, gpu: bool, count: int) -> int:
    """Compile, run, compare; times where they mean something."""
    import lepton

    source, types = fetched()
    targets = TARGETS if gpu else "cuda-sm90"
    print(f"$ leptonc {source.name} -o {artifact.name} --target {targets}", flush=True)
    start = time.perf_counter()
    report = lepton.compile_to(source, artifact, target=targets)
    print(f"{report.size} bytes in {time.perf_counter() - start:.1f} s", flush=True)
    model, session = lepton.load(artifact), onnxruntime_session(source)
    files = own_files(count)
    data = types.batch(files)
    scores = np.concatenate([model.run({"bytes": row[None]})["target_label"] for row in data])
    theirs = np.concatenate([session.run(None, {"bytes": row[None]})[0] for row in data])
    show(files, types, scores, theirs)
    agree, said = verdict(scores, theirs, in_float64(source, data))
    if gpu:
        tell_times(model, session, data)
    print(f"\n{model.target}, {'GPU' if gpu else 'simulated'}: {said}")
    return 0 if agree else 1


def tell_times(model: Any, session: Any, data: Any) -> None:
    one = {"bytes": np.ascontiguousarray(data[:1])}
    ours, theirs = interleaved([lambda: model.run(one), lambda: session.run(None, one)], ROUNDS)
    print(f"\none file, from and to host memory, medians of {ROUNDS} interleaved rounds: {ours:.3f} ms; "
          f"ONNX Runtime, one thread of the CPU: {theirs:.3f} ms")


if __name__ == "__main__":
    sys.exit(main())
