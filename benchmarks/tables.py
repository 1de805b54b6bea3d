"""Every table of docs/performance.md anew: peers and Lepton timed in turns, then the page and its plots.

    python -m benchmarks.tables --lepton-python .venv/bin/python                  all tables, then the page (hours)
    python -m benchmarks.tables fp32-1 bf16 --lepton-python ... --minutes 8       what fits into 8 minutes of these
    python -m benchmarks.tables --list                                            what tables there are
    python -m benchmarks.tables --page                                            the page alone, from what is measured

Results lie in ROOT/results, a file for each table, written after each model: run the command again to go on. What was
measured with another state of Lepton is measured anew, except under `--keep`. The machine must have nothing else to
do; compiling comes first (`--compile` does only that), so that time on a machine of one's own goes into measuring.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FLOAT = (
    "resnet50", "mobilenetv2", "bert_base_s128", "squeezenet", "vit_small_patch16", "gpt2_small_s128",
    "efficientnet_b0", "mobilenetv3_large", "yolov8n_like", "minilm_l6_s128", "densenet121", "inception_v1",
    "inception_v2", "shufflenet", "convnext_tiny", "ppocrv4_det_640", "ppocrv4_rec_48x320", "ppocr_cls_48x192",
    "ppocrv6_det_small_640", "ppocrv6_rec_small_48x320", "magika_v3_3", "silero_vad_16k",
    "silero_vad_16k_sequence_32", "bvlc_alexnet", "zfnet512", "vgg19",
)
BYTES = ("resnet50", "resnet50_add", "mobilenetv2", "bert_base_s128", "vit_small_patch16", "minilm_l6_s128")
FOUR = ("resnet50", "mobilenetv2", "vit_small_patch16", "bert_base_s128")


@dataclass(frozen=True)
class Table:
    """One run of `benchmarks.peers.bench`."""

    name: str
    models: Sequence[str] = FLOAT
    engines: str = "ort,ov,mnn,lepton"
    threads: int = 1
    precision: str = "fp32"
    batch: int = 1
    isa: str | None = None

    def command(self, options: argparse.Namespace, rounds: int, minutes: float) -> list[str]:
        limit = ["--isa", self.isa] if self.isa else []
        return [sys.executable, "-m", "benchmarks.peers.bench", *self.models, "--engines", self.engines,
                "--threads", str(self.threads), "--precision", self.precision, "--batch", str(self.batch), *limit,
                "--root", str(options.root), "--lepton-python", str(options.lepton_python), "--rounds", str(rounds),
                "--budget", str(options.budget), "--minutes", f"{minutes:.2f}"]


TABLES = (
    Table("fp32-1"),
    Table("fp32-2", threads=2),
    Table("batch8-1", models=FOUR, batch=8),
    Table("batch8-2", models=FOUR, batch=8, threads=2),
    Table("torch-1", models=("bert_base_s128", "vit_small_patch16"), engines="ov,torch,inductor,lepton"),
    Table("torch-2", models=("bert_base_s128", "vit_small_patch16"), engines="ov,torch,inductor,lepton", threads=2),
    Table("bf16", engines="ov,lepton", precision="bf16"),
    Table("int8", models=BYTES, precision="int8"),
    Table("avx2", engines="ov,lepton", isa="avx2"),   # the others choose by CPUID and cannot be limited
)
OTHERS = ("roofline", "costs")


def measure(table: Table, options: argparse.Namespace, minutes: float) -> bool:
    """Compile what is missing, then measure; whether every model is done."""
    file = options.root / "results" / f"{table.name}.json"
    compiled = subprocess.run(table.command(options, 0, float("inf")), capture_output=True, text=True, check=False)
    if compiled.returncode == 2:
        raise SystemExit(compiled.stderr.strip())
    if options.compile:
        return True
    begin = time.monotonic()
    resume = ["--keep"] if options.keep else ["--resume"]
    subprocess.run([*table.command(options, options.rounds, minutes - (time.monotonic() - begin) / 60), *resume,
                    "--json", str(file)], check=False)
    return file.is_file() and len(json.loads(file.read_text())["results"]) >= len(table.models)


def limits(options: argparse.Namespace, end: float) -> bool:
    """`lepton bench --roofline` of each model, unless it is there already."""
    for model in FLOAT:
        file = options.root / "results" / f"roofline-{model}.json"
        if time.monotonic() > end:
            return False
        if not file.is_file() or not options.keep or "losses" not in json.loads(file.read_text())["roofline"]:
            command = [options.lepton_python.with_name("lepton"), "bench", _model(options, model), "-O3",
                       "--threads", "1", "--roofline", "--json"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{model}: {done.stderr.strip()}")
            file.write_text(done.stdout)
    return True


def measure_costs(options: argparse.Namespace, end: float) -> bool:
    """`benchmarks.costs` of each model, unless it is there already."""
    file = options.root / "results" / "costs.json"
    if not options.keep:
        file.unlink(missing_ok=True)
    for model in FLOAT:
        if time.monotonic() > end:
            return False
        if not (file.is_file() and model in json.loads(file.read_text())["costs"]):
            subprocess.run([str(options.lepton_python), "-m", "benchmarks.costs", str(_model(options, model)), "--json",
                            str(file), "--add"], check=False)
    return True


def _model(options: argparse.Namespace, name: str) -> Path:
    path: Path = options.root / "models" / f"{name}.onnx"
    return path


def write_page(options: argparse.Namespace) -> None:
    results: Path = options.root / "results"
    runs = [results / f"{table.name}.json" for table in TABLES]
    roofs = [results / f"roofline-{model}.json" for model in FLOAT]
    costs = results / "costs.json"
    if not any(map(Path.is_file, runs)):
        raise SystemExit(f"no table is measured in {results}: there is nothing to make a page of")
    files = [*map(str, filter(Path.is_file, runs)), "--roofline", *map(str, filter(Path.is_file, roofs)),
             *(["--costs", str(costs)] if costs.is_file() else [])]
    subprocess.run([sys.executable, "-m", "benchmarks.performance", *files, "--to", str(options.to),
                    "--name", options.name], check=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*(table.name for table in TABLES), *OTHERS]
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(names) + " (default: all)")
    parser.add_argument("--lepton-python", type=Path, default=os.environ.get("LEPTON_PYTHON"),
                        help="the interpreter that Lepton is installed in (default: $LEPTON_PYTHON)")
    parser.add_argument("--root", type=Path, default=os.environ.get("LEPTON_BENCH", ".bench"),
                        help="folder of the peers, models and results (default: $LEPTON_BENCH or ./.bench)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing after so many minutes")
    parser.add_argument("--rounds", type=int, default=2, help="processes per engine and model (default: 2)")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds of timing per process (default: 1)")
    parser.add_argument("--compile", action="store_true", help="only make what must be compiled")
    parser.add_argument("--keep", action="store_true", help="also what another state of Lepton reached")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--list", action="store_true", help="name the tables")
    parser.add_argument("--to", type=Path, default=Path("docs"), help="folder of the page (default: docs)")
    parser.add_argument("--name", default="performance",
                        help="of the page (default: performance); amx-performance is that of a machine with AMX")
    options = parser.parse_args()
    if unknown := set(options.tables) - set(names):
        parser.error(f"unknown tables: {', '.join(sorted(unknown))}")
    if not (options.list or options.page or options.lepton_python):
        parser.error("--lepton-python is needed")
    options.root = options.root.absolute()
    options.tables = options.tables or names
    return options


def main() -> int:
    options = parse()
    if options.list:
        print("\n".join(options.tables))
        return 0
    (options.root / "results").mkdir(parents=True, exist_ok=True)
    end, whole = time.monotonic() + 60 * options.minutes, True
    for table in () if options.page else TABLES:
        if table.name in options.tables:
            whole &= measure(table, options, (end - time.monotonic()) / 60)
    if not options.page and not options.compile:
        whole &= "roofline" not in options.tables or limits(options, end)
        whole &= "costs" not in options.tables or measure_costs(options, end)
    if not options.compile:
        write_page(options)
    if not whole:
        print("not all is measured: run it again")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
