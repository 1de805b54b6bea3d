"""Bring the graph into the one form that later passes expect."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lepton.ir.rewrite import Rule
from lepton.passes.activations import ACTIVATIONS
from lepton.passes.base import RewritePass
from lepton.passes.identities import IDENTITIES
from lepton.passes.views import VIEWS


@dataclass(frozen=True)
class Canonicalise(RewritePass):
    """reshape(reshape(x * 1)) - 2  ->  reshape(x) + -2

    Drops what has no effect, merges views, writes subtraction and division by constants as addition and
    multiplication, and names the activation functions that exporters spell out."""

    name: ClassVar[str] = "canonicalise"
    rules: ClassVar[tuple[Rule, ...]] = (*VIEWS, *IDENTITIES, *ACTIVATIONS)
