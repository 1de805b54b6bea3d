"""The sections of benchmarks.cuda.gpu: each prints its results as lines of JSON and stops when its time is up."""
from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.cuda import peers
from benchmarks.cuda.gpu import TESTS, arguments
from benchmarks.cuda.operators import CASES, SMALL, Case
from benchmarks.cuda.peers import ROUNDS, graphed, median_ms, torch_or_none
from lepton.codegen.cuda import split

TOLERANCE, OUT_OF_TIME = 1e-3, 124
SIMULATED = "--simulate" in sys.argv   # small, on the fake driver
FEW = ("tests/codegen/test_lower_map.py", "-k", "x86-avx2 and broadcast")  # of the kernels' tests, then
MATH = {"f32": "default", "tf32": "fast"}   # ours, by the policy that torch has too
SWITCHED = "resnet50 b1,bert-base b1"
Record = dict[str, Any]
Options = argparse.Namespace


def tell(**record: Any) -> None:
    print(json.dumps(record), flush=True)


def late(name: str, until: float, **more: Any) -> bool:
    """Whether there is no time left, which is told."""
    over = time.monotonic() > until
    if over:
        tell(name=name, late="no time left", **more)
    return over


def device() -> str:
    """The target of the GPU at hand."""
    from benchmarks.cuda.driver import Device

    capability = Device().capability
    return {8: "cuda-sm80", 9: "cuda-sm90", 12: "cuda-sm120"}.get(capability // 10, "cuda-sm80")


def env(until: float, options: Options) -> None:
    from lepton.codegen.cuda.nvrtc import nvrtc

    query = ["echo", "simulated"] if SIMULATED else [
        "nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    seen = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    torch = torch_or_none()
    tell(gpu=seen, target=device(), nvrtc=nvrtc().version, torch=torch.__version__ if torch else None)
    if torch is None:
        tell(missing="torch: no ceilings")
        return
    a = torch.randn(1 << (10 if SIMULATED else 28), device=peers.place())
    b = torch.empty_like(a)
    ms = median_ms(lambda: b.copy_(a), until)
    tell(name=f"copy of {a.nbytes} bytes", ms=ms, gigabytes_per_second=2 * a.nbytes / ms / 1e6)
    n = 64 if SIMULATED else 8192
    x = torch.randn(n, n, device=peers.place(), dtype=torch.bfloat16)
    ms = median_ms(graphed(lambda: x @ x), until)
    tell(name=f"torch bf16 {n}^3", ms=ms, tflops=2 * n**3 / ms / 1e9)


def wrappers(until: float, options: Options) -> None:
    from benchmarks.cuda.driver import Device
    from benchmarks.cuda.wrappers import WRAPPERS, simulated, source
    from lepton.codegen.cuda.nvrtc import nvrtc
    from lepton.codegen.cuda.source import device_source
    from lepton.codegen.target import CUDA_TARGETS

    if shutil.which("g++") is None:
        tell(missing="g++: no simulator to compare with")
        return
    arch = CUDA_TARGETS[device()].arch
    wanted = [w for w in WRAPPERS if w.arch in ("", arch)]
    here, image = Device(), nvrtc().compile(device_source([source(wanted)]), arch).data
    there = simulated(wanted)
    for i, wrapper in enumerate(wanted):
        if late(wrapper.name, until):
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
        text, code = (error.stdout or b"").decode(errors="replace"), OUT_OF_TIME
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)\b", text)}
    in_time = code != OUT_OF_TIME
    good = not code if in_time else not re.search(r"^[.sx]*[FE]", text, re.MULTILINE)   # of those that ran
    more = {} if in_time else {"late": "not all of them in time"}
    tell(name=" ".join(arguments), ok=good, **more, **counts, end=text[-600:] if code else "")


def kernels(until: float, options: Options) -> None:
    if SIMULATED:
        pytest_record([], list(FEW), until)
        return
    for i, path in enumerate(TESTS):
        pytest_record([], [path, *([] if "cuda" in path else ["-k", "x86-avx2"])],
                      time.monotonic() + (until - time.monotonic()) / (len(TESTS) - i))


def sanitizer(until: float, options: Options) -> None:
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


def models(until: float, options: Options) -> None:
    import onnxruntime

    import lepton

    target = device()
    for name, source, runs in cases(options.models):
        if late(name, until):
            continue
        with tempfile.TemporaryDirectory() as place:
            lepton.compile_to(source, Path(place) / "m.so", target=target)
            model, reference = lepton.load(Path(place) / "m.so"), onnxruntime.InferenceSession(source)
            worst = 0.0
            for feeds in runs:
                for want, got in zip(reference.run(None, feeds), model.run(feeds).values(), strict=True):
                    worst = max(worst, apart(want, got))
            tell(name=name, ok=worst < TOLERANCE, error_against_ort=worst)


def apart(want: Any, got: Any) -> float:
    """The largest difference, of 1 or of the largest number where that is more."""
    error = np.abs(want.astype(np.float64) - got.astype(np.float64)).max(initial=0)
    return float(error / max(1.0, np.abs(want).max(initial=0)))


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


def ops(until: float, options: Options) -> None:
    import lepton

    if torch_or_none():
        peers.set_policy("f32")
    torch, target, wanted = torch_or_none(), device(), SMALL if SIMULATED else CASES
    for i, case in enumerate(wanted):
        end = time.monotonic() + (until - time.monotonic()) / (len(wanted) - i)
        if late(case.name, until):
            continue
        with tempfile.TemporaryDirectory() as place:
            lepton.compile_to(case.model(), Path(place) / "m.so", target=target)
            ours = kernel_ms(lepton.load(Path(place) / "m.so"), case.feeds())
        call = case.torch_call(torch, peers.place()) if torch else None
        theirs = None if call is None else median_ms(call if case.waits else graphed(call), end)
        tell(name=case.name, lepton_ms=ours, torch_ms=theirs, **rates(case, ours),
             ratio=theirs / ours if theirs else None)


def rates(case: Case, ms: float) -> Record:
    return {"tflops": case.flops / ms / 1e9, "gigabytes_per_second": case.bytes / ms / 1e6}


@dataclass(frozen=True)
class Entry:
    """A network of `speed` as a file, with inputs."""

    name: str
    batch: int
    path: Path
    feeds: Record


def entries(options: Options, place: Path) -> Iterator[Entry]:
    """Those of benchmarks.cuda.networks whose names hold one of the words asked for, and the files of a folder."""
    from benchmarks.cuda.networks import NETWORKS

    words = options.networks.split(",")
    for network in NETWORKS:
        if any(word in network.name for word in words):
            path = place / f"{network.name}.onnx"
            yield Entry(network.name, network.batch, path, network.write(path, SIMULATED))
    for path in sorted(options.models.glob("*.onnx")) if options.models else ():
        yield Entry(path.stem, 1, path, random_inputs(path))


def speed(until: float, options: Options) -> None:
    """Whole networks, all of them one way before the next: what the time does not suffice for is the slowest to
    prepare. Each result is told at once."""
    peers_there = torch_or_none() is not None and find_spec("onnx2torch") is not None
    if not peers_there:
        tell(missing="torch or onnx2torch: no peers")
    else:
        peers.set_policy(options.policy)
    with tempfile.TemporaryDirectory() as place:
        made = []
        for entry in entries(options, Path(place)):
            if not late(entry.name, until, way="lepton"):
                tell(name=entry.name, batch=entry.batch, policy=options.policy, way="lepton",
                     **lepton_run(entry, options, until))
                made.append(entry)
        nets: dict[str, peers.Network] = {}
        for way in peers.WAYS if peers_there else ():
            for entry in made:
                if not late(entry.name, until, way=way):
                    tell(name=entry.name, batch=entry.batch, policy=options.policy, way=way,
                         **peer_run(entry, way, nets, until))


SWITCHES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "none": nullcontext, "launches in turn": partial(mock.patch.dict, os.environ, LEPTON_CUDA_EARLY="0"),
    "sums whole": partial(mock.patch.object, split, "MOST_PARTS", 1)}


def switches(until: float, options: Options) -> None:
    """What launching early and sharing sums are good for, network by network."""
    options.networks = options.networks or SWITCHED
    with tempfile.TemporaryDirectory() as place:
        for entry in entries(options, Path(place)):
            for name, switch in SWITCHES.items() if entry.batch == 1 else ():
                if not late(entry.name, until, switch=name):
                    with switch():
                        tell(name=entry.name, switch=name, **lepton_run(entry, options, until))


def lepton_run(entry: Entry, options: Options, until: float) -> Record:
    """From device memory to device memory, so that the host's copies are nobody's cost; `ms` only where torch has
    memory there and the clock."""
    import onnxruntime

    import lepton

    with tempfile.TemporaryDirectory() as place:
        start = time.monotonic()
        lepton.compile_to(entry.path, Path(place) / "m.so", target=device(), math=MATH[options.policy])
        compiled = time.monotonic() - start
        model = lepton.load(Path(place) / "m.so")
        got = model.run(entry.feeds)
        want = onnxruntime.InferenceSession(entry.path).run(None, entry.feeds)
        error = max(apart(w, g) for w, g in zip(want, got.values(), strict=True))
        record = {"ok": error < TOLERANCE, "error_against_ort": error, "compile_s": compiled,
                  "kernels_ms": kernel_ms(model, entry.feeds)}
        if peers.on_gpu():
            there, out = peers.tensors(entry.feeds), peers.tensors(got)
            record["ms"] = median_ms(lambda: model.run(there, out), until)
        return record


def peer_run(entry: Entry, way: str, nets: dict[str, peers.Network], until: float) -> Record:
    """Whatever a peer fails by is its result."""
    try:
        if entry.name not in nets:
            nets[entry.name] = peers.Network(entry.path, entry.feeds)
        return {"ms": nets[entry.name].ms(way, until)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}


SECTIONS: dict[str, Callable[[float, Options], None]] = {
    "env": env, "wrappers": wrappers, "kernels": kernels, "sanitizer": sanitizer, "models": models, "ops": ops,
    "speed": speed, "switches": switches}

if __name__ == "__main__":
    if SIMULATED:
        from tests.cuda import on_fake  # noqa: F401  (installs it)
    parser = arguments()
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("seconds", type=float)
    given = parser.parse_args()
    SECTIONS[given.section](time.monotonic() + given.seconds, given)
