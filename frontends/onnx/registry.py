"""The table of importers: which function turns which ONNX operator, since which opset, into the graph's ops.

    @imports("Softmax", since=13)
    def softmax(c: Call) -> Value:
        return c(ops.softmax, c.x(0), axis=c.axis())

Of several entries for one operator, the one with the highest `since` that the model's opset reaches is used.
An importer reads each attribute through the `Call`; attributes that nobody read are an error, never skipped.
"""
from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from lepton.ir.core import Value

if TYPE_CHECKING:
    from lepton.frontends.onnx.call import Call

Result: TypeAlias = "Value | Sequence[Value | None]"
Rule: TypeAlias = "Callable[[Call], Result]"
R = TypeVar("R", bound="Rule")

ENTRY_POINTS = "lepton.operators"
_ASKED: set[str] = set()  # domains that packages were asked for
IMPORTERS: dict[tuple[str, str], list[tuple[int, Rule]]] = {}


def imports(*names: str, since: int = 1, domain: str = "") -> Callable[[R], R]:
    """Declare an importer for operators of a domain from opset `since` on."""

    def declare(rule: R) -> R:
        for name in names:
            entries = IMPORTERS.setdefault((domain, name), [])
            if any(version == since for version, _ in entries):
                raise ValueError(f"two importers for {domain}::{name} since {since}")
            entries.append((since, rule))
            entries.sort(key=lambda entry: entry[0])
        return rule

    return declare


def find(domain: str, name: str, opset: int) -> Rule | None:
    """The importer for this operator at this opset; of installed packages too, by entry points `lepton.operators` that
    are called like the domain."""
    if (domain, name) not in IMPORTERS and domain and domain not in _ASKED:
        _ASKED.add(domain)
        for entry in entry_points(group=ENTRY_POINTS, name=domain):
            entry.load()
    entries = IMPORTERS.get((domain, name), [])
    at = bisect_right([since for since, _ in entries], opset)
    return entries[at - 1][1] if at else None
