"""`share_weights`: equal and nearly equal weights become one."""
from __future__ import annotations

from typing import Any, overload

from lepton.compress.prepare import prepare
from lepton.driver import Source
from lepton.ir.core import Graph
from lepton.passes.compress.share import ShareWeights, share


@overload
def share_weights(model: Source, /, *, tolerance: float = ..., **options: Any) -> Graph: ...
@overload
def share_weights(model: Source, another: Source, /, *more: Source, tolerance: float = ...,
                  **options: Any) -> tuple[Graph, ...]: ...


def share_weights(*models: Source, tolerance: float = 1e-3, **options: Any) -> Graph | tuple[Graph, ...]:
    """Graphs of their own, whose float constants of one shape are one where their difference has no more than the share
    `tolerance` of their squares. Several models share among each other too: what they have in common is then equal to
    the last bit. Raises LeptonError."""
    graphs = [prepare(model, **options) for model in models]
    share(graphs, ShareWeights(tolerance))
    return graphs[0] if len(graphs) == 1 else tuple(graphs)
