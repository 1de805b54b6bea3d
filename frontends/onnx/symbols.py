"""Names for sizes: the model's own made into identifiers, and new ones."""
from __future__ import annotations

import re
from collections.abc import Mapping

from lepton.ir import dims
from lepton.ir.diagnostics import UsageError
from lepton.ir.dim_text import parse_dim
from lepton.ir.dims import Dim

_RESERVED = {"min", "max", "stretch"}


class Symbols:
    """The symbols of one model. `pins` give numbers to some, by the model's name or by ours."""

    def __init__(self, pins: Mapping[str, int] | None = None) -> None:
        self._names: dict[str, str] = {}  # the model's name -> ours
        self._taken: set[str] = set()
        self._pins = dict(pins or {})
        self._used: set[str] = set()
        self.found: set[str] = set()     # names of sizes that come of data
        for name, value in self._pins.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"dimension '{name}' cannot be {value!r}",
                                 help="give an integer of 1 or more; left open, it may be 0 when the model runs")

    def named(self, name: str) -> Dim:
        """The dim for the model's `name`: the same one each time, or the number it is pinned to."""
        if name not in self._names:
            self._names[name] = self._unique(identifier(name))
        return self._pinned(name, self._names[name])

    def is_pinned(self, name: str) -> bool:
        """Whether the model's `name` has a number."""
        return name in self._pins

    def unnamed(self, value: str, axis: int) -> Dim:
        """The dim of an axis that the model leaves open without a name."""
        name = self._unique(f"{identifier(value)}_d{axis}")
        return self._pinned(name, name)

    def fresh(self, hint: str) -> str:
        """A symbol for a size that only the running model knows."""
        name = self._unique(identifier(hint))
        self.found.add(name)
        return name

    def check_pins(self) -> None:
        """Raises UsageError where a pin names no dimension of the inputs."""
        if unknown := self._pins.keys() - self._used:
            open_ = ", ".join(sorted(self._taken)) or "none"
            raise UsageError(f"no dimension '{min(unknown)}' among the inputs' sizes", help=f"open dimensions: {open_}")

    def originals(self) -> dict[str, str]:
        """Our names with the model's, where they differ."""
        return {ours: name for name, ours in self._names.items() if ours != name}

    def _pinned(self, *names: str) -> Dim:
        for name in names:
            if name in self._pins:
                self._used.add(name)
                return self._pins[name]
        return dims.sym(names[-1])

    def _unique(self, name: str) -> str:
        chosen, n = name, 2
        while chosen in self._taken:
            chosen, n = f"{name}_{n}", n + 1
        self._taken.add(chosen)
        return chosen


def identifier(name: str) -> str:
    """`name` if it is one; else with everything but letters, digits and underscores made an underscore: never empty,
    no keyword."""
    text = re.sub(r"[^0-9A-Za-z_]+", "_", name)
    if text != name or not text:
        text = text.strip("_") or "d"
    if text[0].isdigit():
        text = f"d{text}"
    return f"{text}_" if text in _RESERVED or not dims_allow(text) else text


def dims_allow(text: str) -> bool:
    """Whether the text reads back as one symbol (Python's keywords do not)."""
    try:
        return parse_dim(text) == dims.sym(text)
    except ValueError:
        return False
