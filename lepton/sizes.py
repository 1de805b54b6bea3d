"""What the sizes in a graph tell before code is made for it: what no machine holds, and what nobody can have meant."""
from __future__ import annotations

import warnings

from lepton.ir import dims, ops
from lepton.ir.core import Graph
from lepton.ir.diagnostics import ResourceError
from lepton.ir.types import TensorType

MAX_BYTES = 2**47  # of one value: what fits the address space of a process
POOLS = (ops.max_pool, ops.max_pool_indices, ops.avg_pool, ops.lp_pool)


def check_sizes(graph: Graph) -> None:
    """Raises ResourceError for a value that no machine could hold, whatever its open dimensions are."""
    values = [*((v, ()) for v in graph.inputs), *((v, n.loc) for n in graph.walk() for v in n.results)]
    for value, loc in values:
        if isinstance(value.type, TensorType):
            size = value.tensor.size * value.tensor.dtype.bytes
            least = dims.evaluate(size, dict.fromkeys(dims.symbols(size), 1))
            if least > MAX_BYTES or any(isinstance(d, int) and d > MAX_BYTES for d in value.tensor.shape):
                what = f"'{value.name}'" if value.name else "a value"
                raise ResourceError(f"{what} would be {value.type}: {least} bytes, more than any machine has",
                                    where=loc[0] if loc else None)


def warn_of_nothing(graph: Graph) -> None:
    """A UserWarning for each pool whose window is larger than its padded input: it gives no elements (where other
    engines may give one)."""
    for node in graph.walk():
        if node.op not in POOLS:
            continue
        x, y = node.inputs[0], node.results[0]
        if x is not None and 0 in y.tensor.shape and 0 not in x.tensor.shape:
            where = f"\n  --> {node.loc[0]}" if node.loc else ""
            warnings.warn(f"windows of {list(node.attrs['kernel'])} do not fit into {x.type}, pads included: the "
                          f"pool's result is empty, {y.type}{where}", stacklevel=2)
