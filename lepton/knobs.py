"""Every environment variable that Lepton reads, in one table; `leptonc --help-knobs` prints it, docs/cli.md shows it.

What the C compiler's command is, codegen/link.py asks itself; the rows here say so to people.
"""
from __future__ import annotations

import os
from dataclasses import dataclass

from lepton.ir.diagnostics import UsageError


@dataclass(frozen=True, slots=True)
class Knob:
    """A variable with a text."""

    name: str
    values: str                # what may stand there, in words
    doc: str

    @property
    def text(self) -> str:
        """What it is set to; "" if it is not."""
        return os.environ.get(self.name, "")


@dataclass(frozen=True, slots=True)
class Switch(Knob):
    """On where it is set to anything."""

    @property
    def on(self) -> bool:
        return bool(self.text)


@dataclass(frozen=True, slots=True)
class Level(Knob):
    """A number from 0 to `most`."""

    most: int = 0

    @property
    def level(self) -> int:
        """Raises UsageError for what is no such number."""
        text = self.text or "0"
        if not (text.isascii() and text.isdecimal() and int(text) <= self.most):
            raise UsageError(f"{self.name} is {text!r}; expected a number from 0 to {self.most}")
        return int(text)


CC = Knob("LEPTON_CC", "command", "the C compiler that links artifacts (default: cc, gcc, clang, python -m ziglang cc)")
CC_AARCH64 = Knob("LEPTON_CC_AARCH64", "command",
                  "the same where aarch64 is not this machine (default: aarch64-linux-gnu-gcc)")
CC_X86_64 = Knob("LEPTON_CC_X86_64", "command",
                 "the same where x86-64 is not this machine (default: x86_64-linux-gnu-gcc)")
DEBUG = Level("LEPTON_DEBUG", "0…4", "what a compile says on stderr: 1: its stages' times; 2: also graphs after each "
              "pass that changed them; 3: also the program and its kernels; 4: also LLVM IR", 4)
CUDA_CACHE = Knob("LEPTON_CUDA_CACHE", "folder", "where what NVRTC has compiled is kept, at most 512 MB of it "
                  "(default: lepton/cuda in XDG_CACHE_HOME or ~/.cache; 0: nowhere)")
CUDA_GRAPHS = Knob("LEPTON_CUDA_GRAPHS", "number", "how many CUDA graphs a session on a GPU keeps, one for each set of "
                   "sizes and addresses (default 16; 0: none)")
CUDA_EARLY = Knob("LEPTON_CUDA_EARLY", "0", "kernels on a GPU begin one after the other has ended (default: the next "
                  "one is launched before, and waits itself)")
LIBCUDA = Knob("LEPTON_LIBCUDA", "path", "the CUDA driver that models on a GPU load (default: libcuda.so.1)")
NVRTC = Knob("LEPTON_NVRTC", "path", "the libnvrtc.so that compiles for CUDA (default: that of the package "
             "nvidia-cuda-nvrtc, or a toolkit's)")
CUDA_HOME = Knob("CUDA_HOME", "folder", "a CUDA toolkit, whose libnvrtc.so is taken where the package is not installed")
CUDA_PATH = Knob("CUDA_PATH", "folder", "the same by its other name")
CACHE_HOME = Knob("XDG_CACHE_HOME", "folder", "where lepton/tuning.jsonl lies, the results of --tune that no file was "
                  "named for, and lepton/cuda (default: ~/.cache)")
NO_COLOR = Switch("NO_COLOR", "anything", "plain progress lines: no colour, no cursor movement")

KNOBS: dict[str, Knob] = {k.name: k for k in (
    CC, CC_AARCH64, CC_X86_64, CUDA_CACHE, CUDA_EARLY, CUDA_GRAPHS, DEBUG, LIBCUDA, NVRTC, CUDA_HOME, CUDA_PATH,
    CACHE_HOME, NO_COLOR)}


def describe_knobs() -> str:
    """One line per variable: name, values, meaning."""
    names, values = (max(len(getattr(k, column)) for k in KNOBS.values()) for column in ("name", "values"))
    return "".join(f"{k.name:<{names}}  {k.values:<{values}}  {k.doc}\n" for k in KNOBS.values())
