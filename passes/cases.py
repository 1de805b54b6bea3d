"""The file format that golden tests, reproducers and `lepton-opt` share.

    // RUN: fuse-bias                     the pipeline; holds for the cases below too, until another RUN line
    // ACCURACY: approximate              how far answers may move (else: what the passes say); also a number, 0.01
    // SIZES: N=3, H=4                    sizes for the symbols when the case is executed
    graph @before(…) { … }
    // ---
    graph @before(…) { … }                what comes out; or `...unchanged...`, or `error: the message's beginning`
    // ===
    …the next case

A file without `// ---` is only an input: a reproducer. Giving it an expectation makes it a test.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast, get_args

from lepton.ir.diagnostics import UsageError
from lepton.ir.rewrite import Accuracy

UNCHANGED = "...unchanged..."
BETWEEN_CASES = "// ===\n"
_EXPECTATION = "// ---\n"
_DIRECTIVE = re.compile(r"^// (RUN|ACCURACY|SIZES):[ \t]*(.*?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """One input of a file with what shall become of it; `expected` is None where nothing is said."""

    before: str
    expected: str | None
    run: str = ""
    accuracy: Accuracy | float | None = None
    sizes: tuple[tuple[str, int], ...] | None = None

    @property
    def name(self) -> str:
        """The name of the case's graph."""
        found = re.search(r"^\s*graph @(\"[^\"]*\"|[\w.]+)", self.before, re.MULTILINE)
        return found[1].strip('"') if found else "nothing"


def read_cases(text: str) -> list[Case]:
    """The cases of a file; the line numbers in `before` are those of the file. Raises UsageError for bad directives."""
    cases: list[Case] = []
    run, line = "", 0
    for part in split_cases(text):
        before, mark, expected = part.partition(_EXPECTATION)
        directives = {m[1]: m[2] for m in _DIRECTIVE.finditer(before)}
        run = directives.get("RUN", run)
        accuracy = _accuracy(directives["ACCURACY"]) if "ACCURACY" in directives else None
        sizes = _sizes(directives["SIZES"]) if "SIZES" in directives else None
        cases.append(Case("\n" * line + before, expected.strip() if mark else None, run, accuracy, sizes))
        line += part.count("\n") + 1
    return cases


def split_cases(text: str) -> list[str]:
    """The texts between the `// ===` lines."""
    return re.split(r"^// ===[ \t]*\n", text, flags=re.MULTILINE)


def with_expected(text: str, index: int, expected: str) -> str:
    """The file with the expectation of one case replaced."""
    parts = split_cases(text)
    before = parts[index].partition(_EXPECTATION)[0].rstrip("\n")
    blank = "" if index == len(parts) - 1 else "\n"
    parts[index] = f"{before}\n{_EXPECTATION}{expected.strip()}\n{blank}"
    return BETWEEN_CASES.join(parts)


def _accuracy(text: str) -> Accuracy | float:
    if text in get_args(Accuracy):
        return cast(Accuracy, text)
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"ACCURACY: {text!r} is neither a number nor one of {', '.join(get_args(Accuracy))}") from None


def _sizes(text: str) -> tuple[tuple[str, int], ...]:
    try:
        return tuple((name.strip(), int(size)) for name, size in (part.split("=") for part in text.split(",")))
    except ValueError:
        raise UsageError(f"SIZES: {text!r} is not of the form N=3, H=4") from None
