"""Regular expressions in RE2's syntax -> trees of code point sets, repetitions and assertions.

https://github.com/google/re2/wiki/Syntax. Understood: literals and escapes, `\\Q…\\E`, `.`, classes (Perl's, POSIX's
and Unicode's general categories), `* + ? {n,m}` and their lazy forms (the same here: only whether all of a text matches
is asked), groups, `(?imsU)` flags, `^ $ \\A \\z \\b \\B`. Refused with the place: back references, looking around,
atomic groups (all as in RE2), `\\C` and `\\p{Script}`.
"""
from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass, field
from functools import cache
from typing import NoReturn, TypeAlias

from lepton.ir.diagnostics import LeptonError
from lepton.ir.strings import cases

LAST = sys.maxunicode
MOST_REPEATS, MOST_DEPTH = 1000, 100  # RE2 has the same limit of repeats
Ranges: TypeAlias = "tuple[tuple[int, int], ...]"  # of code points: sorted, apart from each other


@dataclass(frozen=True, slots=True)
class Set:
    """One code point out of these."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Concat:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Either:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    body: Node
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Assertion:
    """Nothing, but only here: "start", "end", "line_start", "line_end", "word", "no_word"."""

    kind: str


Node: TypeAlias = Set | Concat | Either | Repeat | Assertion
NOTHING = Concat(())


# --- sets of code points --------------------------------------------------------------------------


def ranges(*pairs: tuple[int, int]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(pairs):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], high)
        else:
            merged.append((low, high))
    return tuple(merged)


def inverted(given: Ranges) -> Ranges:
    out, start = [], 0
    for low, high in given:
        if start < low:
            out.append((start, low - 1))
        start = high + 1
    return (*out, (start, LAST)) if start <= LAST else tuple(out)


def _of(text: str) -> Ranges:
    """From "a-z_": pairs with a dash, or single characters."""
    found = re.findall(r"(.)-(.)|(.)", text, re.DOTALL)
    return ranges(*((ord(a or c), ord(b or c)) for a, b, c in found))


PERL = {"d": _of("0-9"), "w": _of("0-9A-Za-z_"), "s": _of("\t\n\f\r ")}
POSIX = {
    "alnum": _of("0-9A-Za-z"), "alpha": _of("A-Za-z"), "ascii": ((0, 127),), "blank": _of("\t "),
    "cntrl": ((0, 31), (127, 127)), "digit": _of("0-9"), "graph": ((33, 126),), "lower": _of("a-z"),
    "print": ((32, 126),), "punct": ((33, 47), (58, 64), (91, 96), (123, 126)), "space": ((9, 13), (32, 32)),
    "upper": _of("A-Z"), "word": _of("0-9A-Za-z_"), "xdigit": _of("0-9A-Fa-f"),
}
SIMPLE = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
NEWLINE = ((10, 10),)


@cache
def _categories() -> dict[str, Ranges]:
    """General categories ("Lu", and "L" for all that begin so) and "Any"."""
    runs: dict[str, list[tuple[int, int]]] = {"Any": [(0, LAST)]}
    start, current = 0, unicodedata.category("\0")
    for point in range(1, LAST + 2):
        category = unicodedata.category(chr(point)) if point <= LAST else ""
        if category != current:
            for name in (current, current[0]):
                runs.setdefault(name, []).append((start, point - 1))
            start, current = point, category
    return {name: ranges(*pairs) for name, pairs in runs.items()}


@cache
def _folds() -> dict[int, tuple[int, ...]]:
    """For each code point that has other cases: all of its kind."""
    orbits: dict[str, list[int]] = {}
    changed = {c for to in ("lower", "upper") for pair in cases(to).items() for c in pair if len(c) == 1}
    for c in sorted(changed):
        folded = c.lower() if c.isascii() else c.lower().upper().lower()
        if len(folded) == 1:
            orbits.setdefault(folded, []).append(ord(c))
    return {p: tuple(orbit) for orbit in orbits.values() if len(orbit) > 1 for p in orbit}


def folded(given: Ranges) -> Ranges:
    """With the other cases of everything in it."""
    table = _folds()
    few = sum(high - low for low, high in given) < len(table)
    points = (p for low, high in given for p in range(low, high + 1)) if few else \
        (p for p in table if any(low <= p <= high for low, high in given))
    return ranges(*given, *((q, q) for p in points for q in table.get(p, ())))


# --- parser ---------------------------------------------------------------------------------------


@dataclass
class Parser:
    text: str
    at: int = 0
    flags: frozenset[str] = field(default=frozenset())
    depth: int = 0

    def parse(self) -> Node:
        """The whole pattern. Raises LeptonError."""
        node = self.either()
        if self.at < len(self.text):
            self.fail("a ) without its (")
        return node

    def fail(self, why: str) -> NoReturn:
        raise LeptonError(f"regular expression {self.text!r}, character {self.at}: {why}",
                          help="the syntax is RE2's: https://github.com/google/re2/wiki/Syntax")

    def take(self, text: str) -> bool:
        if self.text.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def next(self, missing: str) -> str:
        if self.at >= len(self.text):
            self.fail(missing)
        self.at += 1
        return self.text[self.at - 1]

    def scan(self, pattern: str) -> re.Match[str] | None:
        found = re.compile(pattern).match(self.text, self.at)
        if found:
            self.at = found.end()
        return found

    def either(self) -> Node:
        parts = [self.concat()]
        while self.take("|"):
            parts.append(self.concat())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def concat(self) -> Node:
        """Flags that are set without a group hold to the end of the group they stand in: the caller restores them."""
        parts: list[Node] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            if self.take("\\Q"):
                end = self.text.find("\\E", self.at)
                literal = self.text[self.at:] if end < 0 else self.text[self.at:end]
                self.at = len(self.text) if end < 0 else end + 2
                parts += [self.literal(ord(c)) for c in literal]
                if not literal:
                    continue
            else:
                parts.append(self.atom())
            parts[-1] = self.repeated(parts[-1])
        return parts[0] if len(parts) == 1 else Concat(tuple(parts))

    def repeated(self, node: Node) -> Node:
        if not (found := self.scan(r"\*|\+|\?|\{(\d+)(,(\d*))?\}")):
            return node
        least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(found[0], (0, 0))
        if found[1] is not None:
            least = int(found[1])
            most = least if found[2] is None else int(found[3]) if found[3] else None
            if max(least, most or 0) > MOST_REPEATS or (most is not None and most < least):
                self.fail(f"the repetition {found[0]} (at most {MOST_REPEATS}, in order)")
        self.take("?")
        if self.scan(r"[*+?]|\{\d+(,\d*)?\}"):
            self.fail("a repetition of a repetition")
        return Repeat(node, least, most)

    def atom(self) -> Node:
        c = self.next("")
        match c:
            case "(":
                return self.group()
            case "[":
                return Set(self.cased(self.klass()))
            case ".":
                return Set(((0, LAST),) if "s" in self.flags else inverted(NEWLINE))
            case "^":
                return Assertion("line_start" if "m" in self.flags else "start")
            case "$":
                return Assertion("line_end" if "m" in self.flags else "end")
            case "\\":
                return self.escape()
            case "*" | "+" | "?":
                self.fail(f"{c} with nothing to repeat")
        return self.literal(ord(c))

    def literal(self, point: int) -> Node:
        return Set(self.cased(((point, point),)))

    def cased(self, given: Ranges) -> Ranges:
        return folded(given) if "i" in self.flags else given

    def group(self) -> Node:
        outer, self.depth = self.flags, self.depth + 1
        if self.depth > MOST_DEPTH:
            self.fail(f"groups more than {MOST_DEPTH} deep")
        if self.take("?"):
            if found := self.scan(r"([imsU]*)(?:-([imsU]+))?([:)])"):
                self.flags = (self.flags | set(found[1])) - set(found[2] or "")
                if found[3] == ")":
                    self.depth -= 1
                    return NOTHING  # until the group that this stands in ends
            elif not self.scan(r"P?<[A-Za-z0-9_]+>"):
                self.fail("a group of a kind that RE2 does not have (it has no lookaround and no back references)")
        node = self.either()
        if not self.take(")"):
            self.fail("a ( without its )")
        self.flags, self.depth = outer, self.depth - 1
        return node

    def escape(self) -> Node:
        c = self.next("a \\ at the end")
        anchors = {"A": "start", "z": "end", "b": "word", "B": "no_word"}
        if c in anchors:
            return Assertion(anchors[c])
        self.at -= 1
        found = self.class_escape()
        return Set(self.cased(found)) if found is not None else self.literal(self.character())

    def class_escape(self) -> Ranges | None:
        """What stands behind a backslash, if it is a class of characters."""
        if found := self.scan("[dwsDWS]"):
            given = PERL[found[0].lower()]
            return given if found[0].islower() else inverted(given)
        if found := self.scan(r"([pP])(?:\{(\^?)(\w+)\}|(\w))"):
            name = found[3] or found[4]
            known = _categories().get(name)
            if known is None:
                self.fail(f"the Unicode class {name!r}: only general categories (L, Lu, Nd …) are known")
            return inverted(known) if (found[1] == "P") != bool(found[2]) else known
        return None

    def character(self) -> int:
        """The code point that stands behind a backslash."""
        if found := self.scan(r"x(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]+)\})"):
            point = int(found[1] or found[2], 16)
            if point > LAST:
                self.fail(f"no character has the number {point:#x}")
            return point
        if found := self.scan(r"0[0-7]{0,2}|[1-7][0-7]{1,2}"):
            return int(found[0], 8)
        c = self.next("a \\ at the end")
        if c in SIMPLE:
            return SIMPLE[c]
        if c.isascii() and c.isalnum():
            self.fail(f"the escape \\{c}")
        return ord(c)

    # --- classes ---

    def klass(self) -> Ranges:
        negated, found, first = self.take("^"), list[tuple[int, int]](), True
        while first or not self.take("]"):
            first = False
            found += self.class_item()
        return inverted(ranges(*found)) if negated else ranges(*found)

    def class_item(self) -> Ranges:
        if found := self.scan(r"\[:(\^?)(\w+):\]"):
            if found[2] not in POSIX:
                self.fail(f"the class [:{found[2]}:]")
            return inverted(POSIX[found[2]]) if found[1] else POSIX[found[2]]
        if self.take("\\"):
            if (known := self.class_escape()) is not None:
                return known
            self.at -= 1
        low = high = self.class_character()
        if self.scan(r"-(?!\])"):
            high = self.class_character()
        if high < low:
            self.fail("a range that ends before it begins")
        return ((low, high),)

    def class_character(self) -> int:
        c = self.next("a [ without its ]")
        return self.character() if c == "\\" else ord(c)
