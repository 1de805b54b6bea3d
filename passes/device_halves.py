"""Halves on GPUs: tensor cores multiply them as they are, and sum in f32."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.rewrite import Rule, pat, rest, rule
from lepton.ir.types import DType
from lepton.passes.base import RewritePass

HALVES = (DType.F16, DType.BF16)


@rule(pat(ops.attention)(rest("xs")).named("r"))
def attended_in_halves(xs: tuple[Value | None, ...], r: Value) -> Value | None:
    """cast(attention(cast(q), cast(k), cast(v)), f16)  ->  attention(q, k, v) of halves, which rounds once too"""
    users = [u for u in r.users if isinstance(u, Node)]
    kinds = {u.attrs["to"] if u.op is ops.cast else None for u in users}
    if r.producer is None or len(users) != len(r.uses) or len(kinds) != 1:
        return None
    (kind,) = kinds
    narrow = [_narrow(v, kind) for v in xs]
    if kind not in HALVES or any(n is None and v is not None for n, v in zip(narrow, xs, strict=True)):
        return None
    return ops.cast(r.producer.op(*narrow, **r.producer.attrs), to=DType.F32)


def _narrow(value: Value | None, kind: DType | None) -> Value | None:
    """What the value is the cast of, if that is of this type."""
    node = None if value is None else value.producer
    if node is None or node.op is not ops.cast or node.inputs[0] is None:
        return None
    return node.inputs[0] if node.inputs[0].tensor.dtype is kind else None


@dataclass(frozen=True)
class DeviceHalves(RewritePass):
    """cast(attention(cast(q), cast(k), cast(v)), f16)  ->  attention(q, k, v)

    After the pass that finds attention, for targets whose attention reads halves."""

    name: ClassVar[str] = "device-halves"
    rules: ClassVar[tuple[Rule, ...]] = (attended_in_halves,)
