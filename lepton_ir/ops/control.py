"""Ops that hold graphs. A reference gets its regions as functions from arrays to a list of arrays."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lepton.ir import dims
from lepton.ir.core import Graph
from lepton.ir.dims import Dim
from lepton.ir.op import Trait, op
from lepton.ir.ops.rules import boolean, fail, tensor
from lepton.ir.tensor import Array
from lepton.ir.types import TensorType, Type

Run = Callable[..., list[Array]]


def check_operands(region: Graph, operands: Sequence[Type | None]) -> None:
    """Each operand has exactly the type of the region's input."""
    wanted = tuple(v.type for v in region.inputs)
    if wanted != tuple(operands):
        shown = ", ".join(map(str, wanted))
        raise fail(f"region '{region.name}' takes ({shown})", *operands)


def _regions(regions: Sequence[Graph], count: int, what: str) -> None:
    if len(regions) != count:
        raise fail(f"{what} holds {count} region{'s' * (count > 1)}, not {len(regions)}")


def result_types(region: Graph) -> tuple[Type, ...]:
    return tuple(v.type for v in region.outputs)


def _fusion_type(*operands: Type, kind: str, regions: Sequence[Graph]) -> tuple[Type, ...]:
    _regions(regions, 1, "fusion")
    check_operands(regions[0], operands)
    return result_types(regions[0])


@op(_fusion_type, Trait.REGIONS)
def fusion(*operands: Array, kind: str = "", regions: Sequence[Run]) -> tuple[Array, ...]:
    """What the body computes from the operands: nodes that become one kernel. `kind` names the group for people."""
    return tuple(regions[0](*operands))


# --- if -------------------------------------------------------------------------------------------


def merged(a: Type, b: Type, fresh: list[str]) -> Type:
    """The type of a value that has type a or type b: where sizes differ, the next fresh symbol. Raises TypeRuleError."""
    if a == b:
        return a
    x, y = tensor(a), tensor(b)
    if x.dtype is not y.dtype or x.rank != y.rank:
        raise fail("the branches' results differ", a, b)
    shape: list[Dim] = []
    for m, n in zip(x.shape, y.shape, strict=True):
        if m != n and not fresh:
            raise fail(f"the branches give the sizes {m} and {n}, and `symbols` has no name left for either", a, b)
        shape.append(m if m == n else dims.sym(fresh.pop(0)))
    return TensorType(x.dtype, tuple(shape))


def _if_type(cond: Type, *captures: Type, symbols: Sequence[str], regions: Sequence[Graph]) -> tuple[Type, ...]:
    tensor(cond, boolean, rank=0)
    _regions(regions, 2, "if")
    for region in regions:
        check_operands(region, captures)
    then, other = map(result_types, regions)
    if len(then) != len(other):
        raise fail(f"the branches give {len(then)} and {len(other)} results")
    fresh = list(symbols)
    return tuple(merged(a, b, fresh) for a, b in zip(then, other, strict=True))


@op(_if_type, Trait.REGIONS)
def if_(cond: Array, *captures: Array, symbols: tuple[str, ...] = (), regions: Sequence[Run]) -> tuple[Array, ...]:
    """What the first region computes from the captures where `cond` (bool[]) holds, else what the second does; only that
    one runs. Sizes on which the regions differ are named, in order of appearance, by `symbols`."""
    return tuple(regions[0 if np.asarray(cond).item() else 1](*captures))
