from __future__ import annotations

from tests.cuda.checking import on_simulator

__all__ = ["on_simulator"]
