"""Reading text piece by piece, with errors that show the line and point at the column."""
from __future__ import annotations

import re
from typing import NoReturn

from lepton.ir.diagnostics import ParseError

_BLANK = re.compile(r"(?:\s+|//[^\n]*)*")
_CLOSERS = {"(": ")", "[": "]", "<": ">", "{": "}"}
_PIECE = re.compile(r'"(?:[^"\\\n]|\\.)*"|[()\[\]<>{},]|[^()\[\]<>{},"]+|"')


class Scanner:
    """A position in a text. Blank space and `// comments` are skipped before every piece."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file, self.at = text, file, 0

    def skip(self) -> None:
        if m := _BLANK.match(self.text, self.at):
            self.at = m.end()

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Take what `pattern` matches here."""
        self.skip()
        if m := pattern.match(self.text, self.at):
            self.at = m.end()
        return m

    def take(self, literal: str) -> bool:
        """Take `literal` if it is next; otherwise stay, before the blank space too."""
        before = self.at
        self.skip()
        if self.text.startswith(literal, self.at):
            self.at += len(literal)
            return True
        self.at = before
        return False

    def peek(self, literal: str) -> bool:
        before = self.at
        found = self.take(literal)
        self.at = before
        return found

    def expect(self, literal: str) -> None:
        if not self.take(literal):
            self.skip()
            self.fail(f"expected {literal!r}")

    def need(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        return self.match(pattern) or self.fail(f"expected {what}")

    def end(self) -> bool:
        self.skip()
        return self.at == len(self.text)

    def until_delimiter(self) -> str:
        """Text up to the `,` or closing bracket that ends the value which begins here."""
        self.skip()
        start, stack = self.at, [""]
        while m := _PIECE.match(self.text, self.at):
            piece = m[0]
            if piece in _CLOSERS:
                stack.append(_CLOSERS[piece])
            elif piece == stack[-1]:
                stack.pop()
            elif piece in ")]>}" or (piece == "," and len(stack) == 1):
                break
            self.at = m.end()
        return self.text[start:self.at].strip()

    def trailing_comment(self) -> str:
        """The comment on the rest of this line, "" where there is none."""
        m = re.compile(r"[ \t]*(?://([^\n]*))?").match(self.text, self.at)
        assert m
        self.at = m.end()
        return m[1] or ""

    def fail(self, message: str, at: int | None = None, cause: BaseException | None = None) -> NoReturn:
        """Raise ParseError for position `at` (here, unless given)."""
        at = self.at if at is None else at
        line, start = self.text.count("\n", 0, at) + 1, self.text.rfind("\n", 0, at) + 1
        source = self.text[start:].split("\n", 1)[0]
        column = at - start
        caret = "".join("\t" if c == "\t" else " " for c in source[:column]) + "^"
        raise ParseError(f"{self.file}:{line}:{column + 1}: {message}\n  | {source}\n  | {caret}") from cause
