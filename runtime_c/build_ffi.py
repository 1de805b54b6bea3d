"""Builds the extension `lepton._rt`: the runtime with cffi's view of lepton.h and binding.h.

cffi reads the headers themselves, between their markers, so C and Python cannot drift apart.
"""
from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

RUNTIME = Path(__file__).resolve().parent
FLAGS = ["-std=gnu11", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra"]


def declarations(header: Path) -> str:
    """The text between the `cffi: begin` and `cffi: end` markers."""
    found = re.search(r"/\* cffi: begin \*/(.*)/\* cffi: end \*/", header.read_text(), re.DOTALL)
    if found is None:
        raise ValueError(f"{header}: no cffi markers")
    return found[1]


def sources() -> list[str]:
    """Relative to the folder of setup.py, as setuptools wants them. entry.c needs a compiled model's tables."""
    files = [f for f in sorted((RUNTIME / "src").glob("*.c")) if f.name != "entry.c"]
    return [str(f.relative_to(RUNTIME.parent)) for f in [*files, RUNTIME / "binding" / "binding.c"]]


ffibuilder = FFI()
ffibuilder.cdef(declarations(RUNTIME / "include" / "lepton.h"))
ffibuilder.cdef(declarations(RUNTIME / "binding" / "binding.h"))
# A lepton_function that calls a Python one: its context is a handle to it (lepton/functions.py).
ffibuilder.cdef('extern "Python" lepton_status lpt_call_python(lepton_call *call);')
ffibuilder.set_source(
    "lepton._rt",
    '#include "binding.h"',
    sources=sources(),
    include_dirs=["runtime_c/include", "runtime_c/src", "runtime_c/binding"],
    depends=[str(f.relative_to(RUNTIME.parent)) for f in sorted(RUNTIME.glob("*/*.h"))],
    extra_compile_args=FLAGS,
)
