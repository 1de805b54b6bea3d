"""Ops on text as calls of the runtime's functions (runtime_c/src/text.c, numbers.c), with the tables they read."""
from __future__ import annotations

import struct
from functools import cache

import numpy as np

from lepton.codegen.host import host_call
from lepton.codegen.program import HostCall
from lepton.ir import ops
from lepton.ir.core import Node
from lepton.ir.dims import sym
from lepton.ir.regex import Dfa
from lepton.ir.strings import cases, to_bytes

for _op in (ops.number_to_string, ops.string_concat, ops.string_rank, ops.string_to_number):
    host_call(_op)(lambda node: HostCall(node.op.name))


@host_call(ops.string_split)
def string_split(node: Node) -> HostCall:
    """i64: splits at most, negative for any number; the delimiter."""
    most = node.attrs["most"]
    attributes = struct.pack("<q", -1 if most is None else most) + to_bytes(node.attrs["delimiter"])
    return HostCall("string_split", attributes, (sym(node.attrs["symbol"]),))


@host_call(ops.regex_full_match)
def regex_full_match(node: Node) -> HostCall:
    """u32 states, classes, 0, 0; the byte classes u8[256], the accepting states u16[states], the table u16[states,
    classes]."""
    dfa = Dfa.of(node.attrs["pattern"])
    head = struct.pack("<4I", *dfa.table.shape, 0, 0)
    tables = (dfa.classes.astype(np.uint8), dfa.accepts.astype("<u2"), dfa.table.astype("<u2"))
    return HostCall("regex_full_match", head + b"".join(t.tobytes() for t in tables))


@host_call(ops.string_case)
def string_case(node: Node) -> HostCall:
    return HostCall("string_case", _case_table(node.attrs["to"], node.attrs["dotless"]))


@cache
def _case_table(to: str, dotless: bool) -> bytes:
    """u32 n, most bytes out for a byte in, 0, 0; the code points u32[n], ascending; where the UTF-8 of what they become
    begins, u32[n + 1]; those bytes."""
    table = sorted(cases(to, dotless).items())
    images = [image.encode() for _, image in table]
    growth = max(-(-len(image) // len(c.encode())) for (c, _), image in zip(table, images, strict=True))
    points = np.array([ord(c) for c, _ in table], "<u4")
    starts = np.concatenate([[0], np.cumsum([len(image) for image in images])]).astype("<u4")
    return struct.pack("<4I", len(table), growth, 0, 0) + points.tobytes() + starts.tobytes() + b"".join(images)
