"""What a model may ask for before it is refused. One place, so that tests and the manual agree with the code."""
from __future__ import annotations

from dataclasses import dataclass

MAX_INT64 = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one model. The defaults are far above any model met in practice."""

    file_bytes: int = 2**31 - 1        # protobuf itself ends here; larger weights are external data
    tensor_bytes: int = 2**40          # one stored tensor
    sparse_bytes: int = 2**30          # a sparse initialiser made dense: its file may be tiny
    nodes: int = 1_000_000             # in all graphs and functions together
    inlined_nodes: int = 250_000       # after functions are expanded and loops written out
    depth: int = 64                    # graphs in graphs, functions in functions
    rank: int = 64
    opset: int = 28
    unrolled: int = 256                # rounds of a loop with known trip count that are written out
    unrolled_nodes: int = 4096         # the same for more rounds of a small body: nodes of all rounds


LIMITS = Limits()
