"""Tables of rows that are a product's factor too lie in the file once: packed for the product.

A language model looks its words up in the matrix that its last product multiplies by. The product wants panels; who
looks up a few rows can read them there, an element from each row of a panel.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lepton.codegen.group import Group
from lepton.codegen.kernel import Kernel, Packed, Panels
from lepton.codegen.program import Buffer, Operand, Program, Step, Storage
from lepton.codegen.target import Target
from lepton.codegen.templates.dots import FMA
from lepton.codegen.templates.gemm import Gemm, in_panels, panels_of
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.tensor import Array

LEAST = 1 << 20  # bytes: smaller tables are in a cache, and looked up faster as rows


@dataclass(frozen=True, eq=False, slots=True)
class Lookup:
    """A step that gathers from a constant, and does nothing else with it."""

    step: Step
    group: Group
    table: Value             # the program's constant

    @classmethod
    def of(cls, step: Step, group: Group) -> Lookup | None:
        if group.anchor is None or group.anchor.op is not ops.gather:
            return None
        looked_up = group.anchor.inputs[0]
        table = group.inputs[group.body.inputs.index(looked_up)]
        if looked_up is None or len(looked_up.uses) > 1 or group.inputs.count(table) > 1:
            return None
        is_matrix = table.producer is not None and table.producer.op is ops.constant and table.tensor.rank == 2
        return cls(step, group, table) if is_matrix else None

    @property
    def buffer(self) -> Buffer:
        return self.operands[self.table].buffer

    @property
    def operands(self) -> dict[Value | Packed, Operand]:
        assert self.step.kernel is not None
        return dict(zip(self.step.kernel.operands, self.step.operands, strict=True))


def share_tables(program: Program, lookups: Sequence[Lookup], lower: Callable[[Group], Kernel],
                 target: Target) -> None:
    """Have lookups read from panels that hold their table, where nobody else reads it as rows."""
    packed = _packed_factors(program.steps, target)
    for table in dict.fromkeys(lookup.buffer for lookup in lookups):
        readers = [lookup for lookup in lookups if lookup.buffer is table]
        using = sum(any(o.buffer is table for o in step.operands) for step in program.steps)
        if table.data is None or table.data.nbytes < LEAST or using > len(readers):
            continue
        for buffer, panels in packed.items():
            turned = _holds(buffer, panels, table.data)
            if turned is not None:
                for lookup in readers:
                    _read_there(lookup, buffer, panels, turned, lower)
                break


def _packed_factors(steps: Iterable[Step], target: Target) -> dict[Buffer, Panels]:
    """The constants in panels of one plain element for each of the matrix."""
    found = {}
    for step in steps:
        body = None if step.kernel is None else step.kernel.body
        if isinstance(body, Gemm) and isinstance(body.b, int) and body.dot == FMA and body.passes == 1:
            buffer, k, n = step.operands[body.b].buffer, body.k, body.n
            if buffer.storage is Storage.CONSTANT and isinstance(k, int) and isinstance(n, int):
                found[buffer] = panels_of(k, n, target, body.tile, body.dtype)
    return found


def _holds(buffer: Buffer, panels: Panels, table: Array) -> bool | None:
    """Whether the panels hold the table's transpose (True) or the table (False), bit for bit; None: neither."""
    data = buffer.data
    if data is None or data.dtype != table.dtype or data.size != panels.size:
        return None
    for turned in (True, False):
        matrix = table.T if turned else table
        if matrix.shape == (panels.rows, panels.columns) and _same(data, panels, matrix):
            return turned
    return None


def _same(data: Array, panels: Panels, matrix: Array) -> bool:
    bits = f"u{data.itemsize}"  # -0.0 is not 0.0 here
    whole, narrow = in_panels(data.view(bits), panels)
    matrix = matrix.view(bits) if matrix.flags.c_contiguous else matrix.T.view(bits).T
    width = panels.width
    return (all(np.array_equal(panel, matrix[:, i * width:(i + 1) * width]) for i, panel in enumerate(whole))
            and np.array_equal(narrow[:, :panels.columns - panels.whole], matrix[:, panels.whole:]))


def _read_there(lookup: Lookup, buffer: Buffer, panels: Panels, turned: bool, lower: Callable[[Group], Kernel]) -> None:
    group, table = lookup.group, lookup.table
    access = replace(group.accesses[table], panels=panels, turned=turned)
    operands = {**lookup.operands, table: Operand(buffer)}
    lookup.step.kernel = lower(replace(group, accesses={**group.accesses, table: access}))
    lookup.step.operands = tuple(operands[o] for o in lookup.step.kernel.operands)
