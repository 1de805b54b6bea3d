"""The main job on real input: compile Magika's model to a .so and let it name this repository's own files.

    make demo        or, where Lepton and onnxruntime are installed, python -m benchmarks.demo

Shows a table of files, labels and scores, the time of one file next to ONNX Runtime (both with one thread, taking
turns), and whether the two agree on every file: the same label, and scores as near as ONNX Runtime's to those that
the model has in float64. (The nearest yardstick would be ONNX Runtime's own scores; but a file between two kinds, such
as MANIFEST.in, makes of its rounding a difference of 5e-4.) Exit status: 0 they agree, 1 they do not.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.file_types import FileTypes, read_config
from tests.models.fetch_models import FILES, models_folder, provide

CHECKOUT = Path(__file__).parents[1]
IGNORED = {"build", "dist", "__pycache__"}
TOLERANCE = 1e-4  # of a score, wherever ONNX Runtime comes nearer than half of it to float64
ROUNDS = 30


def fetched() -> tuple[Path, FileTypes]:
    """Magika's model and settings, out of its own package."""
    folder = models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        if file.name.startswith("magika"):
            provide(file, folder)
    return folder / "magika_standard_v3_3.onnx", read_config(folder / "magika_config.json")


def own_files(count: int) -> list[Path]:
    """Files of the checkout, as many kinds as there are: the largest of each suffix, then the next of each."""
    found: dict[str, list[Path]] = {}
    for file in sorted(CHECKOUT.rglob("*")):
        place = file.relative_to(CHECKOUT)
        hidden = place.parts[0].startswith(".") and place.parts[0] not in (".ci", file.name)
        if file.is_file() and not hidden and not IGNORED & set(place.parts) and ".egg-info" not in place.parts[0]:
            found.setdefault(file.suffix or file.name, []).append(file)
    for files in found.values():
        files.sort(key=lambda file: -file.stat().st_size)
    rounds = max(map(len, found.values()))
    ranked = [files[i] for i in range(rounds) for files in found.values() if i < len(files)]
    return sorted(file for file in ranked[:count] if file.stat().st_size > 0)


def compile_model(model: Path, artifact: Path) -> None:
    """What a user types; leptonc's own summary is shown."""
    leptonc = Path(sys.executable).with_name("leptonc")
    print(f"$ leptonc {model.name} -o {artifact.name}", flush=True)
    subprocess.run([str(leptonc), str(model), "-o", str(artifact)], check=True)


def interleaved(engines: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Median milliseconds of each, the engines taking turns, several calls a turn."""
    times: list[list[float]] = [[] for _ in engines]
    for _ in range(rounds):
        for engine, taken in zip(engines, times, strict=True):
            engine()  # the caches are the other's
            for _ in range(5):
                start = time.perf_counter()
                engine()
                taken.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(taken) for taken in times]


def onnxruntime_session(model: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def in_float64(model: Path, data: np.ndarray) -> np.ndarray:
    """The scores by each op's meaning in numpy, f32 taken as f64: no kernel of Lepton's has a part in them."""
    from lepton import frontends
    from lepton.ir.evaluate import evaluate

    graph = frontends.load(model)
    return np.concatenate([evaluate(graph, row[None], float64=True)[0] for row in data])


def verdict(scores: np.ndarray, theirs: np.ndarray, exact: np.ndarray) -> tuple[bool, str]:
    """Whether both engines name every file alike, Lepton as near to `exact` as ONNX Runtime; the same in words."""
    error, their_error = (float(np.abs(answer - exact).max()) for answer in (scores, theirs))
    agree = (scores.argmax(1) == theirs.argmax(1)).all() and error <= max(TOLERANCE, 2 * their_error)
    return bool(agree), (
        f"{len(scores)} files, largest error of a score against float64: Lepton {error:.1e}, "
        f"ONNX Runtime {their_error:.1e}: the two {'agree' if agree else 'DISAGREE'}"
    )


def show(files: list[Path], types: FileTypes, scores: np.ndarray, theirs: np.ndarray) -> None:
    """Print the table of files, labels and scores."""
    print(f"\n{'file':44} {'label':12} {'score':>6}   ONNX Runtime")
    for file, row, other in zip(files, scores, theirs, strict=True):
        name, label, their_label = str(file.relative_to(CHECKOUT)), types.labels[row.argmax()], other.argmax()
        same = "the same" if their_label == row.argmax() else types.labels[their_label]
        print(f"{name[-44:]:44} {label:12} {row.max():6.3f}   {same}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=24, help="how many files to name (default: 24)")
    options = parser.parse_args()
    import lepton

    source, types = fetched()
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "magika.so"
        compile_model(source, artifact)
        model, session = lepton.load(artifact, threads=1), onnxruntime_session(source)
        files = own_files(options.files)
        data = types.batch(files)
        (scores,) = model.run({"bytes": data}).values()
        # One file at a time: in a batch ONNX Runtime gives a file other scores than alone, by 3e-4 for MANIFEST.in.
        theirs = np.concatenate([session.run(None, {"bytes": row[None]})[0] for row in data])
        show(files, types, scores, theirs)
        agree, said = verdict(scores, theirs, in_float64(source, data))

        one = {"bytes": np.ascontiguousarray(data[:1])}
        ours_ms, theirs_ms = interleaved([lambda: model.run(one), lambda: session.run(None, one)], ROUNDS)
    import onnxruntime

    print(f"\none file, one thread, medians of {ROUNDS} interleaved rounds: Lepton {ours_ms:.2f} ms, "
          f"ONNX Runtime {onnxruntime.__version__} {theirs_ms:.2f} ms ({theirs_ms / ours_ms:.2f}x)")
    print(said)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
