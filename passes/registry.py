"""Passes by name, imported when asked for: Lepton's own, other packages' (entry points `lepton.passes`)."""
from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from difflib import get_close_matches
from importlib.metadata import entry_points

import lepton.passes
from lepton.ir.diagnostics import UsageError
from lepton.passes.base import PASSES, Pass

ENTRY_POINTS = "lepton.passes"


def find(name: str) -> type[Pass]:
    """The pass of this name. Raises UsageError with the nearest names.

    Looked for in: what is imported; the module of that name (`fold-batchnorm` in fold_batchnorm.py); installed
    packages' entry points; all other modules of lepton.passes."""
    if name in PASSES:
        return PASSES[name]
    module = f"lepton.passes.{name.replace('-', '_')}"
    if name.replace("-", "_").isidentifier() and importlib.util.find_spec(module):
        importlib.import_module(module)
    if name not in PASSES:
        for entry in entry_points(group=ENTRY_POINTS, name=name):
            entry.load()
    if name not in PASSES:
        load_all()
    if name not in PASSES:
        near = get_close_matches(name, PASSES, 1)
        raise UsageError(f"unknown pass {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
                         help="lepton-opt --list-passes shows them all; --load-plugin FILE.py brings your own")
    return PASSES[name]


def load_all() -> dict[str, type[Pass]]:
    """Import every module with passes that can be found; all passes by name."""
    for info in pkgutil.walk_packages(lepton.passes.__path__, "lepton.passes."):
        importlib.import_module(info.name)
    for entry in entry_points(group=ENTRY_POINTS):
        entry.load()
    return dict(sorted(PASSES.items()))
