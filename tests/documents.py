"""Documents that run: the code blocks of Markdown files that say they are to be executed.

A block is marked in its opening fence: ```` ```python run ```` or ```` ```console run ````. All blocks of one
document run in one folder, one after the other; Python blocks share their names. In console blocks lines that begin
with `$ ` are commands, and the lines below are what they print: `...` stands for anything, and a block that shows no
output accepts any. A command fails where its exit status is not 0, unless the line ends in `# exit N`.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_FENCE = re.compile(r"^```(\w+)([^\n`]*)\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
_EXIT = re.compile(r"\s+# exit (\d+)$")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the words behind it, its text and its line in the file."""

    language: str
    words: frozenset[str]
    text: str
    line: int


class DocumentError(AssertionError):
    """A block did not do what the document says; the text names the line."""


def blocks(text: str) -> Iterator[Block]:
    """The blocks to run."""
    for match in _FENCE.finditer(text):
        words = frozenset(match[2].split())
        if "run" in words:
            yield Block(match[1], words, match[3], text.count("\n", 0, match.start()) + 2)


@dataclass
class Runner:
    """Runs the blocks of one document in `folder`, with `environment` for commands."""

    folder: Path
    environment: dict[str, str]
    names: dict[str, Any] = field(default_factory=dict)

    def run(self, block: Block, file: str) -> None:
        """Raises DocumentError, or what the Python code raises."""
        if block.language == "python":
            # Blank lines in front: tracebacks then name the document's own lines.
            exec(compile("\n" * (block.line - 1) + block.text, file, "exec"), self.names)
        elif block.language in ("console", "sh"):
            for command, output in commands(block.text):
                self._command(command, output, f"{file}:{block.line}")
        else:
            raise DocumentError(f"{file}:{block.line}: cannot run {block.language!r}")

    def _command(self, command: str, expected: str, where: str) -> None:
        allowed = _EXIT.search(command)
        want = int(allowed[1]) if allowed else 0
        done = subprocess.run(
            ["bash", "-c", _EXIT.sub("", command)],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        printed = done.stdout + done.stderr
        if done.returncode != want:
            raise DocumentError(f"{where}: $ {command}\nexit status {done.returncode}, expected {want}\n{printed}")
        if expected.strip() and not matches(expected, printed):
            raise DocumentError(f"{where}: $ {command}\nprinted\n{printed}\nexpected\n{expected}")


def commands(text: str) -> Iterator[tuple[str, str]]:
    """(command, what it prints) of a console block; without `$ ` every line is a command."""
    text = text.replace("\\\n", "")
    if not re.search(r"^\$ ", text, re.MULTILINE):
        yield from ((line, "") for line in text.splitlines() if line.strip() and not line.startswith("#"))
        return
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def matches(expected: str, printed: str) -> bool:
    """Whether the text was printed, `...` standing for anything and runs of blanks for one."""
    pieces = [r"\s+".join(map(re.escape, piece.split())) for piece in expected.strip().split("...")]
    return re.search(r"[\s\S]*?".join(f"\\s*{piece}\\s*" for piece in pieces), printed) is not None
