"""What a session remembers from run to run: the seed of its random draws, and how often each node has drawn."""
from __future__ import annotations

from typing import TYPE_CHECKING

from lepton.codegen.lower.draws import next_draw
from lepton.codegen.program import Buffer, Storage
from lepton.codegen.views import dense_place
from lepton.ir.core import Node, Value
from lepton.ir.types import DType, TensorType

if TYPE_CHECKING:
    from lepton.codegen.plan import Planner

WORD = TensorType(DType.U64, (1,))


def emit_draw_state(p: Planner, node: Node) -> None:
    """Take the next draw's key and count from the session."""
    (result,) = node.results
    p.places[result] = p.wanted.get(result) or p.workspace(result.tensor)
    stream, pinned = node.attrs["stream"], node.attrs["seed"]
    seed = None if pinned >= 0 else _remembered(p, 0, p.options.seed)
    count = _remembered(p, p.streams.setdefault(stream, len(p.streams) + 1), 0)
    p.launch(next_draw(seed, count, result, stream, pinned))


def _remembered(p: Planner, index: int, first: int) -> Value:
    """The session's number `index` (0: the seed), which is `first` in a new session."""
    buffer = next((b for b in p.program.buffers if b.storage is Storage.STATE and b.index == index), None)
    if buffer is None:
        buffer = Buffer(Storage.STATE, index, WORD.dtype.bytes, offset=first)
        p.program.buffers.append(buffer)
    value = Value(WORD)
    p.places[value] = dense_place(buffer, WORD)
    return value
