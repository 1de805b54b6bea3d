"""Graph -> program: which kernels run, in which order, and where every value lies.

Two walks over a graph. Backwards, `_want` decides where values *should* be written so that concats, transposes and
the graph's outputs need no copies. Forwards, `_emit` makes views of what already lies in memory, lowers the rest to
kernels and copies where neither helped. Regions are walked in place, between jumps (control.py).
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lepton.codegen.control import bind_sizes, emit_if, emit_read_sizes
from lepton.codegen.group import Group, LowerOptions, copy_group, group_of, lowering_of
from lepton.codegen.host import HOST_CALLS, emit_host_call
from lepton.codegen.in_place import Overwriter, reuse_in_place
from lepton.codegen.kernel import Access, Kernel, Packed
from lepton.codegen.lower.nest import smaller_tasks
from lepton.codegen.lower.sized import SIZERS
from lepton.codegen.memory import check_sizes_known
from lepton.codegen.program import Buffer, GuardRow, Operand, Program, Step, StepKind, Storage, digest
from lepton.codegen.rounds import emit_loop, emit_scan
from lepton.codegen.state import emit_draw_state
from lepton.codegen.tables_in_panels import Lookup, share_tables
from lepton.codegen.target import Target
from lepton.codegen.views import Place, dense_place, inner_is_contiguous, place_operand, view
from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.diagnostics import Location, UnsupportedError
from lepton.ir.dims import Dim, collect_guards, dim_max, symbols
from lepton.ir.op import Op, Trait
from lepton.ir.strings import to_bytes
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType

# Kernels that pack or gather their operands anyway, so that a strided view costs them nothing.
TAKES_ANY_STRIDES: frozenset[Op] = frozenset({ops.matmul, ops.attention})
SMALL = 4096  # elements: below this a strided read is cheaper than another kernel
TASK_SHARES = {"cuda": 16}  # of a core's task: what a block of threads does at a time


def plan(graph: Graph, options: LowerOptions) -> Program:
    """Lower every node of `graph`. Raises UnsupportedError naming all nodes that have no lowering."""
    check_supported(graph, options.target)
    return Planner(graph, options).run()


def check_supported(graph: Graph, target: Target) -> None:
    """All that cannot be compiled, at once."""
    lost = [f"input or output: '{v.name}' is {v.type}" for v in (*graph.inputs, *graph.outputs)
            if not isinstance(v.type, TensorType)]
    for node in graph.walk():
        anchors = [n.op for n in node.regions[0].nodes] if node.op is ops.fusion else [node.op]
        for op in anchors:
            known = (lowering_of(op, target) or op in HOST_CALLS or op in _STRUCTURAL or op.has(Trait.ELEMENTWISE)
                     or op.has(Trait.VIEW))
            if not known:
                where = str(node.loc[0]) if node.loc else repr(node)
                lost.append(f"{op.name}: {where}")
        if any(not isinstance(r.type, TensorType) for r in node.results):
            lost.append(f"{node.op.name}: {node.loc[0] if node.loc else node} makes {node.results[0].type}")
    if lost:
        kinds = Counter(line.split(":")[0] for line in lost)
        raise UnsupportedError(
            f"{len(lost)} nodes cannot be compiled ({', '.join(f'{k} x{n}' for k, n in kinds.most_common())}):\n  "
            + "\n  ".join(lost[:40]))


_STRUCTURAL: frozenset[Op] = frozenset({
    ops.constant, ops.concat, ops.if_, ops.loop_, ops.scan, ops.fusion, ops.draw_state, ops.read_sizes})


CONTROL: dict[Op, Callable[[Planner, Node], None]] = {
    ops.if_: emit_if, ops.loop_: emit_loop, ops.scan: emit_scan, ops.draw_state: emit_draw_state,
    ops.read_sizes: emit_read_sizes}


class Planner:
    """The walk, and what control.py needs of it: places, steps, fresh values."""

    def __init__(self, graph: Graph, options: LowerOptions) -> None:
        self.graph, self.options = graph, options
        self.program = Program(graph.name, graph.inputs, graph.outputs, graph.output_names)
        self.places: dict[Value, Place] = {}
        self.wanted: dict[Value, Place] = {}
        self.constants: dict[Tensor, Buffer] = {}
        self.packed: dict[str, Buffer] = {}
        self.streams: dict[int, int] = {}    # of random draws: which of the session's counters is whose
        self.guards: dict[tuple[Dim, Dim], GuardRow] = {}
        self.in_place: list[Overwriter] = []
        self.lookups: list[Lookup] = []
        self.given = {name for v in graph.inputs for d in v.tensor.shape for name in symbols(d)}
        self.late: set[str] = set()              # symbols that have been bound so far
        self.check: Step | None = None           # where what is taken for granted now is checked; None: at the start
        self.depth = 0                           # of branches and loops around

    def run(self) -> Program:
        for i, value in enumerate(self.graph.inputs):
            self.places[value] = dense_place(self._buffer(Storage.INPUT, value.tensor, index=i), value.tensor)
        targets = [dense_place(self._buffer(Storage.OUTPUT, v.tensor, index=i), v.tensor)
                   for i, v in enumerate(self.graph.outputs)]
        self.region(self.graph, targets)
        reuse_in_place(self.program, self.in_place, self.place)
        share_tables(self.program, self.lookups, self._lower, self.options.target)
        self.program.guards = list(self.guards.values())
        check_sizes_known(self.program, self.given)
        self._drop_unused()
        return self.program

    # --- buffers ---

    def _buffer(self, storage: Storage, type: TensorType, index: int = 0) -> Buffer:
        buffer = Buffer(storage, index, type.size * type.dtype.bytes)
        self.program.buffers.append(buffer)
        return buffer

    def workspace(self, type: TensorType) -> Place:
        return dense_place(self._buffer(Storage.WORKSPACE, type), type)

    def growing(self, type: TensorType) -> Place:
        """Memory of its own, which RESERVE steps make as large as it must be."""
        return dense_place(self._buffer(Storage.GROWING, type), type)

    def grows(self, value: Value) -> bool:
        return self.place(value).buffer.storage is Storage.GROWING

    def _constant(self, tensor: Tensor) -> Place:
        buffer = self.constants.get(tensor)
        if buffer is None:
            buffer = self.constants[tensor] = self._buffer(Storage.CONSTANT, tensor.type)
            buffer.data = self._numbers(tensor.array) if tensor.type.dtype is DType.STRING else tensor.array
            buffer.digest = digest(buffer.data)
        return dense_place(buffer, tensor.type)

    def _numbers(self, texts: Array) -> Array:
        """Strings as their numbers among the program's constants."""
        known = self.program.strings
        numbers = [known.setdefault(to_bytes(text), len(known)) for text in texts.reshape(-1)]
        return np.array(numbers, np.int64).reshape(texts.shape)

    def _packed(self, packed: Packed) -> Buffer:
        key = digest(packed.array)
        buffer = self.packed.get(key)
        if buffer is None:
            buffer = Buffer(Storage.CONSTANT, 0, packed.array.nbytes, packed.array, key, packed.alignment)
            self.packed[key] = buffer
            self.program.buffers.append(buffer)
        return buffer

    def place(self, value: Value) -> Place:
        if value not in self.places and value.producer is not None and value.producer.op is ops.constant:
            self.places[value] = self._constant(value.producer.attrs["value"])
        return self.places[value]

    def access(self, value: Value) -> Access:
        return self.place(value).access(value.tensor)

    # --- one graph or region ---

    def region(self, graph: Graph, targets: Sequence[Place]) -> None:
        """Emit `graph` so that its outputs end up in `targets`."""
        for value, target in zip(graph.outputs, targets, strict=True):
            if _writable(value) and value not in self.wanted:
                self.wanted[value] = target
        nodes = graph.nodes
        for node in reversed(nodes):
            self._want(node)
        for node in nodes:
            self._guard(node)
            self._emit(node)
        for value, target in zip(graph.outputs, targets, strict=True):
            if self.place(value) != target:
                self.copy(value.tensor, self.place(value), target)

    def _want(self, node: Node) -> None:
        """Spread the wish for a result's place to the operands that could be written there directly."""
        if node.op not in (ops.concat, ops.reshape, ops.transpose):
            return
        (result,) = node.results
        if node.op is ops.concat:
            if result not in self.wanted:
                self.wanted[result] = self.workspace(result.tensor)
        elif result not in self.wanted:
            return
        for i, operand in enumerate(node.inputs):
            assert operand is not None
            place = place_operand(node, i, self.wanted[result])
            if (place is not None and _writable(operand) and operand not in self.wanted
                    and inner_is_contiguous(operand.tensor, place) and self._known_with(operand, place)):
                self.wanted[operand] = place

    def _known_with(self, value: Value, place: Place) -> bool:
        """Whether all sizes that `place` depends on are known as soon as those of `value` are."""
        depends = symbols(place.buffer.size) | symbols(place.offset)
        return depends - self.given <= symbols(value.tensor.size)

    def _emit(self, node: Node) -> None:
        if node.op is ops.constant:
            return
        if node.op is ops.concat:
            self._emit_concat(node)
        elif node.op in CONTROL:
            CONTROL[node.op](self, node)
        elif node.op in HOST_CALLS:
            emit_host_call(self, node)
        elif node.op.has(Trait.VIEW):
            self._emit_view(node)
        else:
            self._emit_kernel(node)

    def _emit_view(self, node: Node) -> None:
        operand, (result,) = node.inputs[0], node.results
        assert operand is not None
        place = view(node, self.place(operand))
        if place is None:
            dense = self.workspace(operand.tensor)
            self.copy(operand.tensor, self.place(operand), dense, node.loc)
            place = view(node, dense)
            assert place is not None, f"a dense operand of {node.op.name} is no view"
        target = self.wanted.get(result)
        if target is None and self._must_materialise(result, place):
            target = self.workspace(result.tensor)
        if target is not None and target != place:
            self.copy(result.tensor, place, target, node.loc)
            place = target
        self.places[result] = place

    def _must_materialise(self, value: Value, place: Place) -> bool:
        """Whether reading `value` as it lies would cost its readers more than a copy."""
        size = value.tensor.size
        if inner_is_contiguous(value.tensor, place) or (isinstance(size, int) and size <= SMALL):
            return False
        return any(_reads_elements(user) for user in value.users)

    def _emit_concat(self, node: Node) -> None:
        (result,) = node.results
        target = self.wanted[result]
        for i, operand in enumerate(node.inputs):
            assert operand is not None
            part = place_operand(node, i, target)
            assert part is not None
            if self.place(operand) != part:
                self.copy(operand.tensor, self.place(operand), part, node.loc)
        self.places[result] = target

    def _emit_kernel(self, node: Node) -> None:
        if node.op in SIZERS:
            bind_sizes(self, node)
        for result in node.results:
            self.places[result] = self.wanted.get(result) or self.workspace(result.tensor)
        group = self.group(node)
        self.call(group, self._lower(group), node.loc)
        self.lookups += filter(None, [Lookup.of(self.program.steps[-1], group)])
        if group.anchor is None:
            self.in_place.append(Overwriter(len(self.program.steps) - 1, node.results[0], tuple(group.inputs)))

    def group(self, node: Node) -> Group:
        for result in node.results:  # a size that is about to be bound stands in their types already
            self.places.setdefault(result, dense_place(Buffer(Storage.WORKSPACE), result.tensor))
        return group_of(node, self.access, rounded=self.options.math != "fast")

    def _lower(self, group: Group) -> Kernel:
        lowering = lowering_of(group.anchor.op if group.anchor is not None else None, self.options.target)
        assert lowering is not None
        with smaller_tasks(TASK_SHARES.get(self.options.target.family, 1)):
            return lowering(group, self.options)

    # --- steps ---

    def step(self, step: Step) -> Step:
        for operand in step.operands:
            operand.buffer.touch(len(self.program.steps))
        self.program.steps.append(step)
        return step

    def operand(self, value: Value) -> Operand:
        place = self.place(value)
        return Operand(place.buffer, place.offset * value.tensor.dtype.bytes)

    def call(self, group: Group, kernel: Kernel, loc: tuple[Location, ...]) -> None:
        if kernel.before is not None:
            self.places.update((v, self.workspace(v.tensor)) for v in kernel.before.writes)
            self.call(group, kernel.before, loc)
        operands = tuple(Operand(self._packed(o)) if isinstance(o, Packed) else self.operand(o)
                         for o in kernel.operands)
        self.step(Step(StepKind.CALL, operands, kernel, loc=loc))

    def copy(self, type: TensorType, source: Place, target: Place, loc: tuple[Location, ...] = ()) -> None:
        ends = Value(type), Value(type)
        self.places.update(zip(ends, (source, target), strict=True))
        group = copy_group(*ends, self.access)
        self.call(group, self._lower(group), loc)

    def _guard(self, node: Node) -> None:
        """What the node's type rule takes for granted becomes a check at run time."""
        with collect_guards() as found:
            types = tuple(v.type if v is not None else None for v in node.inputs)
            node.op.result_types(types, node.attrs, node.regions)
        rows = [(left, right, f"{left} must equal {right}") for left, right in found]
        rows += [(d, dim_max(d, 0), f"the size {d} must not be negative")
                 for r in node.results for d in r.tensor.shape if dim_max(d, 0) != d]
        for left, right, words in rows:
            at_start = symbols(left) | symbols(right) <= self.given and not self.depth
            self.guard(None if at_start else self.check, left, right, f"{self.where(node)}: {words}")

    def where(self, node: Node) -> str:
        return str(node.loc[0]) if node.loc else f"'{node.op.name}'"

    def guard(self, check: Step | None, left: Dim, right: Dim, message: str) -> None:
        """Have it checked that two sizes are equal: by a CHECK step, or (None) when the input shapes are known."""
        if (left, right) not in self.guards:
            (self.guards if check is None else check.guards).setdefault((left, right), GuardRow(left, right, message))

    # --- values that the graph does not have: counters, flags, state ---

    def value(self, type: TensorType) -> Value:
        """A fresh value in workspace memory of its own."""
        made = Value(type)
        self.places[made] = self.workspace(type)
        return made

    def apply(self, op: Op, *operands: Value, into: Value | None = None, **attrs: Any) -> Value:
        """The result of an op on planned values, computed here; `into` overwrites a value."""
        stand_ins = [Value(v.type) for v in operands]
        self.places.update((s, self.place(v)) for s, v in zip(stand_ins, operands, strict=True))
        node = op.node(*stand_ins, **attrs)
        self.places[node.result] = self.place(into) if into is not None else self.workspace(node.result.tensor)
        group = self.group(node)
        self.call(group, self._lower(group), ())
        return node.result

    def size_value(self, size: Dim) -> Value:
        """An i64[] that holds a size."""
        if isinstance(size, int):
            return ops.constant(value=Tensor.of(np.array(size, np.int64)))
        return self.apply(ops.shape_values, dims=(size,), scalar=True)

    def copy_value(self, source: Value, target: Value) -> None:
        self.copy(source.tensor, self.place(source), self.place(target))

    def deliver(self, result: Value, value: Value) -> None:
        """Make `result` of a control node what `value` holds, which may have more rows than `result`."""
        place = self.place(value)
        target = self.wanted.get(result)
        if target is not None:
            self.copy(result.tensor, place, target)
        self.places[result] = target or place

    def launch(self, kernel: Kernel) -> None:
        """A kernel that no group stands behind."""
        operands = tuple(self.operand(o) for o in kernel.operands if isinstance(o, Value))
        self.step(Step(StepKind.CALL, operands, kernel))

    # --- after the walk ---

    def _drop_unused(self) -> None:
        used = {o.buffer for s in self.program.steps for o in s.operands}
        keep = (Storage.INPUT, Storage.OUTPUT)
        self.program.buffers = [b for b in self.program.buffers if b in used or b.storage in keep]


def _writable(value: Value) -> bool:
    """Whether some kernel or copy writes this value, so that its place is ours to choose."""
    return value.producer is not None and value.producer.op is not ops.constant


def _reads_elements(user: object) -> bool:
    """Whether a reader goes through the elements one by one, so that it wants them to lie in order."""
    if not isinstance(user, Node):
        return False
    anchors = {n.op for n in user.regions[0].nodes} if user.op is ops.fusion else {user.op}
    return not (user.op.has(Trait.VIEW) or user.op is ops.concat or anchors & TAKES_ANY_STRIDES)
