"""Products over the windows of transposed convolutions, where each phase has windows of its own."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lepton.codegen.cuda.templates.product import Product, Sizes, Windows
from lepton.codegen.cuda.templates.text import size
from lepton.codegen.kernel import Size

PHASES = ("c0", "c1", "c2")   # the coordinates that say which phase of d, h, w


def pick(name: str, of: Sequence[Size]) -> str:
    """The entry that a coordinate says."""
    *first, text = (size(s) for s in of)
    for i in reversed(range(len(first))):
        text = text if first[i] == text else f"({name} == {i} ? {first[i]} : {text})"
    return text


@dataclass(frozen=True, slots=True)
class PhaseWindows(Windows):
    """As Windows, with a batch that begins with the phases of d, h, w. What depends on them: numbers of taps, and the
    pads in `starts`. A phase without taps has one, whose filter is 0, on an input that counts as outside."""

    taps: tuple[tuple[int, ...], ...] = ()
    starts: tuple[Sizes, ...] = ()

    def axes(self) -> list[list[str]]:
        three = super(PhaseWindows, self).axes()
        three[2] = [pick(*x) for x in zip(PHASES, self.taps, strict=True)]
        three[5] = [pick(*x) for x in zip(PHASES, self.starts, strict=True)]
        return three


@dataclass(frozen=True, slots=True)
class PhasedProduct(Product):
    """As Product, over (*phases, group, n, d, h, w, filter). `limits`: d, h, w of the result, whose places lie
    `strides` apart in a phase; the last ones of a phase may lie behind them."""

    limits: Sizes = ()
    strides: tuple[int, ...] = ()

    def sizes(self) -> list[str]:
        return [line.replace(f", ks = int({size(self.k)})", "") for line in super(PhasedProduct, self).sizes()]

    def entry(self) -> list[str]:
        assert isinstance(self.a, PhaseWindows)
        taps = (pick(*x) for x in zip(PHASES, self.a.taps, strict=True))
        return [f"const int ks = int({' * '.join(taps)}) * {self.a.channels};"]

    def guards(self) -> list[str]:
        found = []
        for i, (limit, stride) in enumerate(zip(self.limits, self.strides, strict=True)):
            if not isinstance(limit, int) or limit % stride:
                found.append(f"if ({PHASES[i]} + r{i + 1} * {stride} >= {size(limit)}) return;")
        return found
