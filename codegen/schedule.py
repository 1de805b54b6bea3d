"""How a product or a convolution is cut, as one record, and who decides it.

A lowering makes a `Choice`: what the cost model would take, and what else is worth measuring. `LowerOptions.choose`
picks: the cost model (`by_cost`), a table of what was measured (`Table`), or the tuner, which tries them all.
All schedules of one form add each sum's products in the same order, so they give the same bits.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton.ir.diagnostics import ParseError
from lepton.ir.dims import Dim

if TYPE_CHECKING:
    from lepton.codegen.group import Group

FORMS = ("gemm", "direct", "winograd", "depthwise")
TEXT = re.compile(r"(\w+) tile (\d+(?:x\d+)*) block (\d+(?:x\d+)*)(?: by (rows|columns))?", re.ASCII)
LARGEST = 2**31


@dataclass(frozen=True, slots=True)
class Schedule:
    """Register tile and blocks of a task, by form:

    gemm       tile rows x vectors;                   block rows x panels; `order`: which blocks follow each other
    direct     tile output rows x columns x vectors;  block output rows x columns x panels
    winograd   tile rows x vectors;                   block rows of tiles x panels
    depthwise  tile output columns;                   block output rows
    """

    form: str
    tile: tuple[int, ...]
    block: tuple[Dim, ...]       # numbers, but for what covers a run-time size
    order: str = ""              # of gemm: rows | columns

    def __str__(self) -> str:
        """`gemm tile 12x2 block 96x4 by rows`."""
        parts = [f"{self.form} tile {'x'.join(map(str, self.tile))} block {'x'.join(map(str, self.block))}"]
        return " by ".join([*parts, self.order] if self.order else parts)

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Raises ParseError for what no schedule's text is."""
        match = TEXT.fullmatch(text)
        if match is None or match[1] not in FORMS or (match[1] == "gemm") != bool(match[4]):
            raise ParseError(f"{text!r} is no schedule", help="as in: gemm tile 12x2 block 96x4 by rows")
        tile, block = (tuple(map(int, part.split("x"))) for part in (match[2], match[3]))
        if not all(0 < n < LARGEST for n in (*tile, *block)):
            raise ParseError(f"{text!r} is no schedule: its sizes must be above 0 and below 2^31")
        return cls(match[1], tile, block, match[4] or "")


@dataclass(frozen=True, eq=False, slots=True)
class Choice:
    """A kernel whose schedule is wanted."""

    group: Group
    key: str                                            # what its speed depends on, in words; "": sizes are open
    model: Callable[[], Schedule]                       # what the cost model takes
    others: Callable[[], Sequence[Schedule]]            # worth measuring, the most promising first
    around: Callable[[Schedule], Sequence[Schedule]]    # the same tile with other blocks
    legal: Callable[[Schedule], bool]                   # whether code can be made for it, giving the same answers


Chooser = Callable[[Choice], Schedule]


def by_cost(choice: Choice) -> Schedule:
    """What the cost model takes."""
    return choice.model()


@dataclass(frozen=True, eq=False, slots=True)
class Table:
    """What was measured, by key; the cost model's where there is nothing, or nothing that code can be made for."""

    rows: Mapping[str, Schedule]

    def __call__(self, choice: Choice) -> Schedule:
        found = self.rows.get(choice.key)
        return found if found is not None and choice.legal(found) else choice.model()


def words(**facts: object) -> str:
    """`n=1 out=56x56`: the facts of a key, in order."""
    def word(fact: object) -> str:
        return "x".join(map(word, fact)) if isinstance(fact, tuple) else str(fact)

    return " ".join(f"{name}={word(fact)}" for name, fact in facts.items())


def known(*facts: object) -> bool:
    """Whether all sizes among these are numbers."""
    return all(known(*fact) if isinstance(fact, tuple | list) else isinstance(fact, int) for fact in facts)
