"""Make a failing program small: fewer outputs, nodes cut off from below, values fed in place of computed, nodes left
out, shorter regions. A candidate is kept if it still fails."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from lepton.ir import ops
from lepton.ir.core import Node, Value, clone
from lepton.ir.diagnostics import LeptonError
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import TensorType
from tests.fuzz.programs import Program, graph_of

Fails = Callable[[Program], bool]


def minimise(program: Program, fails: Fails, attempts: int = 300) -> Program:
    """The smallest program found in so many attempts. `fails` must hold for `program` itself."""
    changed = True
    while changed and attempts > 0:
        changed = False
        for candidate in _candidates(program):
            attempts -= 1
            if attempts <= 0:
                break
            if fails(candidate):
                program, changed = candidate, True
                break
    return program


def _candidates(program: Program) -> Iterator[Program]:
    """Smaller programs, the boldest cuts first."""
    graph = program.graph
    nodes = [n for n in graph.nodes if n.op is not ops.constant]
    if len(graph.outputs) > 1:
        for output in graph.outputs:
            yield _made(program, outputs=(output,))
    for node in nodes:                                   # only what leads to this node
        if node.results[0] not in graph.outputs or len(graph.outputs) > 1:
            yield _made(program, outputs=(node.results[0],))
    held = _held(program)
    for node in reversed(nodes):                         # feed what it computes
        if node.results[0] not in graph.outputs and all(r in held for r in node.results):
            yield _made(program, fed={r: held[r] for r in node.results if r.uses})
    for node in nodes:                                   # leave it out
        for operand in node.inputs:
            if operand is not None and operand.type == node.results[0].type:
                yield _made(program, skipped={node.results[0]: operand})
    yield from _without_unused(program)
    yield from _inlined(program)
    yield from _shorter_regions(program)
    yield from _fewer_runs(program)


def _held(program: Program) -> dict[Value, list[Array]]:
    """What every value of the graph, regions excepted, holds in each run."""
    outer = {r for n in program.graph.nodes for r in n.results}
    held: dict[Value, list[Array]] = {}
    for arrays in program.runs:
        def observe(node: Node, results: list[Array]) -> None:
            for value, array in zip(node.results, results, strict=True):
                if value in outer:
                    held.setdefault(value, []).append(array)

        try:
            evaluate(program.graph, *arrays, observe=observe)
        except LeptonError:
            return {}
    return {v: arrays for v, arrays in held.items() if len(arrays) == len(program.runs)}


def _made(program: Program, *, outputs: tuple[Value, ...] | None = None,
          fed: Mapping[Value, list[Array]] | None = None, skipped: Mapping[Value, Value] | None = None) -> Program:
    """A copy with other outputs, with values fed instead of computed, or with values standing for others."""
    graph, fed, skipped = program.graph, fed or {}, skipped or {}
    env: dict[Value, Value] = {v: Value(v.type, name=v.name) for v in graph.inputs}
    inputs, runs = list(env.values()), [list(arrays) for arrays in program.runs]
    for value, arrays in fed.items():
        env[value] = Value(value.type, name=f"fed{len(inputs)}_{program.seed}")
        inputs.append(env[value])
        for run, array in zip(runs, arrays, strict=True):
            run.append(array)

    def of(value: Value) -> Value:
        while value in skipped:
            value = skipped[value]
        return env[value]

    for node in graph.nodes:
        if all(r in fed for r in node.results):
            continue
        copied = Node(node.op, [None if v is None else of(v) for v in node.inputs], node.attrs,
                      regions=[clone(r) for r in node.regions])
        for old, new in zip(node.results, copied.results, strict=True):
            if old not in fed:
                env[old] = new
    wanted = dict.fromkeys(of(v) for v in outputs or graph.outputs)
    return replace(program, graph=graph_of(graph.name, inputs, list(wanted)), runs=runs)


def _without_unused(program: Program) -> Iterator[Program]:
    """Inputs that nothing reads go; the others' sizes must still bind every symbol."""
    copied = _made(program)
    keep = [i for i, v in enumerate(copied.graph.inputs) if v.uses]
    if len(keep) < len(copied.graph.inputs):
        graph = graph_of(copied.graph.name, [copied.graph.inputs[i] for i in keep], copied.graph.outputs)
        yield replace(program, graph=graph, runs=[[arrays[i] for i in keep] for arrays in program.runs])


def _inlined(program: Program) -> Iterator[Program]:
    """Constants in place of inputs, where there is one run."""
    if len(program.runs) != 1:
        return
    for i, value in enumerate(program.graph.inputs):
        if value.tensor.is_static:
            copied = _made(program)
            old = copied.graph.inputs[i]
            old.replace_with(ops.constant(value=Tensor.of(program.runs[0][i])))
            inputs = [v for v in copied.graph.inputs if v is not old]
            yield replace(copied, graph=graph_of(copied.graph.name, inputs, copied.graph.outputs),
                          runs=[[a for j, a in enumerate(program.runs[0]) if j != i]])


def _shorter_regions(program: Program) -> Iterator[Program]:
    """Within regions: outputs that are something of the same type that was there earlier."""
    for index, node in enumerate(program.graph.nodes):
        for which, region in enumerate(node.regions):
            for slot, output in enumerate(region.outputs):
                others = [v for v in (*region.inputs, *(r for n in region.nodes for r in n.results))
                          if v.type == output.type and v is not output]
                for other in others[:6]:
                    yield _with_region(program, index, which, slot, other)


def _with_region(program: Program, index: int, which: int, slot: int, other: Value) -> Program:
    region = program.graph.nodes[index].regions[which]
    values = [*region.inputs, *(r for n in region.nodes for r in n.results)]
    at = values.index(other)
    copied = _made(program)
    twin = copied.graph.nodes[index].regions[which]
    twin.ret.set_input(slot, [*twin.inputs, *(r for n in twin.nodes for r in n.results)][at])
    return copied


def _fewer_runs(program: Program) -> Iterator[Program]:
    if len(program.runs) > 1:
        for arrays in program.runs:
            yield replace(program, runs=[arrays])
    elif program.graph.inputs and any(not v.tensor.is_static for v in program.graph.inputs):
        pairs = zip(program.graph.inputs, program.runs[0], strict=True)
        types = [TensorType(v.tensor.dtype, a.shape) for v, a in pairs]
        if static := _pinned(program, types):
            yield static


def _pinned(program: Program, types: list[TensorType]) -> Program | None:
    """The program with the sizes of its only run."""
    from lepton.ir import dims
    from lepton.ir.evaluate import bind

    sizes: dict[str, int] = {}
    for value, type in zip(program.graph.inputs, types, strict=True):
        bind(value.tensor, [d for d in type.shape if isinstance(d, int)], sizes)

    def fixed(attr: object) -> object:
        if isinstance(attr, tuple):
            return tuple(map(fixed, attr))
        return dims.substitute(attr, sizes) if isinstance(attr, dims.Expr) else attr

    env: dict[Value, Value] = {v: Value(t, name=v.name) for v, t in zip(program.graph.inputs, types, strict=True)}
    inputs = list(env.values())
    try:
        for node in program.graph.nodes:
            if node.regions:
                return None
            copied = Node(node.op, [None if v is None else env[v] for v in node.inputs],
                          {k: fixed(a) for k, a in node.attrs.items()})
            env.update(zip(node.results, copied.results, strict=True))
    except LeptonError:
        return None
    return replace(program, graph=graph_of(program.graph.name, inputs, [env[v] for v in program.graph.outputs]))
