"""Lowerings: one module per family of ops; importing this package registers all of them (codegen.group.LOWERINGS)."""
from __future__ import annotations

import importlib
import pkgutil

if __name__ != "lepton.codegen.lower":
    raise ImportError("import lepton.codegen.lower")

for _module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
