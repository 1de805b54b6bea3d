"""Everything that needs a GPU, in one command of ten minutes: is it right, and how fast is it.

    python -m benchmarks.cuda.gpu [--sections env,kernels,...] [--deadline 560] [--out gpu.jsonl] [--models FOLDER]
    python -m benchmarks.cuda.gpu --simulate                     # is the script itself in order: small, without a GPU

Each section is a process of its own with what is left of its share of the time; each result is one line of JSON,
written at once, so that what was measured before the deadline is there. Sections:

    env        GPU, driver, versions; two ceilings: copy bandwidth and torch's bf16 product of 8192
    wrappers   the instructions that kernels stand on, against the tests' simulator
    kernels    the templates' and lowerings' tests with their kernels on the GPU (benchmarks.cuda.replay)
    sanitizer  some of them under compute-sanitizer
    models     the small models of tests/cuda/test_artifacts.py, and FOLDER/*.onnx, against ONNX Runtime on the CPU
    ops        single operators next to torch (cuBLAS, cuDNN, SDPA), kernel time against graph replay
    speed      FOLDER/*.onnx next to torch eager with a CUDA graph and torch.compile, reduce-overhead and max-autotune

Needs lepton-compiler[cuda] and a driver; g++ for the wrappers, compute-sanitizer, torch and onnx2torch for what is
compared with them: a line says `missing` where one is not there. Exit status: 0 all is right, 1 something is not.
"""
from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

# Seconds of 560.
SHARES = {"env": 30, "wrappers": 20, "kernels": 110, "sanitizer": 60, "models": 90, "ops": 110, "speed": 140}
GRACE = 5.0  # seconds that a section may take to notice that its time is up
TESTS = ("tests/cuda/test_templates.py", "tests/cuda/test_integers.py", "tests/cuda/test_warpgroups.py",
         "tests/cuda/test_moves.py", "tests/codegen/test_lower_map.py", "tests/codegen/test_lower_rows.py")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default=",".join(SHARES))
    parser.add_argument("--deadline", type=float, default=560, help="seconds for everything")
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"))
    parser.add_argument("--models", type=Path, help="a folder of .onnx files")
    parser.add_argument("--simulate", action="store_true", help="small, on the fake driver of the tests; needs g++")
    args = parser.parse_args()
    wanted = [s for s in args.sections.split(",") if s]
    if unknown := sorted(set(wanted) - SHARES.keys()):
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SHARES)}")
    start, failed = time.monotonic(), False
    with open(args.out, "a", encoding="utf-8") as out:
        for i, section in enumerate(wanted):
            left = args.deadline - (time.monotonic() - start)
            share = left * SHARES[section] / sum(SHARES[s] for s in wanted[i:])
            failed |= not run_section(section, max(1.0, min(share, left)), args, out)
    print(f"{args.out}: {len(wanted)} sections in {time.monotonic() - start:.0f} of {args.deadline:.0f} s; "
          f"{'something FAILED' if failed else 'all good'}")
    return int(failed)


def run_section(name: str, seconds: float, args: argparse.Namespace, out: Any) -> bool:
    """Its lines, as they come; whether all went well. What does not stop by itself is killed with its children."""
    command = [sys.executable, "-m", "benchmarks.cuda.sections", name, f"{seconds:.0f}", str(args.models or ""),
               *(["simulate"] if args.simulate else [])]
    start, good = time.monotonic(), True
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    killer = threading.Timer(seconds + GRACE, os.killpg, (process.pid, signal.SIGKILL))
    killer.start()
    assert process.stdout is not None
    for line in process.stdout:
        record = parsed(line)
        good &= record.get("ok", True)
        write(out, {"section": name, **record})
    code = process.wait()
    killer.cancel()
    if code:
        write(out, {"section": name, "ok": False, "error": "killed when its time was up" if code == -signal.SIGKILL
                    else f"ended with {code}"})
    write(out, {"section": name, "ok": good and not code, "seconds": round(time.monotonic() - start, 1)})
    return good and not code


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
