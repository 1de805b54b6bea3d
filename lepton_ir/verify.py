"""Is this a graph? Structure, isolation, types, attributes, names; the error quotes the text around the culprit."""
from __future__ import annotations

from collections.abc import Callable

from lepton.ir.core import Graph, Node, Use, User, Value
from lepton.ir.diagnostics import Exit, LeptonError, VerifyError
from lepton.ir.dims import Dim, Expr
from lepton.ir.op import OPS, Trait
from lepton.ir.printer import lines
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType, Type

CONTEXT = 3


def verify(graph: Graph) -> None:
    """Raise VerifyError for the first rule of the IR that the graph breaks.

    Checked are: no cycles; every operand is an input of its graph or a result of a node of the same graph; uses agree
    with operands; recorded types are what the type rules say; attributes are frozen data and complete; regions
    only where an op has them; inputs, and likewise outputs, have different names."""
    _Verifier(graph).graph(graph)


class _Verifier:
    def __init__(self, top: Graph) -> None:
        self.top = top
        self.home: dict[User, Graph] = {}  # which graph a user is part of

    def graph(self, graph: Graph) -> None:
        nodes = self.nodes(graph)
        inputs = set(graph.inputs)
        for user in (*nodes, graph.ret):
            if user in self.home:
                self.fail(f"'{graph.name}' shares a node with '{self.home[user].name}'", user)
            self.home[user] = graph
        for value in graph.inputs:
            if value.producer is not None:
                self.fail(f"input {value!r} of '{graph.name}' is the result of a node", value.producer)
        if len(inputs) != len(graph.inputs):
            self.fail(f"an input of '{graph.name}' is listed twice", graph.ret)
        for user in (*nodes, graph.ret):
            self.operands(graph, inputs, user)
        for node in nodes:
            for region in node.regions:
                self.graph(region)
            self.node(node)
        for value in (*graph.inputs, *(r for n in nodes for r in n.results)):
            self.uses(graph, value)
        self.ports(graph)

    def nodes(self, graph: Graph) -> tuple[Node, ...]:
        """`graph.nodes`, which would never end on a cycle."""
        done: set[Node] = set()
        open_: dict[Node, None] = {}
        todo: list[tuple[Node | None, bool]] = [(v.producer, False) for v in graph.outputs]
        while todo:
            node, leaving = todo.pop()
            if node is None or node in done:
                continue
            if leaving:
                done.add(node)
                open_.pop(node)
            elif node in open_:
                around = list(open_)[list(open_).index(node):]
                names = ", ".join(dict.fromkeys(n.op.name for n in around))
                where = next((n.loc[0] for n in around if n.loc), None)
                raise VerifyError(f"'{graph.name}' has a cycle through {names}", where=where, exit=Exit.INTERNAL)
            else:
                open_[node] = None
                todo.append((node, True))
                todo += [(v.producer, False) for v in node.inputs if v is not None]
        return graph.nodes

    def operands(self, graph: Graph, inputs: set[Value], user: User) -> None:
        for slot, value in enumerate(user.inputs):
            if value is None:
                if not isinstance(user, Node):
                    self.fail(f"output {slot} of '{graph.name}' is absent", user)
                continue
            if value.producer is None and value not in inputs:
                self.fail(f"operand {slot} ({value!r}) belongs to another graph than '{graph.name}'", user)
            if value.producer is not None and (
                value.index >= len(value.producer.results) or value.producer.results[value.index] is not value
            ):
                self.fail(f"operand {slot} ({value!r}) is not what its producer lists as result {value.index}", user)
            if Use(user, slot) not in value.uses:
                self.fail(f"operand {slot} ({value!r}) does not know of this use", user)

    def uses(self, graph: Graph, value: Value) -> None:
        for user, slot in value.uses:
            if slot >= len(user.inputs) or user.inputs[slot] is not value:
                self.fail(f"{value!r} lists a use that does not read it", value.producer or user)
            if (home := self.home.get(user)) not in (graph, None):
                assert home is not None
                self.fail(f"{value!r} of '{graph.name}' is read in '{home.name}'", user)

    def node(self, node: Node) -> None:
        if OPS.get(node.op.name) is not node.op:
            self.fail(f"{node.op.name} is not a registered op", node)
        if node.regions and not node.op.has(Trait.REGIONS):
            self.fail(f"{node.op.name} takes no regions", node)
        self.attributes(node)
        for result in node.results:
            if result.producer is not node:
                self.fail(f"{result!r} names another producer", node)
            self.result_type(node, result.type)
        try:
            ruled = node.op.result_types(
                tuple(v.type if v is not None else None for v in node.inputs), node.attrs, node.regions)
        except LeptonError as error:
            self.fail(error.message, node, error)
        recorded = tuple(r.type for r in node.results)
        if ruled != recorded:
            says, has = (", ".join(map(str, types)) for types in (ruled, recorded))
            self.fail(f"{node.op.name} has type {has}, its operands and attributes give {says}", node)

    def attributes(self, node: Node) -> None:
        if list(node.attrs) != list(node.op.attributes):
            expected = ", ".join(node.op.attributes) or "none"
            self.fail(f"{node.op.name} has attributes {', '.join(node.attrs) or 'none'}; expected {expected}", node)
        for key, value in node.attrs.items():
            if not is_attribute(value):
                self.fail(f"{key} is {value!r}, a {type(value).__qualname__}: not frozen plain data", node)

    def result_type(self, node: Node, recorded: Type) -> None:
        if isinstance(recorded, TensorType) and (bad := [d for d in recorded.shape if not _is_size(d)]):
            self.fail(f"{recorded} has {bad[0]!r} for a size", node)

    def ports(self, graph: Graph) -> None:
        for kind, values in (("inputs", graph.inputs), ("outputs", tuple(dict.fromkeys(graph.outputs)))):
            names = [v.name for v in values if v.name]
            if twice := next((n for n in names if names.count(n) > 1), None):
                self.fail(f"two {kind} of '{graph.name}' are named '{twice}'", graph.ret)

    def fail(self, message: str, user: User, cause: BaseException | None = None) -> None:
        where = user.loc[0] if isinstance(user, Node) and user.loc else None
        error = VerifyError(f"{message}\n{excerpt(self.top, user)}".rstrip(), where=where, exit=Exit.INTERNAL)
        raise error from cause


def excerpt(graph: Graph, user: User) -> str:
    """The lines of the graph's text around a node (of a return: the end of its graph), the culprit marked by `>`."""
    try:
        text = list(lines(graph))
    except Exception as error:  # a graph too broken to print must not hide what is wrong with it
        return f"  (no text: {error})"
    is_culprit: Callable[[int], bool] = lambda i: text[i].node is user  # noqa: E731
    at = next(filter(is_culprit, range(len(text))), None)
    if at is None:
        at = len(text) - 2 if user is graph.ret else None
    if at is None:
        return ""
    first = max(0, at - CONTEXT)
    return "\n".join(f"{'>' if i == at else ' '} | {line.text}"
                     for i, line in enumerate(text[first:at + CONTEXT + 1], first))


def is_attribute(value: object) -> bool:
    """Whether `value` is of a kind attributes may have. numpy's scalars, though floats and ints, are not."""
    if isinstance(value, tuple):
        return type(value) is tuple and all(map(is_attribute, value))
    return value is None or type(value) in (int, float, bool, str, DType, Expr) or isinstance(value, Tensor)


def _is_size(d: Dim) -> bool:
    return isinstance(d, Expr) or (type(d) is int and d >= 0)
