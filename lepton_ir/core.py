"""The graph: values, nodes, and the return that keeps them alive.

Types and attributes are data (frozen, compared by content); values and nodes have identity.
Every edge, graph outputs included, goes through `User.set_input`, so `Value.uses` is the truth.
There is no node list: the nodes of a graph are those its outputs depend on, so dead code does not exist.
"""
from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from lepton.ir.diagnostics import Location
from lepton.ir.dims import Expr, symbols
from lepton.ir.types import TensorType, Type

if TYPE_CHECKING:
    from lepton.ir.op import Op


class Use(NamedTuple):
    user: User
    slot: int


@dataclass(eq=False, slots=True)
class Value:
    """One SSA value: a graph input (no producer) or a result of a node."""

    type: Type
    producer: Node | None = None
    index: int = 0                                # which result of the producer
    name: str | None = None                       # the model's name for it; a hint, never identity
    uses: dict[Use, None] = field(default_factory=dict)

    @property
    def tensor(self) -> TensorType:
        """The type, where it is a tensor's. Raises TypeError for sequences and optionals."""
        if not isinstance(self.type, TensorType):
            raise TypeError(f"{self.type} is not a tensor type")
        return self.type

    @property
    def users(self) -> tuple[User, ...]:
        """Who reads this value, each once, in order of first use."""
        return tuple(dict.fromkeys(use.user for use in self.uses))

    def replace_with(self, new: Value, *, keep: frozenset[User] | set[User] = frozenset()) -> None:
        """Point every reader at `new`, but for those in `keep`; what nobody reads any more is dropped.

        `keep` serves replacements that wrap the old value: x -> relu(x) keeps the relu."""
        if new is self:
            return
        new.name = new.name or self.name
        for use in tuple(self.uses):
            if use.user not in keep:
                use.user.set_input(use.slot, new)

    def __repr__(self) -> str:
        return f"<{self.name or 'value'}: {self.type}>"


class User:
    """Something that reads values: a node, or a graph's return. An absent optional input is None."""

    __slots__ = ("inputs",)

    inputs: tuple[Value | None, ...]

    def __init__(self, inputs: Sequence[Value | None]) -> None:
        self.inputs = tuple(inputs)
        for slot, value in enumerate(self.inputs):
            if value is not None:
                value.uses[Use(self, slot)] = None

    def set_input(self, slot: int, new: Value | None) -> None:
        old = self.inputs[slot]
        if new is old:
            return
        self.inputs = (*self.inputs[:slot], new, *self.inputs[slot + 1:])
        if new is not None:
            new.uses[Use(self, slot)] = None
        if old is not None:
            _release([(self, slot, old)])

    def drop(self) -> None:
        """Read nothing any more. For a graph's return whose graph is thrown away."""
        doomed = [(self, slot, value) for slot, value in enumerate(self.inputs) if value is not None]
        self.inputs = ()
        _release(doomed)


class Definers(User):
    """Keeps the nodes alive that find sizes in data, by one result each. It reads no values: it never changes."""

    __slots__ = ()

    def set_input(self, slot: int, new: Value | None) -> None:
        """Nothing: whatever takes the result's place, the size is still found by this node."""


def _release(doomed: list[tuple[User, int, Value]]) -> None:
    """Remove uses; a node none of whose results is read any more lets go of its own inputs in turn."""
    while doomed:
        user, slot, value = doomed.pop()
        value.uses.pop(Use(user, slot), None)
        node = value.producer
        if node is not None and node.inputs and not any(result.uses for result in node.results):
            doomed += [(node, i, v) for i, v in enumerate(node.inputs) if v is not None]
            node.inputs = ()


class Node(User):
    """One application of an op. Made by calling the op: `add(x, y)`."""

    __slots__ = ("_mentions", "attrs", "loc", "op", "regions", "results")

    def __init__(
        self,
        op: Op,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Any],
        *,
        regions: Sequence[Graph] = (),
        loc: tuple[Location, ...] = (),
    ) -> None:
        self.op, self.attrs, self.loc, self.regions = op, MappingProxyType(dict(attrs)), loc, tuple(regions)
        self._mentions: frozenset[str] | None = None
        types = op.result_types(tuple(v.type if v is not None else None for v in inputs), self.attrs, self.regions)
        self.results = tuple(Value(t, self, i) for i, t in enumerate(types))
        super().__init__(inputs)

    @property
    def result(self) -> Value:
        """The result of a node that has one."""
        (value,) = self.results
        return value

    @property
    def mentions(self) -> frozenset[str]:
        """The symbols in the attributes."""
        if self._mentions is None:
            self._mentions = frozenset().union(*map(_mentioned, self.attrs.values()))
        return self._mentions

    def __repr__(self) -> str:
        return f"<{self.op.name}: {', '.join(str(r.type) for r in self.results)}>"


@dataclass(eq=False)
class Graph:
    """A function from inputs to what `ret` reads. Isolated: it sees no value of any other graph.

    `definers` holds nodes that find sizes in data: they belong to the graph as long as one of its nodes mentions the
    size, though it may read no result of theirs."""

    name: str
    inputs: tuple[Value, ...]
    ret: User
    metadata: dict[str, str] = field(default_factory=dict)  # producer, opset, …: for people, never for passes
    definers: Definers = field(default_factory=lambda: Definers(()))

    @classmethod
    def of(cls, name: str, inputs: Sequence[Value], outputs: Sequence[Value], **metadata: str) -> Graph:
        return cls(name, tuple(inputs), User(outputs), dict(metadata))

    def define(self, values: Sequence[Value]) -> None:
        """Add nodes that find sizes, each by a result, to the definers."""
        if values:
            old, self.definers = self.definers, Definers((*self.definers.inputs, *values))
            old.drop()

    @property
    def outputs(self) -> tuple[Value, ...]:
        return tuple(v for v in self.ret.inputs if v is not None)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names callers know the outputs by: the model's (a value may go out under several names, or under one
        that differs from an input's it equals), else the values' own; what has none, or comes a second time, is called
        by its place."""
        names = json.loads(self.metadata.get("output_names", "[]"))
        if len(names) == len(self.outputs):
            return tuple(names)
        made: list[str] = []
        given = {v.name for v in self.outputs}
        for i, v in enumerate(self.outputs):
            own = "" if v in self.outputs[:i] else v.name
            name = own or f"output{i}"
            while name in made or (not own and name in given):
                name += "_"
            made.append(name)
        return tuple(made)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every node the outputs depend on, producers first; among free choices, the order of reading.

        A node whose attributes mention a size depends on the node that finds it in the data."""
        order = self._order({})
        known = [v.producer for v in self.definers.inputs if v is not None and v.producer is not None]
        definers = {name: n for n in (*known, *order) for name in defined(n)}
        return self._order(definers) if definers else order

    def _order(self, definers: Mapping[str, Node]) -> tuple[Node, ...]:
        order: dict[Node, None] = {}
        todo: list[tuple[Node | None, bool]] = [(v.producer, False) for v in reversed(self.outputs)]
        while todo:
            node, ready = todo.pop()
            if node is None or node in order:
                continue
            if ready:
                order[node] = None
                continue
            todo.append((node, True))
            todo += [(v.producer, False) for v in reversed(node.inputs) if v is not None]
            if definers:
                todo += [(definers[name], False) for name in sorted(_mentioned_by(node) & definers.keys())
                         if definers[name] is not node]
        return tuple(order)

    def walk(self) -> Iterator[Node]:
        """The nodes of this graph and, before the node that holds them, of all regions."""
        for node in self.nodes:
            for region in node.regions:
                yield from region.walk()
            yield node


def defined(node: Node) -> tuple[str, ...]:
    """The symbols whose sizes this node finds in its data."""
    names: tuple[str, ...] = node.attrs.get("symbols", ())
    return (*names, node.attrs["symbol"]) if "symbol" in node.attrs else names


def _mentioned_by(node: Node) -> frozenset[str]:
    """The symbols in a node's attributes and in those of its regions."""
    if not node.regions:
        return node.mentions
    return node.mentions.union(*(n.mentions for region in node.regions for n in region.walk()))


def _mentioned(attr: object) -> frozenset[str]:
    """The symbols in an attribute."""
    if isinstance(attr, tuple):
        return frozenset().union(*map(_mentioned, attr))
    return symbols(attr) if isinstance(attr, Expr) else frozenset()


def inline(region: Graph, inputs: Sequence[Value], home: Graph) -> tuple[Value, ...]:
    """Copy the region's nodes onto `inputs`, values of `home`; the values its outputs became. The region stays."""
    if len(inputs) != len(region.inputs):
        raise ValueError(f"{len(inputs)} inputs for a region of {len(region.inputs)}")
    env: dict[Value, Value] = dict(zip(region.inputs, inputs, strict=True))
    for node in region.nodes:
        copied = Node(node.op, [None if v is None else env[v] for v in node.inputs], node.attrs,
                      regions=[clone(r) for r in node.regions], loc=node.loc)
        for old, new in zip(node.results, copied.results, strict=True):
            new.name = old.name
            env[old] = new
        if defined(node):
            home.define(copied.results[:1])
    return tuple(env[v] for v in region.outputs)


def clone(graph: Graph) -> Graph:
    """A graph of its own with the same meaning and names."""
    inputs = tuple(Value(v.type, name=v.name) for v in graph.inputs)
    copy = Graph(graph.name, inputs, User(()), dict(graph.metadata))
    copy.ret = User(inline(graph, inputs, copy))
    return copy
