"""How far each kernel of a model is from what the machine allows: `lepton bench --roofline`.

A kernel's ceiling time is the larger of two: its operations at the measured peak of its kind of products, and its
compulsory traffic (each operand once) at the measured bandwidth of the level that each operand comes from. Its share
of the ceiling is that time over the measured one. Winograd counts as the convolution it computes, so it may pass 100 %.
On several threads each kernel is also timed on one, in turns: its gain is that time over the other, and what it may
gain is the ceilings' time on one thread over theirs: threads share the memory's bandwidth and the processor's power.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from lepton.ceilings import Ceilings
from lepton.codegen.kernel import Kernel
from lepton.codegen.program import Program, Step, StepKind, Storage
from lepton.codegen.templates.dots import FMA, Dot
from lepton.ir import dims
from lepton.ir.core import Value
from lepton.summary import count

if TYPE_CHECKING:
    from lepton.artifact import Session
    from lepton.ports import Array

NEAR = 0.8                # of its ceiling: what counts as reached
TINY_S = 2e-6             # kernels shorter than this pay mostly for being called
SHORT_SUM = 64            # products per result below which a matrix product pays for its beginnings and ends
CURVES = ("exp", "erf", "tanh", "sigmoid", "gelu", "log", "sin", "cos", "softmax", "pow", "silu", "mish", "softplus")
MOVES = ("transpose", "copy", "gather", "slice", "pad")
MOVERS = ("TransposeBody", "InterleaveBody")
KNOWN = {                 # what a kernel does that its count of operations does not show, by a word of its name
    "attention": "exponentials and sums between its products are not counted",
    "norm": "rows are gone over more than once",
    "pool": "windows overlap: elements are read more than once",
    "lrn": "a sum of neighbours and a power for each element",
    "filters": "makes several numbers of each weight, and moves them",
    **dict.fromkeys(("lstm", "gru", "rnn"), "reads its weights anew in every step"),
}
LOSSES = 4                # shown to people
FINE = 8                  # parts a thread, beyond which it does not matter that one thread has one more
FEW_ROWS = 4              # of a product: up to so many, each weight is read for next to no work


@dataclass(frozen=True)
class Work:
    """What one step must do. `traffic` is in bytes by level; None where sizes depend on the data."""

    step: int
    name: str                # the ops it holds, the anchor among them
    kind: str                # of code: Gemm, Convolution, Winograd, LoopBody ...
    nodes: tuple[str, ...]   # of the ONNX model, fused into it
    dot: Dot
    flops: int | None
    traffic: Mapping[str, int]
    tasks: int | None
    parts: int | None        # that threads may take, at most
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A step's work against its time. Seconds; rates per second."""

    step: int
    name: str
    kind: str
    nodes: tuple[str, ...]
    seconds: float
    run_share: float
    flops: int | None
    bytes: int
    gflops: float | None
    gbytes: float
    ceiling_seconds: float | None
    ceiling_share: float | None
    bound: str               # compute, L2, L3, memory; "" where nothing is known
    why: str
    gain: float | None       # one thread's time over this; None where this is one thread's
    allowed_gain: float | None


def works(program: Program, shapes: Sequence[Sequence[int]], ceilings: Ceilings) -> list[Work]:
    """Each kernel call of the program, for inputs of these shapes."""
    env = {str(d): size for v, shape in zip(program.inputs, shapes, strict=True)
           for d, size in zip(v.tensor.shape, shape, strict=True) if isinstance(d, dims.Symbol | dims.Expr)}
    size = _Sizes(env)
    constants = {id(b): size(b.size) or 0 for b in program.buffers if b.storage is Storage.CONSTANT}
    home = ceilings.level_of(sum(constants.values()) + program.workspace)
    return [_work(i, s, s.kernel, size, home, ceilings) for i, s in enumerate(program.steps)
            if s.kind is StepKind.CALL and s.kernel is not None]


def dots(program: Program) -> set[Dot]:
    """The kinds of products in the program: each has a peak of its own."""
    return {dot.kind for kernel in program.kernels for dot in _found(kernel.body, Dot)}


class _Sizes:
    """The numbers that dimensions stand for; None for what only the data decides."""

    def __init__(self, env: Mapping[str, int]) -> None:
        self.env = env

    def __call__(self, dim: dims.Dim) -> int | None:
        try:
            return dims.evaluate(dim, self.env)
        except KeyError:
            return None


def _work(index: int, step: Step, kernel: Kernel, size: _Sizes, home: str, ceilings: Ceilings) -> Work:
    dot = next(_found(kernel.body, Dot), FMA).kind
    words = tuple(_remarks(kernel, ceilings))
    nodes = tuple(dict.fromkeys(loc.name for loc in step.loc))
    tasks, grain = size(kernel.tasks), size(kernel.grain)
    parts = None if tasks is None or grain is None else max(1, tasks // max(grain, 1))
    return Work(index, step.name, type(kernel.body).__name__, nodes, dot, size(kernel.flops),
                _traffic(step, kernel, size, home, ceilings), tasks, parts, words)


def _traffic(step: Step, kernel: Kernel, size: _Sizes, home: str, ceilings: Ceilings) -> dict[str, int]:
    """Bytes by level. Constants are read once a run: all of them pass between two uses of one."""
    found: dict[str, int] = {}
    written = sum(size(v.tensor.size * v.tensor.dtype.bytes) or 0 for v in kernel.writes)
    picks = any(word in kernel.name for word in ("gather", "embedding"))
    seen = set()
    for operand, place in zip(kernel.operands, step.operands, strict=True):
        if (key := id(operand)) in seen:
            continue
        seen.add(key)
        held = size(place.buffer.size) or 0
        read = size(operand.tensor.size * operand.tensor.dtype.bytes) or 0 if isinstance(operand, Value) else held
        moved = min(held, read) if held else read
        if picks and operand not in kernel.writes:
            moved = min(moved, written)  # what is picked, not all there is to pick from
        constant = place.buffer.storage is Storage.CONSTANT
        level = home if constant else ceilings.level_of(2 * moved)
        found[level] = found.get(level, 0) + moved
    return found


def _found(body: object, kind: type[Any], depth: int = 2) -> Iterator[Any]:
    """The instances of `kind` in a body's fields, those of its parts too."""
    if isinstance(body, kind):
        yield body
    elif isinstance(body, tuple):
        for part in body:
            yield from _found(part, kind, depth)
    elif depth and is_dataclass(body):
        for field in fields(body):
            yield from _found(getattr(body, field.name), kind, depth - 1)


def _remarks(kernel: Kernel, ceilings: Ceilings) -> Iterator[str]:
    """What of a kernel's making may keep it from its ceiling."""
    body, names = kernel.body, kernel.name.split("_")
    k, columns = getattr(body, "k", getattr(body, "depth", None)), getattr(body, "n", getattr(body, "filters", None))
    if isinstance(k, int) and k < SHORT_SUM:
        yield f"sums of {k}: the ends of tiles weigh"
    if isinstance(columns, int) and columns % 16 and columns < 128:
        fill = "column fills" if columns == 1 else "columns fill"
        yield f"{columns} {fill} {columns / (-(-columns // 16) * 16):.0%} of the lanes"
    if type(body).__name__ == "Gemm" and isinstance(rows := getattr(body, "m", None), int) and rows <= FEW_ROWS:
        yield f"reads its weights for {rows} row{'s' * (rows > 1)}"
    yield from (words for name, words in KNOWN.items() if name in names)
    if curves := [name for name in CURVES if name in names]:
        yield f"{', '.join(curves)}: dozens of instructions counted as one"
    if kernel.name.startswith(MOVES) or type(body).__name__ in MOVERS:
        yield "moves elements, computes nothing"
    if type(body).__name__ == "Depthwise":
        yield "depthwise: one product per element read"


def measure(sessions: Sequence[Session], feeds: Mapping[str, Array], runs: int) -> list[list[float]]:
    """For each session each step's seconds in its best run: neighbours only ever slow a run down. They take turns."""
    best: list[list[float]] = [[] for _ in sessions]
    for _ in range(runs):
        for i, session in enumerate(sessions):
            session.profile()
            session.run(feeds)
            times = [step.seconds for step in session.step_times()]
            best[i] = [min(pair) for pair in zip(best[i], times, strict=True)] if best[i] else times
    for session in sessions:
        session.profile(False)
    return best


def rows(found: Sequence[Work], seconds: Sequence[float], ceilings: Ceilings,
         alone: tuple[Sequence[float], Ceilings] | None = None) -> list[Row]:
    """In the program's order. `seconds` has one entry per step; `alone`: one thread's, and its limits."""
    total = sum(seconds) or 1.0
    made = [_row(work, seconds[work.step], total, ceilings) for work in found]
    if alone is None:
        return made
    return [_gained(row, _row(work, alone[0][work.step], 1.0, alone[1])) for row, work in zip(made, found, strict=True)]


def _gained(row: Row, alone: Row) -> Row:
    allowed = None
    if row.ceiling_seconds and alone.ceiling_seconds:
        allowed = alone.ceiling_seconds / row.ceiling_seconds
    return replace(row, gain=alone.seconds / row.seconds if row.seconds > 0 else None, allowed_gain=allowed)


def _row(work: Work, seconds: float, total: float, ceilings: Ceilings) -> Row:
    bytes = sum(work.traffic.values())
    moving = {level: size / ceilings.bytes[level] for level, size in work.traffic.items()}
    computing = None if work.flops is None else work.flops / _peak(work, ceilings)
    bound, least = "", None
    if computing is not None:
        carried = sum(moving.values())
        bound = "compute" if computing >= carried else max(moving, key=lambda level: moving[level])
        least = max(computing, carried)
    share = least / seconds if least is not None and seconds > 0 else None
    rate = 1e-9 / seconds if seconds > 0 else 0.0
    return Row(work.step, work.name, work.kind, work.nodes, seconds, seconds / total, work.flops, bytes,
               None if work.flops is None else work.flops * rate, bytes * rate, least, share, bound,
               _why(work, seconds, share, bound, computing or 0.0, sum(moving.values()), ceilings.threads),
               None, None)


def _peak(work: Work, ceilings: Ceilings) -> float:
    """Products and sums come in pairs; the single operations of loops do not."""
    peak = ceilings.operations[work.dot]
    return peak / 2 if work.kind in ("LoopBody", *MOVERS) else peak


def _why(work: Work, seconds: float, share: float | None, bound: str, computing: float, carried: float,
         threads: int) -> str:
    if share is None:
        return "its sizes depend on the data"
    if share >= NEAR:
        return f"at its ceiling ({bound})"
    words = list(work.remarks)
    if work.parts is not None and work.parts % threads and work.parts < FINE * threads:
        words.append(f"{work.parts} part{'s' * (work.parts > 1)} for {threads} threads")
    if seconds < TINY_S:
        words.insert(0, "tiny: the call itself weighs")
    if min(computing, carried) > 0.5 * max(computing, carried):
        words.append("computing and moving take alike and overlap in part")
    return "; ".join(words) or "no known reason"


def report(found: Sequence[Row], ceilings: Ceilings) -> dict[str, Any]:
    """What `--json` prints under "roofline"; docs/cli.md describes it."""
    known = [r for r in found if r.ceiling_seconds is not None]
    total = sum(r.seconds for r in found) or 1.0
    return {
        "threads": ceilings.threads,
        "ceilings": {
            "gflops": {_dot_name(dot): rate / 1e9 for dot, rate in ceilings.operations.items()},
            "gbytes": {level: rate / 1e9 for level, rate in ceilings.bytes.items()},
            "cache_bytes": dict(ceilings.sizes),
        },
        "seconds": total,
        "gain": _gain(found),
        "allowed_gain": _allowed_gain(found),
        "near_share": sum(r.seconds for r in known if (r.ceiling_share or 0) >= NEAR) / total,
        "ceiling_share": sum(min(r.ceiling_seconds or 0.0, r.seconds) for r in known) / total,
        "by_kind": _by_kind(found, total),
        "losses": _losses(known, total),
        "kernels": [asdict(r) for r in found],
    }


def _dot_name(dot: Dot) -> str:
    name = {1: "f32", 2: "bf16", 4: "i8"}.get(dot.group, f"groups of {dot.group}")
    return f"{name} tiles" if dot.matrix else name


def _gain(found: Sequence[Row]) -> float | None:
    """What threads bring to these kernels together."""
    known = [r for r in found if r.gain is not None]
    return sum((r.gain or 0.0) * r.seconds for r in known) / sum(r.seconds for r in known) if known else None


def _allowed_gain(found: Sequence[Row]) -> float | None:
    """The ceilings' time on one thread over theirs, of these kernels together."""
    known = [r for r in found if r.allowed_gain is not None]
    least = sum(r.ceiling_seconds or 0.0 for r in known)
    return sum((r.allowed_gain or 0.0) * (r.ceiling_seconds or 0.0) for r in known) / least if least else None


def _by_kind(found: Sequence[Row], total: float) -> dict[str, dict[str, float | None]]:
    """Time, share of the run and of the ceiling, gain, by kind of code; the slowest first."""
    kinds: dict[str, list[Row]] = {}
    for r in found:
        kinds.setdefault(r.kind, []).append(r)
    made: dict[str, dict[str, float | None]] = {}
    for kind, rows in sorted(kinds.items(), key=lambda item: -sum(r.seconds for r in item[1])):
        seconds, least = sum(r.seconds for r in rows), sum(min(r.ceiling_seconds or 0.0, r.seconds) for r in rows)
        made[kind] = {"seconds": seconds, "run_share": seconds / total,
                      "ceiling_share": least / seconds if seconds else 0.0, "gain": _gain(rows)}
    return made


def _losses(found: Sequence[Row], total: float) -> list[dict[str, Any]]:
    """Where kernels below NEAR of their ceilings lose time, by kind of code and reason; the most first. `lost_share`:
    of the run, over what the ceiling allows."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        if (row.ceiling_share or 0) < NEAR:
            groups.setdefault((row.kind, row.why), []).append(row)
    made = []
    for (kind, why), rows in groups.items():
        seconds, least = sum(r.seconds for r in rows), sum(r.ceiling_seconds or 0.0 for r in rows)
        made.append({"kind": kind, "why": why, "kernels": len(rows), "name": max(rows, key=lambda r: r.seconds).name,
                     "run_share": seconds / total, "ceiling_share": least / seconds if seconds else 0.0,
                     "lost_share": (seconds - least) / total})
    return sorted(made, key=lambda row: -row["lost_share"])


def lines(record: Mapping[str, Any], shown: int = 25) -> list[str]:
    """The report for people: the ceilings, kinds of code, the costliest kernels."""
    limits = record["ceilings"]
    peaks = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in limits["gflops"].items())
    rates = ", ".join(f"{level} {rate:.0f} GB/s" for level, rate in limits["gbytes"].items())
    found = sorted(record["kernels"], key=lambda r: -r["seconds"])
    made = [f"  measured ceilings of {count(record['threads'], 'thread')}: {peaks}; {rates}",
            f"  {record['near_share']:.0%} of the time at {NEAR:.0%} of the ceiling or more; "
            f"the ceilings allow {record['ceiling_share']:.0%} of the time"]
    if record["gain"] is not None:
        made[-1] += f"; {record['gain']:.2f} times as fast as on one thread"
    if record["allowed_gain"] is not None:
        made[-1] += f", of {record['allowed_gain']:.2f} that the ceilings allow"
    made += [f"    {kind:14} {row['run_share']:6.1%} of the run, at {row['ceiling_share']:4.0%} of the ceiling"
             + ("" if row["gain"] is None else f", {row['gain']:.2f} times as fast as on one thread")
             for kind, row in record["by_kind"].items()]
    made += [f"    loses {row['lost_share']:6.1%}: {row['kind']} x{row['kernels']} ({row['name']}) at "
             f"{row['ceiling_share']:.0%} of the ceiling: {row['why']}" for row in record["losses"][:LOSSES]]
    made.append(f"  {'step':>4} {'us':>9} {'run':>6} {'GFLOP/s':>8} {'GB/s':>6} {'ceiling':>8} {'gain':>5}  "
                f"{'bound':8} kernel")
    for r in found[:shown]:
        rate, share, gain = ("-" if r[key] is None else form.format(r[key])
                             for key, form in (("gflops", "{:.1f}"), ("ceiling_share", "{:.0%}"), ("gain", "{:.2f}")))
        fused = f" of {len(r['nodes'])} nodes, {r['nodes'][0]}" if len(r["nodes"]) > 1 else "".join(
            f", {n}" for n in r["nodes"])
        made.append(f"  {r['step']:>4} {r['seconds'] * 1e6:9.1f} {r['run_share']:6.1%} {rate:>8} {r['gbytes']:6.1f} "
                    f"{share:>8} {gain:>5}  {r['bound'] or '-':8} {r['name']} ({r['kind']}{fused}): {r['why']}")
    if rest := found[shown:]:
        made.append(f"       {sum(r['seconds'] for r in rest) * 1e6:9.1f} "
                    f"{sum(r['run_share'] for r in rest):6.1%} {'':39} {len(rest)} more")
    return made
