"""Everything that needs a GPU, in one command of ten minutes: is it right, and how fast is it.

    python -m benchmarks.cuda.gpu [--sections env,kernels,...] [--deadline 560] [--out gpu.jsonl] [--models FOLDER]
    python -m benchmarks.cuda.gpu --sections speed --networks bert,gpt2 --policy tf32
    python -m benchmarks.cuda.gpu --simulate                     # is the script itself in order: small, without a GPU

Each section is a process of its own with what is left of its share of the time; each result is one line of JSON,
written at once, so that what was measured before the deadline is there. Sections:

    env        GPU, driver, versions; two ceilings: copy bandwidth and torch's bf16 product of 8192
    wrappers   the instructions that kernels stand on, against the tests' simulator
    kernels    the templates' and lowerings' tests with their kernels on the GPU (benchmarks.cuda.replay)
    sanitizer  some of them under compute-sanitizer
    models     the small models of tests/cuda/test_artifacts.py, and FOLDER/*.onnx, against ONNX Runtime on the CPU
    ops        single operators next to torch (cuBLAS, cuDNN, SDPA), kernel time against graph replay
    speed      networks with random weights, made on the spot (ResNet-50, BERT-base, MobileNetV2, ViT-B, GPT-2), and
               FOLDER/*.onnx, next to torch eager with a CUDA graph and torch.compile, reduce-overhead and
               max-autotune, of the same ONNX: all networks one way, then the next way
    switches   networks of batch 1 as they are, with kernels launched one after the other, and with sums that blocks do
               not share

At its end it says, for batch 1 and for larger ones, the geometric mean of the best of torch by Lepton.

Needs lepton-compiler[cuda] and a driver; g++ for the wrappers, compute-sanitizer, torch and onnx2torch for what is
compared with them: a line says `missing` where one is not there, `late` what there was no time for. Exit status: 0 all
that ran is right, 1 something is not.
"""
from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

# Seconds of 560.
SHARES = {"env": 40, "wrappers": 30, "kernels": 80, "sanitizer": 40, "models": 50, "ops": 80, "speed": 200,
          "switches": 40}
GRACE = 5.0  # seconds that a section may take to notice that its time is up
TESTS = ("tests/cuda/test_templates.py", "tests/cuda/test_integers.py", "tests/cuda/test_warpgroups.py",
         "tests/cuda/test_convolutions.py", "tests/cuda/test_split.py", "tests/cuda/test_order.py",
         "tests/cuda/test_moves.py", "tests/codegen/test_lower_map.py", "tests/codegen/test_lower_rows.py")


def arguments() -> argparse.ArgumentParser:
    """What sections are told too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="a folder of .onnx files")
    parser.add_argument("--networks", default="", help="words: of the networks those whose names hold one "
                                                       "(default: all)")
    parser.add_argument("--policy", choices=("f32", "tf32"), default="f32", help="of products in `speed`: torch's "
                        "without and ours with --math default, or both by one product of TF32 (default: f32)")
    parser.add_argument("--simulate", action="store_true", help="small, on the fake driver of the tests; needs g++")
    return parser


def main() -> int:
    parser = arguments()
    parser.add_argument("--sections", default=",".join(SHARES))
    parser.add_argument("--deadline", type=float, default=560, help="seconds for everything")
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"))
    args = parser.parse_args()
    wanted = [s for s in args.sections.split(",") if s]
    if unknown := sorted(set(wanted) - SHARES.keys()):
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SHARES)}")
    start, failed, seen = time.monotonic(), False, list[dict[str, Any]]()
    with open(args.out, "a", encoding="utf-8") as out:
        for i, section in enumerate(wanted):
            left = args.deadline - (time.monotonic() - start)
            share = left * SHARES[section] / sum(SHARES[s] for s in wanted[i:])
            failed |= not run_section(section, max(1.0, min(share, left)), args, out, seen)
        for record in means(seen):
            write(out, record)
    print(f"{args.out}: {len(wanted)} sections in {time.monotonic() - start:.0f} of {args.deadline:.0f} s; "
          f"{sum('late' in r for r in seen)} results left out for lack of time; "
          f"{'something FAILED' if failed else 'all that ran is right'}")
    return int(failed)


def run_section(name: str, seconds: float, args: argparse.Namespace, out: Any, seen: list[dict[str, Any]]) -> bool:
    """Its lines, as they come, also into `seen`; whether all went well. What does not stop by itself is killed with
    its children."""
    command = [sys.executable, "-m", "benchmarks.cuda.sections", name, f"{seconds:.0f}", "--networks", args.networks,
               "--policy", args.policy, *(["--models", str(args.models)] if args.models else []),
               *(["--simulate"] if args.simulate else [])]
    start, good = time.monotonic(), True
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    killer = threading.Timer(seconds + GRACE, os.killpg, (process.pid, signal.SIGKILL))
    killer.start()
    assert process.stdout is not None
    for line in process.stdout:
        record = parsed(line)
        good &= record.get("ok", True)
        seen.append({"section": name, **record})
        write(out, seen[-1])
    code = process.wait()
    killer.cancel()
    if code:
        write(out, {"section": name, "ok": False, "error": "killed when its time was up" if code == -signal.SIGKILL
                    else f"ended with {code}"})
    write(out, {"section": name, "ok": good and not code, "seconds": round(time.monotonic() - start, 1)})
    return good and not code


def means(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best time of torch by Lepton's, as geometric means over the networks of batch 1 and over the others."""
    times: dict[tuple[str, bool], dict[str, list[float]]] = {}
    for r in records:
        if r["section"] == "speed" and "ms" in r:
            both = times.setdefault((r["name"], r["batch"] == 1), {"lepton": [], "torch": []})
            both["lepton" if r["way"] == "lepton" else "torch"].append(r["ms"])
    found = []
    for one in (True, False):
        ratios = [min(t["torch"]) / min(t["lepton"]) for (_, single), t in times.items()
                  if single == one and t["torch"] and t["lepton"]]
        if ratios:
            found.append({"section": "speed", "mean_of": "batch 1" if one else "larger batches",
                          "networks": len(ratios), "best_torch_by_lepton": math.exp(fmean(map(math.log, ratios)))})
    return found


def parsed(line: str) -> dict[str, Any]:
    """A section's line; what a library printed between them is kept as text."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return {"text": line.rstrip()[:500]}
    return record if isinstance(record, dict) else {"text": line.rstrip()[:500]}


def write(out: Any, record: dict[str, Any]) -> None:
    print(json.dumps(record), flush=True)
    out.write(json.dumps(record) + "\n")
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
