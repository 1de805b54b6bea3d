"""Open dimensions with a least, a usual and a largest size: `--dim N=1..8..64`, `dims={"N": (1, 8, 64)}`.

The compiled model takes all sizes from the least to the largest, with memory for the largest from the start. For the
usual sizes it holds a second program in which they are constants; the runtime takes it where the inputs fit.
"""
from __future__ import annotations

import json
from collections.abc import Mapping

from lepton.ir.core import Graph
from lepton.ir.diagnostics import UsageError
from lepton.ir.evaluate import symbol_name

Range = tuple[int, int, int]
Dims = Mapping[str, int | Range]


def split(dims: Dims) -> tuple[dict[str, int], dict[str, Range]]:
    """The dimensions that have one size, and those that have a range. Raises UsageError."""
    fixed = {name: size for name, size in dims.items() if isinstance(size, int)}
    ranges = {name: size for name, size in dims.items() if not isinstance(size, int)}
    for name, found in ranges.items():
        sound = isinstance(found, tuple) and len(found) == 3 and all(type(n) is int for n in found)
        if not sound or not 1 <= found[0] <= found[1] <= found[2]:
            raise UsageError(f"dimension '{name}' cannot be {found!r}",
                             help="a range is (least, usual, largest) with 1 <= least <= usual <= largest")
    return fixed, ranges


def usual(dims: Dims) -> dict[str, int]:
    """All dimensions at one size: those with a range at the usual one."""
    fixed, ranges = split(dims)
    return fixed | {name: found[1] for name, found in ranges.items()}


def limits(graph: Graph, dims: Dims) -> dict[str, tuple[int, int]]:
    """The least and the largest size of the graph's symbols. Raises UsageError for a name that none has."""
    _, ranges = split(dims)
    open_ = {symbol_name(d) for v in graph.inputs for d in v.tensor.shape} - {None}
    ours = {name: symbol for symbol, name in json.loads(graph.metadata.get("dims", "{}")).items() if symbol in open_}
    found: dict[str, tuple[int, int]] = {}
    for name, (least, _, largest) in ranges.items():
        symbol = name if name in open_ else ours.get(name)
        if symbol is None:
            known = ", ".join(sorted(n for n in open_ if n)) or "none"
            raise UsageError(f"no dimension '{name}' among the inputs' sizes", help=f"open dimensions: {known}")
        found[symbol] = least, largest
    return found
