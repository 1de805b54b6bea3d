"""The sections of benchmarks.cuda.gpu: each prints its results as lines of JSON and stops when its time is up."""
from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cuda.gpu import TESTS
from benchmarks.cuda.operators import CASES, SMALL, Case

ROUNDS, TURNS = 30, 5
TOLERANCE = 1e-3
SIMULATED = "simulate" in sys.argv[4:]   # small, on the fake driver
FEW = ("tests/codegen/test_lower_map.py", "-k", "x86-avx2 and broadcast")  # of the kernels' tests, then
Record = dict[str, Any]


def tell(**record: Any) -> None:
    print(json.dumps(record), flush=True)


def device() -> str:
    """The target of the GPU at hand."""
    from benchmarks.cuda.driver import Device

    capability = Device().capability
    return {8: "cuda-sm80", 9: "cuda-sm90", 12: "cuda-sm120"}.get(capability // 10, "cuda-sm80")


def torch_or_none() -> Any:
    return import_module("torch") if find_spec("torch") and not SIMULATED else None


def median_ms(call: Callable[[], Any], until: float) -> float:
    """The median of turns on the device, by events."""
    torch = import_module("torch")
    taken: list[float] = []
    for _ in range(3):
        call()
    while len(taken) < ROUNDS and (len(taken) < 3 or time.monotonic() < until):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(TURNS):
            call()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) / TURNS)
    return statistics.median(taken)


def graphed(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call as a CUDA graph of torch's."""
    torch = import_module("torch")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay  # type: ignore[no-any-return]


def env(until: float, _models: Path | None) -> None:
    from lepton.codegen.cuda.nvrtc import nvrtc

    query = ["echo", "simulated"] if SIMULATED else [
        "nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    seen = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    torch = torch_or_none()
    tell(gpu=seen, target=device(), nvrtc=nvrtc().version, torch=torch.__version__ if torch else None)
    if torch is None:
        tell(missing="torch: no ceilings")
        return
    a = torch.randn(1 << 28, device="cuda")
    b = torch.empty_like(a)
    ms = median_ms(lambda: b.copy_(a), until)
    tell(name="copy of 1 GiB", ms=ms, gigabytes_per_second=2 * a.nbytes / ms / 1e6)
    x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    ms = median_ms(graphed(lambda: x @ x), until)
    tell(name="torch bf16 8192^3", ms=ms, tflops=2 * 8192**3 / ms / 1e9)


def wrappers(until: float, _models: Path | None) -> None:
    from benchmarks.cuda.driver import Device
    from benchmarks.cuda.wrappers import WRAPPERS, simulated, source
    from lepton.codegen.cuda.nvrtc import nvrtc
    from lepton.codegen.cuda.source import device_source
    from lepton.codegen.target import CUDA_TARGETS

    if shutil.which("g++") is None:
        tell(missing="g++: no simulator to compare with")
        return
    arch = CUDA_TARGETS[device()].arch
    here, image = Device(), nvrtc().compile(device_source([source(WRAPPERS)]), arch).data
    there = simulated(WRAPPERS)
    for i, wrapper in enumerate(WRAPPERS):
        if time.monotonic() > until:
            tell(name=wrapper.name, ok=False, error="no time left")
            continue
        difference = wrapper.difference(wrapper.on_device(here, image, f"k{i}"), wrapper.on_simulator(there, f"k{i}"))
        tell(name=wrapper.name, ok=difference <= wrapper.tolerance, difference=difference)


def pytest_record(prefix: list[str], arguments: list[str], until: float) -> None:
    """Run pytest with kernels on the GPU and tell its counts."""
    fake = ["-p", "tests.cuda.on_fake"] if SIMULATED else []
    command = [*prefix, sys.executable, "-m", "pytest", "-q", "-n0", *fake, "-p", "benchmarks.cuda.replay", *arguments]
    try:
        left = max(5.0, until - time.monotonic())
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=left)
        text, code = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        text, code = (error.stdout or b"").decode(errors="replace"), 124
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)\b", text)}
    tell(name=" ".join(arguments), ok=code == 0, timed_out=code == 124, **counts, end=text[-600:] if code else "")


def kernels(until: float, _models: Path | None) -> None:
    if SIMULATED:
        pytest_record([], list(FEW), until)
        return
    for i, path in enumerate(TESTS):
        pytest_record([], [path, *([] if "cuda" in path else ["-k", "x86-avx2"])],
                      time.monotonic() + (until - time.monotonic()) / (len(TESTS) - i))


def sanitizer(until: float, _models: Path | None) -> None:
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        tell(missing="compute-sanitizer")
        return
    for i, kind in enumerate(("memcheck", "racecheck")):
        pytest_record([tool, "--tool", kind, "--error-exitcode", "9"], [TESTS[0], "-x"],
                      time.monotonic() + (until - time.monotonic()) / (2 - i))


def cases(models: Path | None) -> Iterator[tuple[str, Any, list[Record]]]:
    """Name, model, and inputs of several runs."""
    from tests.cuda import test_artifacts

    for make in test_artifacts.MODELS[:2] if SIMULATED else test_artifacts.MODELS:
        made, feeds = make()
        yield make.__name__, made.SerializeToString(), feeds
    for path in sorted(models.glob("*.onnx")) if models else ():
        yield path.stem, str(path), [random_inputs(path)] * 2


def random_inputs(path: Path) -> Record:
    from lepton.frontends import load
    from lepton.inputs import make_inputs, ports_of, symbols

    ports = ports_of(load(path))
    return dict(make_inputs(ports, [], dict.fromkeys(symbols(ports), 1), 0))


def models(until: float, folder: Path | None) -> None:
    import onnxruntime

    import lepton

    target = device()
    for name, source, runs in cases(folder):
        if time.monotonic() > until:
            tell(name=name, ok=False, error="no time left")
            continue
        with tempfile.TemporaryDirectory() as place:
            lepton.compile_to(source, Path(place) / "m.so", target=target)
            model, reference = lepton.load(Path(place) / "m.so"), onnxruntime.InferenceSession(source)
            worst = 0.0
            for feeds in runs:
                for want, got in zip(reference.run(None, feeds), model.run(feeds).values(), strict=True):
                    error = np.abs(want.astype(np.float64) - got.astype(np.float64)).max(initial=0)
                    worst = max(worst, float(error / max(1.0, np.abs(want).max(initial=0))))
            tell(name=name, ok=worst < TOLERANCE, error_against_ort=worst)


def kernel_ms(model: Any, feeds: Record) -> float:
    """All kernels of a run on the device, the median."""
    session = model.session()
    session.run(feeds)
    taken = []
    for _ in range(1 if SIMULATED else ROUNDS):
        session.profile()
        session.run(feeds)
        taken.append(sum(t.seconds for t in session.step_times()) * 1e3)
    return float(statistics.median(taken))


def ops(until: float, _models: Path | None) -> None:
    import lepton

    torch, target, wanted = torch_or_none(), device(), SMALL if SIMULATED else CASES
    for i, case in enumerate(wanted):
        end = time.monotonic() + (until - time.monotonic()) / (len(wanted) - i)
        if time.monotonic() > until:
            tell(name=case.name, ok=False, error="no time left")
            continue
        with tempfile.TemporaryDirectory() as place:
            lepton.compile_to(case.model(), Path(place) / "m.so", target=target)
            ours = kernel_ms(lepton.load(Path(place) / "m.so"), case.feeds())
        theirs = median_ms(graphed(case.torch_call(torch)), end) if torch else None
        tell(name=case.name, lepton_ms=ours, torch_ms=theirs, **rates(case, ours),
             ratio=theirs / ours if theirs else None)


def rates(case: Case, ms: float) -> Record:
    return {"tflops": case.flops / ms / 1e9, "gigabytes_per_second": case.bytes / ms / 1e6}


def speed(until: float, folder: Path | None) -> None:
    """Whole models from device memory to device memory, so that the host's copies are nobody's cost."""
    import lepton

    torch = torch_or_none()
    paths = sorted(folder.glob("*.onnx")) if folder else []
    if torch is None or not paths or find_spec("onnx2torch") is None:
        tell(missing="torch, onnx2torch or --models FOLDER")
        return
    for i, path in enumerate(paths):
        end = time.monotonic() + (until - time.monotonic()) / (len(paths) - i)
        arrays = random_inputs(path)
        there = {n: torch.from_numpy(a).cuda() for n, a in arrays.items()}
        with tempfile.TemporaryDirectory() as place:
            lepton.compile_to(path, Path(place) / "m.so", target=device())
            model = lepton.load(Path(place) / "m.so")
            out = {n: torch.from_numpy(a).cuda() for n, a in model.run(arrays).items()}
            record = {"lepton_ms": median_ms(lambda: model.run(there, out), end)}  # noqa: B023
        convert: Any = import_module("onnx2torch").convert
        net = convert(str(path)).cuda().eval()
        ways: dict[str, Callable[[], Callable[[], Any]]] = {
            "torch_graph_ms": lambda: graphed(lambda: net(*there.values())),  # noqa: B023
            "torch_compile_ms": lambda: _compiled(torch, net, list(there.values()), "reduce-overhead"),  # noqa: B023
            "torch_autotune_ms": lambda: _compiled(torch, net, list(there.values()), "max-autotune")}  # noqa: B023
        for name, way in ways.items():
            with torch.no_grad():
                try:
                    record[name] = median_ms(way(), end)
                except Exception as error:  # whatever a peer fails by is its result
                    tell(name=path.stem, peer=name, error=f"{type(error).__name__}: {error}"[:300])
        tell(name=path.stem, **record)


def _compiled(torch: Any, net: Any, arguments: list[Any], mode: str) -> Callable[[], Any]:
    made = torch.compile(net, mode=mode)
    return lambda: made(*arguments)


SECTIONS: dict[str, Callable[[float, Path | None], None]] = {
    "env": env, "wrappers": wrappers, "kernels": kernels, "sanitizer": sanitizer, "models": models, "ops": ops,
    "speed": speed}

if __name__ == "__main__":
    if SIMULATED:
        from tests.cuda import on_fake  # noqa: F401  (installs it)
    SECTIONS[sys.argv[1]](time.monotonic() + float(sys.argv[2]), Path(sys.argv[3]) if sys.argv[3] else None)
