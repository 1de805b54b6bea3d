"""A compiled model's answers next to ONNX Runtime's and the interpreter's; the first node that went wrong.

This is the one place that knows another engine, and only to measure against it.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from lepton.artifact import Model
from lepton.codegen.target import Target
from lepton.commands.common import aliases, described
from lepton.driver import Compiled, Options, Report, checked, lower, program_of, run_here
from lepton.inputs import make_inputs, ports_of, telling_sizes
from lepton.ir.core import Graph, Node, User, Value
from lepton.ir.diagnostics import LeptonError, NotInstalledError, UsageError
from lepton.ir.evaluate import evaluate
from lepton.ir.op import Trait
from lepton.ir.structure import Structure
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType

JSON_VERSION = 1
# By `--precision`, how large a share of the largest magnitude what is rounded may move (docs/precision.md).
RTOL: Mapping[str, float] = {"f32": 1e-4, "fp16": 1e-2, "bf16": 1e-1}
CHUNK = 256 << 20  # bytes of intermediate values looked at in one run


@dataclass(frozen=True)
class Tolerance:
    """Allowed is `atol + rtol * max|reference|`; for integers and bools only whole numbers up to `atol`."""

    rtol: float = 1e-4
    atol: float = 1e-6

    def allowed(self, reference: Array) -> float:
        if DType.of(reference).is_integer or reference.dtype.kind in "bO":
            return float(int(self.atol))
        finite = np.abs(_wide(reference))
        finite = finite[np.isfinite(finite)]
        return self.atol + self.rtol * float(finite.max(initial=0.0))


@dataclass(frozen=True)
class Request:
    """What to compare: a model, compiled with `options` here or already (`so`), on inputs of these sizes (of its open
    dimensions); `against`: references, () for all there are; `exactly`: no more than `tolerance`, however little the
    model's own rounding leaves of its answers."""

    model: str
    so: Model | None
    options: Options
    sizes: Mapping[str, int]
    inputs: tuple[str, ...]
    seed: int
    tolerance: Tolerance
    against: tuple[str, ...] = ()
    exactly: bool = False


@dataclass(frozen=True)
class Difference:
    """How far one output lies from a reference's. Relative errors are shares of the reference's largest magnitude (max)
    and of its mean magnitude (mean). `problem`: why no numbers can be given."""

    output: str
    max_abs: float
    mean_abs: float
    max_rel: float
    mean_rel: float
    allowed: float
    problem: str = ""

    @property
    def agrees(self) -> bool:
        return not self.problem and self.max_abs <= self.allowed


@dataclass
class Comparison:
    """All that was found."""

    model: str
    target: str
    inputs: dict[str, str]
    references: dict[str, list[Difference]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        return all(row.agrees for rows in self.references.values() for row in rows)

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        rows = {name: [{**asdict(r), "agrees": r.agrees} for r in found] for name, found in self.references.items()}
        return {"version": JSON_VERSION, "model": self.model, "target": self.target, "inputs": self.inputs,
                "references": rows, "notes": self.notes, "agrees": self.agrees}


def compare(request: Request) -> Comparison:
    """Run the model and the references on the same inputs. Raises LeptonError."""
    if request.so is not None:
        model, done = request.so, None
        graph = checked(request.model, request.options)
    else:
        done = lower(request.model, request.options)
        graph = done.original
        model = run_here(done, request.options)
    feeds = make_inputs(ports_of(graph), request.inputs, request.sizes, request.seed, aliases(model))
    _check_ports(model, feeds)
    model.seed(request.options.seed)  # whatever a .so was compiled with: the interpreter draws by this one
    with telling_sizes(ports_of(graph), request.inputs, request.sizes, aliases(model)):
        got = model.run_ports(feeds)
    found = Comparison(request.model, model.target or "?", described(feeds))
    wanted = request.against or ("onnxruntime", "interpreter")
    for name in dict.fromkeys(wanted):
        try:
            want = _REFERENCES[name](request.model, graph, feeds)
        except NotThere as error:
            if name in request.against:
                missing = isinstance(error.__cause__, ImportError)
                raise (NotInstalledError if missing else UsageError)(f"cannot compare with {name}: {error}") from error
            found.notes.append(f"not compared with {name}: {error}")
            continue
        rows = _rows(want, got, request.tolerance)
        if name == "onnxruntime" and not _agree(rows):
            rows = _node_by_node(request, graph, feeds, got, rows, found.notes)
        found.references[name] = rows
    if any(n.op.has(Trait.IMPURE) for n in graph.walk()):
        found.notes.append("the model draws random numbers: only the interpreter draws the same ones")
    if not found.agrees and not request.exactly:
        _allow_rounding(found, graph, feeds)
    if not found.agrees:
        found.notes.append(_only_other_engines(found) or diagnose(
            done or lower(request.model, request.options), list(feeds.values()), request))
    return found


def _check_ports(model: Model, feeds: Mapping[str, Array]) -> None:
    names = [p.name for p in model.inputs]
    if sorted(names) != sorted(feeds):
        raise UsageError(f"the compiled model takes {', '.join(names)}; the source takes {', '.join(feeds)}",
                         help="was it compiled from this model?")


# --- references -----------------------------------------------------------------------------------


class NotThere(Exception):
    """A reference that cannot answer, and why."""


def _onnxruntime(path: str, graph: Graph, feeds: Mapping[str, Array], optimised: bool = True) -> dict[str, Array]:
    if not path.endswith(".onnx"):
        raise NotThere("it reads ONNX files only")
    try:
        import onnxruntime
    except ImportError as error:
        raise NotThere("it is not installed (pip install onnxruntime)") from error
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    if not optimised:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        structure = Structure.of(graph.metadata)
        values = dict(feeds) if structure is None else structure.values(feeds)
        results = dict(zip(names, session.run(names, values), strict=True))
        return results if structure is None else structure.arrays(results)
    except Exception as error:  # it has a dozen kinds of its own
        raise NotThere(f"it says {str(error).splitlines()[0][:200]}") from error


def _node_by_node(request: Request, graph: Graph, feeds: Mapping[str, Array], got: Mapping[str, Array],
                  rows: list[Difference], notes: list[str]) -> list[Difference]:
    """The rows against ONNX Runtime without its optimisations, if they agree, and a note; else `rows`.

    What it fuses (quantised nodes above all) rounds otherwise than what the model says."""
    try:
        plain = _rows(_REFERENCES["onnxruntime"](request.model, graph, feeds, False), got, request.tolerance)
    except NotThere:
        return rows
    if not _agree(plain):
        return rows
    worst = max((row.max_rel for row in rows if np.isfinite(row.max_rel)), default=float("nan"))
    notes.append("onnxruntime was compared with its graph optimisations off: with them its answers differ from those "
                 f"of the model as it is written, by up to {worst:.3g} of the largest")
    return plain


def _interpreter(path: str, graph: Graph, feeds: Mapping[str, Array]) -> dict[str, Array]:
    try:
        results = evaluate(graph, *(feeds[name] for name in feeds))
    except LeptonError as error:
        raise NotThere(f"it fails: {error.message}") from error
    return dict(zip(graph.output_names, results, strict=True))


_REFERENCES: dict[str, Callable[..., dict[str, Array]]] = {
    "onnxruntime": _onnxruntime, "interpreter": _interpreter,
}


# --- differences ----------------------------------------------------------------------------------


def _agree(rows: Sequence[Difference]) -> bool:
    return all(row.agrees for row in rows)


def _rows(want: Mapping[str, Array], got: Mapping[str, Array], tolerance: Tolerance) -> list[Difference]:
    nan = float("nan")
    return [difference(name, array, got[name], tolerance) if name in got
            else Difference(name, nan, nan, nan, nan, 0.0, "missing") for name, array in want.items()]


def difference(name: str, want: Any, got: Array, tolerance: Tolerance) -> Difference:
    """How far `got` lies from `want`."""
    want, nan = np.asarray(want), float("nan")
    if want.shape != got.shape or want.dtype != got.dtype:
        return Difference(name, nan, nan, nan, nan, 0.0,
                          f"{got.dtype}{list(got.shape)}, expected {want.dtype}{list(want.shape)}")
    if not want.size:
        return Difference(name, 0.0, 0.0, 0.0, 0.0, 0.0)
    if want.dtype == object:
        wrong = float((want != got).sum())
        return Difference(name, wrong, wrong / want.size, wrong, wrong / want.size, 0.0)
    a, b = _wide(want), _wide(got)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return Difference(name, nan, nan, nan, nan, tolerance.allowed(want), "infinities or NaNs differ")
    if not finite.any():
        return Difference(name, 0.0, 0.0, 0.0, 0.0, tolerance.allowed(want))
    apart, size = np.abs(a[finite] - b[finite]), np.abs(a[finite])
    most, mean, tiny = float(apart.max()), float(apart.mean()), float(np.finfo(np.float32).tiny)
    return Difference(name, most, mean, most / max(float(size.max()), tiny), mean / max(float(size.mean()), tiny),
                      tolerance.allowed(want))


def _wide(array: Array) -> Array:
    return np.asarray(array).astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _allow_rounding(found: Comparison, graph: Graph, feeds: Mapping[str, Array]) -> None:
    """Let answers differ by twice what rounding alone does to them: in the interpreter, as written next to float64.

    Where a model takes nearly equal numbers from each other (variances as the mean of squares less the square of the
    mean), orders of summation answer differently, and none is right. Both sides are the graph as it was read, so no
    importer, pass or kernel that is wrong makes this larger."""
    try:
        narrow, exact = (evaluate(graph, *feeds.values(), float64=wide) for wide in (False, True))
    except LeptonError:
        return
    moved = {name: _moved(a, b) for name, a, b in zip(graph.output_names, narrow, exact, strict=True)}
    excused: set[str] = set()
    for rows in found.references.values():
        for i, row in enumerate(rows):
            wider = replace(row, allowed=max(row.allowed, 2 * moved.get(row.output, 0.0)))
            if wider.agrees and not row.agrees:
                rows[i] = wider
                excused.add(row.output)
    found.notes += [f"rounding alone moves {name} by up to {moved[name]:.3g} (the interpreter next to float64): twice "
                    "as much is allowed" for name in sorted(excused)]


def _moved(narrow: Array, exact: Array) -> float:
    """The largest distance; 0 for what is no float, where one rounding may change everything."""
    if narrow.shape != exact.shape or exact.dtype.kind not in "fc":
        return 0.0
    apart = np.abs(_wide(narrow) - _wide(exact))
    return float(apart[np.isfinite(apart)].max(initial=0.0))


# --- the culprit ----------------------------------------------------------------------------------


def _only_other_engines(found: Comparison) -> str:
    """A note for where the compiled code agrees with the interpreter and only another engine does not; or ""."""
    rows = found.references.get("interpreter")
    if rows is None or not _agree(rows):
        return ""
    others = [name for name, rows in found.references.items() if not _agree(rows)]
    return ("the compiled code agrees with the interpreter, so passes and kernels are right: either the model was read "
            f"wrongly or {', '.join(others)} differs from ONNX's definition; `lepton-opt {found.model}` prints what "
            "was read")


def diagnose(done: Compiled, inputs: Sequence[Array], request: Request) -> str:
    """In words, where the answers went wrong: a pass, a node's kernel, or neither (then the plan)."""
    graph, (_, target) = done.graphs[0], done.programs[0]
    before = evaluate(done.original, *inputs)
    after = evaluate(graph, *inputs)
    rows = [difference("", a, b, request.tolerance) for a, b in zip(before, after, strict=True)]
    if any(not row.agrees for row in rows):
        return (f"the passes changed the answers (max |Δ| {max(r.max_abs for r in rows):.3g} in the interpreter): "
                f"`lepton-opt {request.model} -O{request.options.level} --bisect` looks for the pass")
    if found := first_divergence(graph, target, inputs, request):
        return found
    return ("each node agrees with the interpreter when its result is kept: what is wrong lies in how the program is "
            "planned (views, memory)"
            + (", or the .so is not of this model, or was made with other --passes or contents (--value)"
               if request.so else ""))


def first_divergence(graph: Graph, target: Target, inputs: Sequence[Array], request: Request) -> str:
    """The first node of an optimised graph whose compiled result differs from the interpreter's, or ""."""
    expected = intermediates(graph, inputs)
    for chunk in _chunks(expected):
        probe = Graph(graph.name, graph.inputs, User([value for value, _ in chunk]),
                      definers=graph.definers)
        try:
            got = run_values(probe, target, inputs, request.options)
        finally:
            probe.ret.drop()
        for (value, want), array in zip(chunk, got, strict=True):
            row = difference(value.name or "", want, array, request.tolerance)
            if not row.agrees:
                return _told(value, row)
    return ""


def run_values(probe: Graph, target: Target, inputs: Sequence[Array], options: Options) -> Sequence[Array]:
    """The outputs of an optimised graph, compiled as it is."""
    program = program_of(probe, target, options)
    done = Compiled(probe, [probe], [(program, target)], Report(targets={target.name: {}}))
    got = run_here(done, options)(*inputs)
    return got if isinstance(got, tuple) else (got,)


def intermediates(graph: Graph, inputs: Sequence[Array]) -> list[tuple[Value, Array]]:
    """Every tensor the graph's own nodes compute, in order, with what the interpreter makes of it; no constants."""
    nodes, found = set(graph.nodes), list[tuple[Value, Array]]()

    def observe(node: Node, results: list[Array]) -> None:
        if node in nodes and not node.op.has(Trait.CONSTANT):
            found.extend((v, r) for v, r in zip(node.results, results, strict=True) if isinstance(v.type, TensorType))

    evaluate(graph, *inputs, observe=observe)
    return found


def _chunks(values: Sequence[tuple[Value, Array]]) -> list[list[tuple[Value, Array]]]:
    chunks: list[list[tuple[Value, Array]]] = [[]]
    size = 0
    for value, array in values:
        if chunks[-1] and size + array.nbytes > CHUNK:
            chunks.append([])
            size = 0
        chunks[-1].append((value, array))
        size += array.nbytes
    return [c for c in chunks if c]


def _told(value: Value, row: Difference) -> str:
    node = value.producer
    assert node is not None
    inner = ", ".join(n.op.name for r in node.regions for n in r.nodes if not n.op.has(Trait.CONSTANT))
    words = row.problem or f"max |Δ| {row.max_abs:.3g}, allowed {row.allowed:.3g}"
    places = "".join(f"\n  --> {place}" for place in node.loc)
    return (f"the first node that diverges is {node.op.name}{f' ({inner})' if inner else ''} : {value.type}, result "
            f"'{value.name or value.index}': {words}{places}")
