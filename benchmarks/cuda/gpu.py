"""Everything that needs a GPU, in one command of ten minutes: is it right, and how fast is it.

    python -m benchmarks.cuda.gpu [--sections env,kernels,...] [--deadline 560] [--out gpu.jsonl] [--models FOLDER]

Each section is a process of its own with what is left of its share of the time; each result is one line of JSON,
written at once, so that what was measured before the deadline is there. Sections:

    env        GPU, driver, versions; two ceilings: copy bandwidth and torch's bf16 product of 8192
    kernels    the templates' and lowerings' tests with their kernels on the GPU (benchmarks.cuda.replay)
    sanitizer  some of them under compute-sanitizer
    models     the small models of tests/cuda/test_artifacts.py, and FOLDER/*.onnx, against ONNX Runtime on the CPU
    ops        single operators next to torch (cuBLAS, cuDNN, SDPA), kernel time against graph replay
    speed      FOLDER/*.onnx next to torch eager with a CUDA graph and torch.compile (needs onnx2torch)

Needs lepton-compiler[cuda] and a driver; torch for the comparisons, and says where something is missing.
"""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SHARES = {"env": 40, "kernels": 120, "sanitizer": 60, "models": 90, "ops": 110, "speed": 140}  # seconds of 560
TESTS = ("tests/cuda/test_templates.py", "tests/cuda/test_integers.py", "tests/cuda/test_warpgroups.py",
         "tests/codegen/test_lower_map.py", "tests/codegen/test_lower_rows.py")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default=",".join(SHARES))
    parser.add_argument("--deadline", type=float, default=560, help="seconds for everything")
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"))
    parser.add_argument("--models", type=Path, help="a folder of .onnx files")
    args = parser.parse_args()
    wanted = [s for s in args.sections.split(",") if s]
    if unknown := sorted(set(wanted) - SHARES.keys()):
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SHARES)}")
    start, failed = time.monotonic(), False
    total = sum(SHARES[s] for s in wanted)
    with open(args.out, "a", encoding="utf-8") as out:
        for i, section in enumerate(wanted):
            left = args.deadline - (time.monotonic() - start)
            share = left * SHARES[section] / sum(SHARES[s] for s in wanted[i:])
            failed |= not run_section(section, min(share, left), args.models, out)
    print(f"{args.out}: {len(wanted)} sections in {time.monotonic() - start:.0f} of {args.deadline:.0f} s"
          f" (shares of {total} s); {'something FAILED' if failed else 'all good'}")
    return int(failed)


def run_section(name: str, seconds: float, models: Path | None, out: Any) -> bool:
    """Its lines, as they come; whether all went well."""
    command = [sys.executable, "-m", "benchmarks.cuda.sections", name, f"{seconds:.0f}", str(models or "")]
    start, good, process = time.monotonic(), True, None
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            record = json.loads(line)
            good &= record.get("ok", True)
            write(out, {"section": name, **record})
        good &= process.wait(timeout=max(1.0, seconds - (time.monotonic() - start))) == 0
    except (json.JSONDecodeError, subprocess.TimeoutExpired) as error:
        good = False
        write(out, {"section": name, "ok": False, "error": str(error)})
    finally:
        process.kill()
    write(out, {"section": name, "ok": good, "seconds": round(time.monotonic() - start, 1)})
    return good


def write(out: Any, record: dict[str, Any]) -> None:
    print(json.dumps(record), flush=True)
    out.write(json.dumps(record) + "\n")
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
