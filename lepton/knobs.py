"""Every environment variable that Lepton reads, in one table; `leptonc --help-knobs` prints it, docs/cli.md shows it."""
from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Knob:
    name: str
    default: str
    doc: str

    @property
    def value(self) -> str:
        return os.environ.get(self.name, self.default)


KNOBS = {k.name: k for k in (
    Knob("LEPTON_CC", "", "the C compiler that links artifacts (default: cc, gcc, clang, or python -m ziglang cc)"),
    Knob("LEPTON_CC_AARCH64", "", "the same for aarch64 targets (default: aarch64-linux-gnu-gcc)"),
    Knob("NO_COLOR", "", "anything: plain progress lines, no cursor movement"),
)}


def describe_knobs() -> str:
    """One line per variable."""
    width = max(map(len, KNOBS))
    return "".join(f"{k.name:<{width}}  {k.doc}\n" for k in KNOBS.values())
