"""Objects in this process: what `lepton.compile` runs, without a linker."""
from __future__ import annotations

import numpy as np

from lepton.codegen.build import Objects
from lepton.codegen.kernel import align
from lepton.codegen.llvm.machine import Linked
from lepton.ir.tensor import Array


class Loaded:
    """Machine code and weights kept alive together. `program` is the address of the first lpt_program."""

    def __init__(self, objects: Objects) -> None:
        self._linked = Linked(objects.objects, objects.triple, objects.programs[:1])
        self.program = self._linked[objects.programs[0]]
        self.weights: Array = _aligned(objects.weights.size)
        objects.weights.write_to(self.weights)


def _aligned(size: int, alignment: int = 4096) -> Array:
    """`size` bytes whose address is a multiple of `alignment`."""
    raw = np.empty(align(max(size, 1), 64) + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start:start + max(size, 1)]
