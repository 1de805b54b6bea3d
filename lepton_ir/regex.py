"""Regular expressions as deterministic automata over the bytes of UTF-8: a table that reads each byte once.

    Dfa.of("(?i)caf(e|é)").matches("CAFÉ".encode())

Whether *all* of a text matches is the only question. Time is linear in the text whatever the pattern; a pattern whose
table would be too large is refused. `.` and negated classes match code points: bytes that are not UTF-8 match nothing.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lepton.ir.diagnostics import ResourceError
from lepton.ir.regex_syntax import Assertion, Concat, Either, Node, Parser, Ranges, Repeat, Set
from lepton.ir.tensor import Array

MOST_NODES, MOST_STATES, MOST_WORK = 50_000, 10_000, 5_000_000

# What stands on either side of a place, as far as assertions ask.
OTHER, WORD, LINE, EDGE = range(4)
_HOLDS: dict[str, Callable[[int, int], bool]] = {
    "start": lambda before, after: before == EDGE,
    "end": lambda before, after: after == EDGE,
    "line_start": lambda before, after: before in (EDGE, LINE),
    "line_end": lambda before, after: after in (EDGE, LINE),
    "word": lambda before, after: (before == WORD) != (after == WORD),
    "no_word": lambda before, after: (before == WORD) == (after == WORD),
}


def _kind(byte: int) -> int:
    return LINE if byte == 10 else WORD if chr(byte).isascii() and (chr(byte).isalnum() or byte == 95) else OTHER


@dataclass(frozen=True, eq=False, slots=True)
class Dfa:
    """State 0 is the dead end, state 1 the start."""

    classes: Array   # u8[256]: byte -> class
    table: Array     # u16[states, classes]: the next state
    accepts: Array   # bool[states]

    @staticmethod
    @lru_cache(maxsize=64)
    def of(pattern: str) -> Dfa:
        """Raises LeptonError for what RE2's syntax does not have, ResourceError for a table that would be too large."""
        return _minimised(_determinise(_Nfa(Parser(pattern).parse(), pattern), pattern))

    def matches(self, text: bytes) -> bool:
        state = 1
        for c in self.classes[np.frombuffer(text, np.uint8)].tolist():
            state = int(self.table[state, c])
        return bool(self.accepts[state])


# --- patterns -> automata whose next state is not unique ------------------------------------------


class _Nfa:
    """States with arrows: by a byte range, freely, or freely where an assertion holds. The last state is the end."""

    def __init__(self, root: Node, pattern: str) -> None:
        self.pattern = pattern
        self.bytes: list[list[tuple[int, int, int]]] = []       # state -> (low, high, next)
        self.free: list[list[tuple[str, int]]] = []             # state -> (assertion or "", next)
        self.end = self.state()
        self.start = self.build(root, self.end)

    def state(self) -> int:
        if len(self.bytes) >= MOST_NODES:
            raise ResourceError(f"regular expression {self.pattern[:80]!r} is too large: more than {MOST_NODES} states")
        self.bytes.append([])
        self.free.append([])
        return len(self.bytes) - 1

    def arrow(self, state: int, next: int, assertion: str = "") -> None:
        self.free[state].append((assertion, next))

    def build(self, node: Node, next: int) -> int:
        """The state from which `node`, then what `next` accepts, is accepted."""
        match node:
            case Set(given):
                return self.set(given, next)
            case Concat(parts):
                for part in reversed(parts):
                    next = self.build(part, next)
                return next
            case Either(parts):
                starts = [self.build(part, next) for part in parts]
                state = self.state()
                for start in starts:
                    self.arrow(state, start)
                return state
            case Assertion(kind):
                state = self.state()
                self.arrow(state, next, kind)
                return state
            case Repeat(body, least, most):
                return self.repeat(body, least, most, next)
        raise AssertionError(node)

    def repeat(self, body: Node, least: int, most: int | None, next: int) -> int:
        if most is None:
            loop = self.state()
            self.arrow(loop, next)
            self.arrow(loop, self.build(body, loop))
            next = loop
        else:
            after = next
            for _ in range(most - least):
                state = self.state()
                self.arrow(state, after)
                self.arrow(state, self.build(body, next))
                next = state
        for _ in range(least):
            next = self.build(body, next)
        return next

    def set(self, given: Ranges, next: int) -> int:
        state = self.state()
        tails: dict[tuple[tuple[int, int], ...], int] = {(): next}  # states by what is still to come
        for low, high in given:
            for sequence in utf8_sequences(low, high):
                for i in range(len(sequence) - 1, 0, -1):
                    if (tail := sequence[i:]) not in tails:
                        tails[tail] = self.state()
                        self.bytes[tails[tail]].append((*tail[0], tails[tail[1:]]))
                self.bytes[state].append((*sequence[0], tails[sequence[1:]]))
        return state


def utf8_sequences(low: int, high: int) -> Iterable[tuple[tuple[int, int], ...]]:
    """Byte ranges, one for each byte, whose combinations are the UTF-8 of the code points low … high."""
    for first, last in ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)):
        if max(low, first) <= min(high, last):
            yield from _split(chr(max(low, first)).encode(), chr(min(high, last)).encode())


def _split(low: bytes, high: bytes) -> Iterable[tuple[tuple[int, int], ...]]:
    """Of one length."""
    if len(low) == 1 or low[0] == high[0]:
        rests = [()] if len(low) == 1 else _split(low[1:], high[1:])
        yield from (((low[0], high[0]), *rest) for rest in rests)
        return
    least, most = b"\x80" * (len(low) - 1), b"\xbf" * (len(low) - 1)
    first, last = low[0], high[0]
    if low[1:] != least:
        yield from (((first, first), *rest) for rest in _split(low[1:], most))
        first += 1
    tail = [] if high[1:] == most else [((last, last), *rest) for rest in _split(least, high[1:])]
    last -= bool(tail)
    if first <= last:
        yield ((first, last), *(((0x80, 0xBF),) * (len(low) - 1)))
    yield from tail


# --- determinisation and minimisation -------------------------------------------------------------


def _byte_classes(nfa: _Nfa) -> tuple[Array, list[int]]:
    """Bytes that no arrow and no assertion tells apart: u8[256], and one byte of each class."""
    borders = {0, 256} | {b for row in nfa.bytes for low, high, _ in row for b in (low, high + 1)}
    if any(kind for row in nfa.free for kind, _ in row):
        borders |= {b for b in range(1, 256) if _kind(b) != _kind(b - 1)}
    firsts = sorted(borders)[:-1]
    classes = np.zeros(256, np.uint8)
    for number, first in enumerate(firsts):
        classes[first:] = number
    return classes, firsts


def _closure(nfa: _Nfa, states: Iterable[int], before: int, after: int) -> frozenset[int]:
    seen, todo = set(states), list(states)
    while todo:
        for assertion, next in nfa.free[todo.pop()]:
            if next not in seen and (not assertion or _HOLDS[assertion](before, after)):
                seen.add(next)
                todo.append(next)
    return frozenset(seen)


def _determinise(nfa: _Nfa, pattern: str) -> Dfa:
    """Sets of states, with what stood before where assertions ask; a closure is taken when the next byte is known."""
    classes, firsts = _byte_classes(nfa)
    asks = any(kind for row in nfa.free for kind, _ in row)
    kinds = [_kind(b) if asks else OTHER for b in firsts]
    edge = EDGE if asks else OTHER
    start = frozenset([nfa.start]), edge
    numbers: dict[tuple[frozenset[int], int], int] = {(frozenset(), OTHER): 0, start: 1}
    queue, rows, accepts, work = [start], [[0] * len(firsts)], [False], 0
    for states, before in queue:
        closures = {after: _closure(nfa, states, before, after) for after in {*kinds, edge}}
        accepts.append(nfa.end in closures[edge])
        nexts = {after: _nexts(nfa, closure, classes, len(firsts)) for after, closure in closures.items()}
        work += sum(map(len, closures.values())) + len(firsts)
        row = []
        for number, kind in enumerate(kinds):
            next = frozenset(nexts[kind][number])
            key = next, kind if next and asks else OTHER
            if key not in numbers:
                numbers[key] = len(numbers)
                queue.append(key)
            row.append(numbers[key])
        rows.append(row)
        if len(numbers) > MOST_STATES or work > MOST_WORK:
            raise ResourceError(f"regular expression {pattern[:80]!r} is too large: its automaton has more than "
                                f"{MOST_STATES} states, or they are too complex")
    return Dfa(classes, np.array(rows, np.uint16), np.array(accepts))


def _nexts(nfa: _Nfa, states: Iterable[int], classes: Array, count: int) -> list[set[int]]:
    """The states behind these, by the class of the byte between."""
    found: list[set[int]] = [set() for _ in range(count)]
    for state in states:
        for low, high, next in nfa.bytes[state]:
            for number in range(int(classes[low]), int(classes[high]) + 1):
                found[number].add(next)
    return found


def _minimised(dfa: Dfa) -> Dfa:
    """States that no text tells apart become one (Moore)."""
    groups = dfa.accepts.astype(np.int64)
    while True:
        signature = np.concatenate([groups[:, None], groups[dfa.table]], axis=1)
        _, finer = np.unique(signature, axis=0, return_inverse=True)
        finer = finer.reshape(-1)
        if finer.max() == groups.max():
            break
        groups = finer
    order = _first_seen(groups, (0, 1))
    if groups[0] == groups[1]:  # nothing is accepted: keep a start of its own, so that 0 and 1 mean what they say
        return Dfa(dfa.classes, np.zeros((2, dfa.table.shape[1]), np.uint16), np.zeros(2, np.bool_))
    numbers = np.empty(len(order), np.int64)
    numbers[[groups[i] for i in order]] = np.arange(len(order))
    return Dfa(dfa.classes, numbers[groups[dfa.table[order]]].astype(np.uint16), dfa.accepts[order])


def _first_seen(groups: Array, first: Sequence[int]) -> list[int]:
    """One state of each group, those of the states `first` in front."""
    found: dict[int, int] = {}
    for state in (*first, *range(len(groups))):
        found.setdefault(int(groups[state]), state)
    return list(found.values())

