"""A group: what becomes one kernel. Every lowering sees the same thing, fused or not."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lepton.codegen.kernel import Access, Kernel
from lepton.codegen.schedule import Chooser, by_cost
from lepton.codegen.target import Target
from lepton.ir import ops
from lepton.ir.core import Graph, Node, User, Value, clone
from lepton.ir.op import Op, Trait


@dataclass(frozen=True, eq=False, slots=True)
class Group:
    """A node of the program, seen as a body: an anchor (or none) among elementwise ops.

    `body.inputs` pairs with `inputs`, `body.outputs` with `outputs`. Beside the anchor the body holds elementwise
    ops and scalar constants only, and every value between the anchor and an output has the anchor result's shape,
    or broadcasts to it.
    """

    name: str
    body: Graph
    anchor: Node | None
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    accesses: Mapping[Value, Access]     # of `inputs` and `outputs`
    constants: Mapping[Value, Value]     # body input -> its producer's constant value, for prepacking
    rounded: bool = True                 # whether each op's result is rounded to its type, as its meaning says

    def access(self, body_value: Value) -> Access:
        """The access of the program value that a body input stands for."""
        return self.accesses[self.inputs[self.body.inputs.index(body_value)]]


@dataclass(frozen=True, slots=True)
class LowerOptions:
    target: Target
    math: str = "default"        # strict | default | fast
    winograd: bool = True        # 3x3 convolutions by fewer multiplications, unless math is strict
    seed: int = 0                # what the random draws of a new session start from
    choose: Chooser = by_cost    # how products and convolutions are cut


Lowering = Callable[[Group, LowerOptions], Kernel]
LOWERINGS: dict[Op | None, Lowering] = {}
FAMILY_LOWERINGS: dict[str, dict[Op | None, Lowering]] = {}  # what a family of targets has in place of those


def lowers(*anchors: Op | None, family: str = "") -> Callable[[Lowering], Lowering]:
    """Register how groups anchored at these ops become kernels; None: groups of elementwise ops alone.

    `family`: for the targets of this family only; they fall back to the others' lowerings."""
    table = FAMILY_LOWERINGS.setdefault(family, {}) if family else LOWERINGS

    def register(function: Lowering) -> Lowering:
        for anchor in anchors:
            if anchor in table:
                raise ValueError(f"{anchor} is lowered twice")
            table[anchor] = function
        return function

    return register


def lowering_of(anchor: Op | None, target: Target) -> Lowering | None:
    """How groups anchored at this op become kernels of this target."""
    return FAMILY_LOWERINGS.get(target.family, {}).get(anchor) or LOWERINGS.get(anchor)


def copy_group(source: Value, target: Value, access: Callable[[Value], Access]) -> Group:
    """The group that copies one value's elements to another place: a body without ops."""
    inner = Value(source.type)
    body = Graph("copy", (inner,), User((inner,)))
    return Group("copy", body, None, (source,), (target,), {v: access(v) for v in (source, target)}, {})


def group_of(node: Node, access: Callable[[Value], Access], rounded: bool = True) -> Group:
    """The group of a program node: a fusion's body, or a body of the one op. Absent inputs are left out of `inputs`.

    Without `rounded`, what fused ops pass on to each other stays as wide as the registers it is computed in."""
    inputs = tuple(dict.fromkeys(v for v in node.inputs if v is not None))
    if node.op is ops.fusion:
        body = node.regions[0]
        inputs = tuple(v for v in node.inputs if v is not None)
    else:
        stand_ins = {v: Value(v.type, name=v.name) for v in inputs}
        inner = Node(node.op, [None if v is None else stand_ins[v] for v in node.inputs], node.attrs,
                     regions=[clone(r) for r in node.regions], loc=node.loc)
        body = Graph(node.op.name, tuple(stand_ins.values()), User(inner.results))
    anchors = [n for n in body.nodes if not n.op.has(Trait.ELEMENTWISE) and n.op is not ops.constant]
    if len(anchors) > 1:
        raise AssertionError(f"a group with {len(anchors)} anchors: {', '.join(n.op.name for n in anchors)}")
    if anchors:
        body, inputs = _lift_constants(body, inputs)
        anchors = [n for n in body.nodes if n.op is anchors[0].op]
    constants = {inner: outer for inner, outer in zip(body.inputs, inputs, strict=True)
                 if outer.producer is not None and outer.producer.op is ops.constant}
    name = "_".join(n.op.name for n in body.nodes if n.op is not ops.constant)[:48]
    values = (*inputs, *node.results)
    return Group(name, body, anchors[0] if anchors else None, inputs, node.results,
                 {v: access(v) for v in values}, constants, rounded)


def _lift_constants(body: Graph, inputs: tuple[Value, ...]) -> tuple[Graph, tuple[Value, ...]]:
    """Make inputs of the scalar constants that the anchor itself reads: an anchor's operands are always in memory."""
    def is_anchor(node: Node) -> bool:
        return not node.op.has(Trait.ELEMENTWISE) and node.op is not ops.constant

    def held(value: Value | None) -> bool:
        return value is not None and value.producer is not None and value.producer.op is ops.constant

    if not any(held(v) for n in body.nodes if is_anchor(n) for v in n.inputs):
        return body, inputs
    body = clone(body)
    for node in [n for n in body.nodes if is_anchor(n)]:
        for slot, value in enumerate(node.inputs):
            if value is not None and value.producer is not None and held(value):
                inputs = (*inputs, ops.constant(value=value.producer.attrs["value"]))
                stand_in = Value(value.type)
                body.inputs = (*body.inputs, stand_in)
                node.set_input(slot, stand_in)
    return body, inputs
