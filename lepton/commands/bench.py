"""`lepton bench`: how long a run takes, and where the time goes."""
from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lepton.commands.common import (
    Opened,
    add_code,
    add_inputs,
    add_model,
    add_parser,
    add_threads,
    check_source,
    code_options,
    described,
    is_artifact,
    open_model,
)
from lepton.ir.diagnostics import Exit, UsageError
from lepton.summary import count as counted
from lepton.terminal import count, parse_dims

if TYPE_CHECKING:
    from lepton.artifact import Model, Session, StepTime
    from lepton.driver import Compiled
    from lepton.ports import Array

JSON_VERSION = 1
SHOWN = 25  # steps of a profile
EXAMPLES = """\
  lepton bench model.so                               random inputs, two seconds
  lepton bench model.so --threads 1 --dim N=8 --json
  lepton bench model.onnx --profile                   compiled on the way; time per kernel
  lepton bench model.onnx --roofline -O 3             each kernel against what the machine allows
"""


def add(commands: Any) -> None:
    parser = add_parser(commands, "bench", "measure how long a model takes", EXAMPLES)
    add_model(parser)
    add_inputs(parser)
    add_threads(parser)
    add_code(parser)
    parser.add_argument("--seed", type=count, default=0, metavar="N", help="of the random inputs (default 0)")
    parser.add_argument("--runs", type=count, default=0, metavar="N", help="how many runs (default: as time allows)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="how long, unless --runs is given")
    parser.add_argument("--warmup", type=count, default=3, metavar="N", help="runs before the clock starts (default 3)")
    parser.add_argument("--profile", action="store_true", help="time per kernel")
    parser.add_argument("--roofline", action="store_true",
                        help="for a .onnx or .lir: each kernel's speed against measured ceilings of this machine")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> Exit:
    """Raises LeptonError."""
    if not 0 < args.seconds < 1e6:
        raise UsageError(f"--seconds {args.seconds}: expected a time above 0")
    start = time.perf_counter()
    opened, compiled = _open(args)
    loaded = time.perf_counter() - start
    feeds = opened.inputs(args.input, args.seed)
    session = opened.model.session()
    with opened.telling_sizes(args.input):
        first = _once(session, feeds)
    for _ in range(args.warmup):
        session.run(feeds)
    times = measure(session, feeds, args.runs, args.seconds)
    enough = max(1, min(len(times), 50))
    steps = profile(session, feeds, enough) if args.profile else []
    record = {
        "version": JSON_VERSION, "model": args.model, "target": opened.model.target,
        "threads": args.threads or opened.model.metadata.get("threads", 0),
        "inputs": described(feeds), "load_ms": loaded * 1e3, "first_ms": first * 1e3, "runs": len(times),
        "ms": statistics(times),
        "profile": [{"step": i, "name": s.name, "calls": s.calls, "ms": s.seconds * 1e3} for i, s in enumerate(steps)],
    }
    if compiled is not None:
        record["roofline"] = _roofline(compiled, opened.model, session, feeds, args.threads, enough)
    print(json.dumps(record) if args.json else text(record))
    return Exit.OK


def _open(args: argparse.Namespace) -> tuple[Opened, Compiled | None]:
    """The model; for a roofline also what it was compiled from. Raises LeptonError."""
    if not args.roofline:
        return open_model(args), None
    if is_artifact(args.model):
        raise UsageError(f"--roofline: {args.model} is compiled and does not say what its kernels do",
                         help="give the .onnx or .lir it came from, with the same -O, --dim and --target")
    check_source(args)
    from lepton.driver import Options, lower, run_here

    options = Options.of(code_options(args, parse_dims(args.dim)))
    done = lower(args.model, options)
    return Opened(run_here(done, options), {}), done


def _roofline(done: Compiled, model: Model, session: Session, feeds: Mapping[str, Array], threads: int,
              runs: int) -> dict[str, Any]:
    """The record of roofline.report."""
    from lepton import ceilings, roofline

    program, target = next((p, t) for p, t in done.programs if t.name == model.target)
    kinds = roofline.dots(program)
    limits = ceilings.measure(target, threads or ceilings.available_threads(), kinds)
    found = roofline.works(program, [feeds[port.name].shape for port in model.inputs], limits)
    if limits.threads == 1:
        (seconds,) = roofline.measure([session], feeds, runs)
        return roofline.report(roofline.rows(found, seconds, limits), limits)
    seconds, single = roofline.measure([session, model.session(threads=1)], feeds, runs)
    alone = single, ceilings.measure(target, 1, kinds)
    return roofline.report(roofline.rows(found, seconds, limits, alone), limits)


def _once(session: Session, feeds: Mapping[str, Array]) -> float:
    start = time.perf_counter()
    session.run(feeds)
    return time.perf_counter() - start


def measure(session: Session, feeds: Mapping[str, Array], runs: int, seconds: float) -> list[float]:
    """Seconds of each of `runs` runs; 0: as many as fit into `seconds`, one at least."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < runs if runs else not times or time.perf_counter() < end:
        times.append(_once(session, feeds))
    return times


def profile(session: Session, feeds: Mapping[str, Array], runs: int) -> list[StepTime]:
    """Each step's time over `runs` runs, apart from the measured ones: looking at the clock costs a little."""
    session.profile()
    for _ in range(runs):
        session.run(feeds)
    session.profile(False)
    return session.step_times()


def statistics(times: Sequence[float]) -> dict[str, float]:
    """Milliseconds: least, percentiles (nearest rank), mean, most."""
    rows = sorted(t * 1e3 for t in times)

    def percentile(p: int) -> float:
        return rows[max(0, -(-len(rows) * p // 100) - 1)]

    return {"min": rows[0], "p50": percentile(50), "p90": percentile(90), "p99": percentile(99),
            "mean": sum(rows) / len(rows), "max": rows[-1]}


def text(record: Mapping[str, Any]) -> str:
    """The record for people."""
    inputs = ", ".join(f"{name}: {words}" for name, words in record["inputs"].items())
    ms = record["ms"]
    threads = counted(record["threads"], "thread") if record["threads"] else "a thread for each core"
    lines = [
        f"{record['model']} for {record['target']}, {threads}, {inputs}",
        f"  load {record['load_ms']:.1f} ms, first run {record['first_ms']:.3f} ms, then {record['runs']} runs:",
        "  " + "  ".join(f"{name} {value:.3f}" for name, value in ms.items())
        + f"  ms   ({1e3 / ms['p50']:.1f} runs/s)",
    ]
    if "roofline" in record:
        from lepton.roofline import lines as roofline_lines

        lines += roofline_lines(record["roofline"])
    return "\n".join([*lines, *_profile_lines(record["profile"])])


def _profile_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The costliest steps, one line each."""
    if not rows:
        return []
    total = sum(r["ms"] for r in rows) or 1.0
    per_run = max(1, max(r["calls"] for r in rows))
    lines = [f"  {'step':>6} {'ms':>10} {'share':>7}  kernel"]
    ranked = sorted(rows, key=lambda r: -r["ms"])
    shown = [(r["step"], r["ms"], r["name"]) for r in ranked[:SHOWN]]
    if rest := ranked[SHOWN:]:
        shown.append(("", sum(r["ms"] for r in rest), f"{len(rest)} more"))
    lines += [f"  {step:>6} {ms / per_run:>10.4f} {ms / total:>7.1%}  {name}" for step, ms, name in shown]
    return [*lines, f"  {'all':>6} {total / per_run:>10.4f}"]
