"""Text to graph: the inverse of `printer.show`, and lenient where people write by hand.

    file      = graph*                                            blank space and // comments between all pieces
    graph     = "graph" @name "(" [%x ":" type, …] ")" ["meta(" "key"="text", … ")"] "{" statement* "return" %x, … "}"
    statement = %x, … "=" op "(" [(%x | "_" | attribute "=" value), …] ")" [":" type, …] ["{" graph* "}"] [location]
    location  = "// node 'conv1' (Conv)"                          several with "; " between them

Types after ":" may be left out: the type rules know them; where written they are compared. Attributes that have a
default may be left out. A name of digits only is no name.
"""
from __future__ import annotations

import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import lepton.ir.ops  # noqa: F401  (fills OPS)
from lepton.ir.core import Graph, Node, User, Value, defined
from lepton.ir.diagnostics import LeptonError, Location
from lepton.ir.dim_text import parse_dim
from lepton.ir.literals import DIGEST_LENGTH, DTYPES, Elided, read_locations, read_tensor
from lepton.ir.op import OPS, Op
from lepton.ir.scanner import Scanner
from lepton.ir.tensor import Tensor
from lepton.ir.types import TensorType, Type, parse_type

_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_GRAPH = re.compile(r'@([A-Za-z_][A-Za-z0-9_.]*|"(?:[^"\\\n]|\\.)*")')
_VALUE = re.compile(r'%([A-Za-z0-9_.]+|"(?:[^"\\\n]|\\.)*")')
_ABSENT = re.compile(r"_(?![A-Za-z0-9_.])")
_ATTRIBUTE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\s*=")
_TYPE = re.compile(r"(?:(?:seq|opt)<)*[a-z][a-z0-9]*\[[^\]\n]*\]>*")
_DENSE = re.compile(r'dense<((?:"(?:[^"\\\n]|\\.)*+"|[^">]++)*+)>')  # possessive: damaged text must not take ages
_HASH = re.compile(r"hash=([0-9a-f]+)")
_FLOAT = re.compile(r"-?(?:inf|nan|(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)(?![A-Za-z0-9_.])")

_UNREADABLE = (ValueError, ArithmeticError, LookupError)  # what reading a type, a size or an element may raise: N//0


def parse(text: str, file: str = "<text>", *, constants: Mapping[str, Tensor] | None = None) -> Graph:
    """The one graph in `text`. `constants` gives by digest (or its beginning) those the text elides.

    An elided constant that is not given has a type and a text, but raises LeptonError when its elements are asked for.
    Raises ParseError, "file:line:column: message" with the line quoted."""
    graphs = parse_all(text, file, constants=constants)
    if len(graphs) != 1:
        scanner = Scanner(text, file)
        scanner.fail(f"expected one graph, found {len(graphs)}", len(text) if not graphs else None)
    return graphs[0]


def parse_all(text: str, file: str = "<text>", *, constants: Mapping[str, Tensor] | None = None) -> list[Graph]:
    """Every graph in `text`, in order. Raises ParseError."""
    known = {digest[:DIGEST_LENGTH]: tensor for digest, tensor in (constants or {}).items()}
    scanner, graphs = Scanner(text, file), []
    while not scanner.end():
        graphs.append(_Parser(scanner, known).graph())
    return graphs


class _Parser:
    """Reads one graph; a region is read by a parser of its own, so it sees none of the outer names."""

    def __init__(self, scanner: Scanner, constants: Mapping[str, Tensor]) -> None:
        self.scan, self.constants = scanner, constants
        self.values: dict[str, Value] = {}

    def graph(self) -> Graph:
        scan = self.scan
        scan.expect("graph")
        name = self.string(scan.need(_GRAPH, "@name"), 1)
        scan.expect("(")
        inputs = self.inputs()
        metadata = self.metadata() if scan.take("meta(") else {}
        scan.expect("{")
        nodes = []
        while not scan.take("return"):
            nodes.append(self.statement())
        outputs = [self.operand()] if scan.peek("%") else []
        while scan.take(","):
            outputs.append(self.operand())
        scan.expect("}")
        graph = Graph(name, tuple(inputs), User(outputs), metadata)
        graph.define([n.results[0] for n in nodes if defined(n)])
        for node in reversed(nodes):  # what was written but leads to no output
            if not any(r.uses for r in node.results):
                node.drop()
        return graph

    def inputs(self) -> list[Value]:
        scan = self.scan
        inputs: list[Value] = []
        while not scan.take(")"):
            if inputs:
                scan.expect(",")
            at, text = self.name()
            scan.expect(":")
            inputs.append(self.define(at, text, Value(self.type())))
        return inputs

    def metadata(self) -> dict[str, str]:
        scan = self.scan
        metadata: dict[str, str] = {}
        while not scan.take(")"):
            if metadata:
                scan.expect(",")
            key = self.string(scan.need(_STRING, "a quoted key"))
            scan.expect("=")
            metadata[key] = self.string(scan.need(_STRING, "a quoted text"))
        return metadata

    def name(self) -> tuple[int, str]:
        """The position of a value's name and its text; quotes, if it has them, are kept."""
        m = self.scan.need(_VALUE, "a value, like %x")
        return m.start(), json.dumps(self.string(m, 1)) if m[1].startswith('"') else m[1]

    def string(self, m: re.Match[str], group: int = 0) -> str:
        """The text in quotes, or a bare name as it is."""
        try:
            return str(json.loads(m[group])) if m[group].startswith('"') else m[group]
        except ValueError as error:
            self.scan.fail(f"not a text: {error}", m.start(group), error)

    def define(self, at: int, text: str, value: Value) -> Value:
        if text in self.values:
            self.scan.fail(f"%{text} is defined twice", at)
        value.name = None if text.isdigit() else json.loads(text) if text.startswith('"') else text
        self.values[text] = value
        return value

    def operand(self) -> Value:
        at, text = self.name()
        if text not in self.values:
            near = get_close_matches(text, self.values, 1)
            self.scan.fail(f"unknown value %{text}" + (f"; did you mean %{near[0]}?" if near else ""), at)
        return self.values[text]

    def statement(self) -> Node:
        scan = self.scan
        names = [self.name()]
        while scan.take(","):
            names.append(self.name())
        scan.expect("=")
        at, op = self.op()
        operands, attrs = self.arguments(op)
        types: list[Type] | None = None
        if scan.take(":"):
            types = [self.type()]
            while scan.take(","):
                types.append(self.type())
        loc, regions = self.location(), []
        if not loc and scan.take("{"):
            loc = self.location()
            while not scan.take("}"):
                regions.append(_Parser(scan, self.constants).graph())
        node = self.apply(at, op, operands, attrs, regions, loc)
        self.check(at, node, len(names), types)
        for (where, text), result in zip(names, node.results, strict=True):
            self.define(where, text, result)
        return node

    def location(self) -> tuple[Location, ...]:
        """The location comment at the end of this line; any other comment is left to be skipped."""
        before = self.scan.at
        if not (loc := read_locations(self.scan.trailing_comment())):
            self.scan.at = before
        return loc

    def op(self) -> tuple[int, Op]:
        m = self.scan.need(_WORD, "an op's name")
        if m[0] not in OPS:
            near = get_close_matches(m[0], OPS, 1)
            self.scan.fail(f"unknown op {m[0]!r}" + (f"; did you mean {near[0]!r}?" if near else ""), m.start())
        return m.start(), OPS[m[0]]

    def arguments(self, op: Op) -> tuple[list[Value | None], dict[str, Any]]:
        scan = self.scan
        operands: list[Value | None] = []
        attrs: dict[str, Any] = {}
        scan.expect("(")
        while not scan.take(")"):
            if operands or attrs:
                scan.expect(",")
            scan.skip()
            if scan.peek("%"):
                operands.append(self.operand())
            elif scan.match(_ABSENT):
                operands.append(None)
            else:
                m = scan.need(_ATTRIBUTE, "an operand or an attribute")
                attrs[m[1]] = _as_declared(op, m[1], self.value())
        return operands, attrs

    def apply(self, at: int, op: Op, operands: list[Value | None], attrs: dict[str, Any],
              regions: list[Graph], loc: tuple[Location, ...]) -> Node:
        try:
            return op.node(*operands, regions=regions, **attrs, loc=loc)
        except LeptonError as error:
            self.scan.fail(error.message, at, error)
        except Exception as error:  # text may give attributes of kinds that no type rule thinks of
            self.scan.fail(f"{op.name} cannot have these operands and attributes: {error}", at, error)

    def check(self, at: int, node: Node, names: int, types: list[Type] | None) -> None:
        if names != len(node.results):
            self.scan.fail(f"{node.op.name} has {len(node.results)} results, {names} named", at)
        found = [r.type for r in node.results]
        if types is not None and types != found:
            written, ruled = (", ".join(map(str, ts)) for ts in (types, found))
            self.scan.fail(f"{node.op.name} gives {ruled}, the text says {written}", at)

    def type(self) -> Type:
        m = self.scan.need(_TYPE, "a type, like f32[N,3]")
        try:
            return parse_type(m[0])
        except _UNREADABLE as error:
            self.scan.fail(str(error), m.start(), error)

    def value(self) -> Any:
        """An attribute's value."""
        scan = self.scan
        if m := scan.match(_DENSE):
            return self.tensor(m)
        if m := scan.match(_STRING):
            return self.string(m)
        start = scan.at
        text = scan.until_delimiter()
        if text in _WORDS:
            return _WORDS[text]
        if _FLOAT.fullmatch(text):
            return float(text)
        if _is_tuple(text):
            scan.at = start + 1
            return self.items()
        if text.startswith("dim<"):
            text = text[4:-1]
        try:
            return parse_dim(text)
        except _UNREADABLE as error:
            scan.fail(f"not a value: {text!r}", start, error)

    def items(self) -> tuple[Any, ...]:
        items: list[Any] = []
        while not self.scan.take(")"):
            items.append(self.value())
            if not self.scan.peek(")"):
                self.scan.expect(",")
        return tuple(items)

    def tensor(self, m: re.Match[str]) -> Tensor:
        body, _, type_text = m[1].rpartition(":")
        try:
            type = parse_type(type_text)
            if not isinstance(type, TensorType):
                raise ValueError(f"a constant of type {type}")
            if elided := _HASH.fullmatch(body.strip()):
                return self.elided(elided[1], type)
            return read_tensor(body, type)
        except _UNREADABLE as error:
            self.scan.fail(str(error), m.start(), error)

    def elided(self, digest: str, type: TensorType) -> Tensor:
        known = self.constants.get(digest[:DIGEST_LENGTH])
        if known is not None:
            if known.type != type:
                raise ValueError(f"the constant {digest} has type {known.type}, the text says {type}")
            return known
        return Elided(type, digest, self.scan.file)


_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None, **DTYPES}


def _is_tuple(text: str) -> bool:
    """Whether `(…)` is a tuple and not a dimension in brackets: a comma inside, but not inside brackets further in."""
    if not text.startswith("("):
        return False
    inner = Scanner(text, "")
    inner.at = 1
    first = inner.until_delimiter()
    return inner.peek(",") or (not first and inner.peek(")"))


def _as_declared(op: Op, name: str, value: Any) -> Any:
    """`alpha=1` means 1.0 where the op declares a float."""
    parameter = op.signature.parameters.get(name)
    if parameter is not None and parameter.annotation in ("float", float) and type(value) is int:
        return float(value)
    return value
