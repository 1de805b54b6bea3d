"""Sequences, optionals and maps at a model's border: a *tree* says which ports, each one tensor, make one up.

A tree is plain JSON, as artifacts carry it in their metadata:

    "x"                           the tensor of port `x`; "" one that was compiled in
    {"sequence": [tree, ...]}     a list with these members
    {"optional": tree or null}    a value, or None
    {"stack": "y"}                a list whose members lie along the first axis of port `y`
    {"map": "m", "keys": [...]}   a dict: port `m` holds the values in the order of the keys. With "default" keys may be
                                  missing and others are not looked at; "dtype": numpy's name for the type of values
    {"maps": "m", "keys": [...]}  a list of dicts, one for each row of port `m`

Whoever compiles gives a *spec*, what is not in the model's types: True (as the type says), None (an optional that is
empty), a number of members, a list of members' specs, a shape (a list or tuple of sizes and names of sizes), or a map's
keys.
"""
from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton.ir.diagnostics import UsageError

Tree = Any
Spec = Any


@dataclass(frozen=True, slots=True)
class Structure:
    """The trees of a model's inputs and outputs, by name and in order."""

    inputs: Mapping[str, Tree]
    outputs: Mapping[str, Tree]

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Structure | None:
        """Of a graph, or of an artifact, by what is written in its metadata; None where all ports are tensors."""
        return cls(**json.loads(metadata["structure"])) if "structure" in metadata else None

    def feeds(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """By port, from values by input; what goes by another name is taken for a port's. Raises UsageError."""
        found: dict[str, Any] = {}
        for name, value in values.items():
            found |= flatten(self.inputs[name], value, name) if name in self.inputs else {name: value}
        return found

    def values(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """By input, from arrays by port: the inverse of `feeds`."""
        return {name: build(tree, arrays) for name, tree in self.inputs.items()}

    def arrays(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """By port, from results by output: the inverse of `results`. Raises UsageError."""
        found: dict[str, Any] = {}
        for name, tree in self.outputs.items():
            found |= flatten(tree, results[name], name)
        return found

    def results(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """By output, from arrays by port."""
        return {name: build(tree, arrays) for name, tree in self.outputs.items()}


def ports(tree: Tree) -> Iterator[str]:
    """The ports of a tree, in order."""
    match tree:
        case str():
            if tree:
                yield tree
        case {"sequence": members}:
            for member in members:
                yield from ports(member)
        case {"optional": item}:
            if item is not None:
                yield from ports(item)
        case {"stack": port} | {"map": port} | {"maps": port}:
            yield port


def named(name: str, value: Any) -> dict[str, Any]:
    """The arrays in a value by the ports that an input of that name has: members by their positions, `x.0`, `x.1`."""
    if isinstance(value, (list, tuple)):
        return {port: array for i, member in enumerate(value) for port, array in named(f"{name}.{i}", member).items()}
    return {} if value is None else {name: value}


def flatten(tree: Tree, value: Any, name: str) -> dict[str, Any]:
    """What each port of input `name` gets. Raises UsageError where the value is not built as the tree is."""
    match tree:
        case "":
            if value is None:
                return {}
            raise UsageError(f"input '{name}' was compiled in", help="give None in its place")
        case str():
            if value is None:
                raise UsageError(f"input '{name}': expected an array, got None", help=HELP)
            return {tree: value}
        case {"sequence": members}:
            if not isinstance(value, (list, tuple)) or len(value) != len(members):
                raise UsageError(f"input '{name}': expected a list of {len(members)} members, got {_words(value)}",
                                 help=HELP)
            found: dict[str, Any] = {}
            for i, (member, given) in enumerate(zip(members, value, strict=True)):
                found |= flatten(member, given, f"{name}[{i}]")
            return found
        case {"optional": None}:
            if value is None:
                return {}
            raise UsageError(f"input '{name}': expected None, got {_words(value)}", help=HELP)
        case {"optional": item}:
            return flatten(item, value, name)
    return _flatten_maps(tree, value, name)


def _flatten_maps(tree: Tree, value: Any, name: str) -> dict[str, Any]:
    match tree:
        case {"map": port, "dtype": dtype}:
            return {port: np.array(_values(tree, value, name), dtype)}
        case {"maps": port, "dtype": dtype, "keys": keys}:
            return {port: np.array([_values(tree, row, name) for row in value], dtype).reshape(-1, len(keys))}
    raise ValueError(f"no tree: {tree!r}")


def _values(tree: Mapping[str, Any], value: Any, name: str) -> list[Any]:
    """The values of a dict in the order of the keys. Raises UsageError for keys that must be there or must not."""
    keys = tree["keys"]
    if not isinstance(value, Mapping):
        raise UsageError(f"input '{name}': expected a dict, got {_words(value)}")
    if "default" in tree:
        return [value.get(key, tree["default"]) for key in keys]
    if wrong := set(keys) ^ value.keys():
        which = sorted(wrong, key=str)[0]
        raise UsageError(f"input '{name}': key {which!r} is {'not known' if which in value else 'missing'}",
                         help=f"keys: {', '.join(map(repr, keys))}")
    return [value[key] for key in keys]


HELP = "how many members it has was fixed when the model was compiled (structure=, leptonc --structure)"


def build(tree: Tree, arrays: Mapping[str, Any]) -> Any:
    """The value whose ports hold `arrays`."""
    match tree:
        case str():
            return arrays[tree] if tree else None
        case {"sequence": members}:
            return [build(member, arrays) for member in members]
        case {"optional": item}:
            return None if item is None else build(item, arrays)
        case {"stack": port}:
            return list(arrays[port])
        case {"map": port, "keys": keys}:
            return dict(zip(keys, arrays[port].tolist(), strict=True))
        case {"maps": port, "keys": keys}:
            return [dict(zip(keys, row, strict=True)) for row in arrays[port].tolist()]
    raise ValueError(f"no tree: {tree!r}")


def spec_of(value: Any) -> Spec:
    """The spec that fits a value: shapes of arrays, lists of them, None, a map's keys."""
    if isinstance(value, Mapping):
        return list(value)
    if value is None or isinstance(value, (list, tuple)):
        return None if value is None else [spec_of(member) for member in value]
    return tuple(getattr(value, "shape", ()))


def words(tree: Tree) -> str:
    """`sequence of 2: x.0, x.1`."""
    match tree:
        case str():
            return tree or "compiled in"
        case {"sequence": members}:
            return f"sequence of {len(members)}" + (": " + ", ".join(map(words, members)) if members else "")
        case {"optional": item}:
            return "empty optional" if item is None else f"optional: {words(item)}"
        case {"stack": port}:
            return f"sequence along the first axis of {port}"
        case {"map": port, "keys": keys}:
            return f"map of {', '.join(map(repr, keys))} to {port}"
        case {"maps": port, "keys": keys}:
            return f"sequence of maps of {', '.join(map(repr, keys))} to the rows of {port}"
    raise ValueError(f"no tree: {tree!r}")


def _words(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return f"{len(value)}"
    return "None" if value is None else f"one {type(value).__name__}"
