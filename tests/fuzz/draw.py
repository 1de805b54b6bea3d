"""Where a random program grows: the values so far, what each holds in every run, and the dice."""
from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from lepton.ir import dims, ops
from lepton.ir.core import Graph, Node, Use, Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim
from lepton.ir.evaluate import apply, bind
from lepton.ir.op import Op
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from tests.fuzz.elements import array

MOST_ELEMENTS = 6000  # of a value, in any run
MOST_INPUTS = 6
MOST_RANK = 6
OPEN = "NML"          # the symbols of inputs' sizes

FLOATS = (DType.F32, DType.F32, DType.F32, DType.F32, DType.F64, DType.F16, DType.BF16)
NARROW = (DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ, DType.F8E8M0, DType.F4E2M1, DType.I4,
          DType.U4, DType.I2, DType.U2)
INTEGERS = (DType.I8, DType.I16, DType.I32, DType.I64, DType.U8, DType.U16, DType.U32, DType.U64)
# How often a fresh value is of which element type.
DTYPES = (*FLOATS, *FLOATS, *FLOATS, *INTEGERS, DType.I64, DType.U8, DType.I8, DType.BOOL, DType.BOOL, *NARROW[::2],
          *NARROW[1::3])
SIZES: tuple[int, ...] = (1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 16, 17, 33)

Kind = Callable[[DType], bool]


@dataclass(eq=False)
class Draw:
    """A graph, or a region, under construction. Every value is computed as soon as it is made, for each of the `envs`
    (sizes of the symbols, one environment per run), so that only programs that mean something are made."""

    choose: random.Random
    rng: np.random.Generator
    envs: list[dict[str, int]]
    hard: bool
    depth: int = 0
    inputs: list[Value] = field(default_factory=list)
    pool: list[Value] = field(default_factory=list)
    held: dict[Value, list[Array]] = field(default_factory=dict)
    names: Iterator[int] = field(default_factory=count)  # shared with regions: no two sizes have one name

    # --- dice ---

    def chance(self, probability: float) -> bool:
        return self.choose.random() < probability

    def symbol(self, hint: str) -> str:
        """A name for a size that is found in the data."""
        return f"{hint}{next(self.names)}"

    def dim(self, zero: bool = True) -> Dim:
        """A size for a fresh value: a number, or one of the program's symbols."""
        names = sorted(set.intersection(*({n for n in env if n in OPEN} for env in self.envs)))
        if names and self.chance(0.35):
            return dims.sym(self.choose.choice(names))
        return 0 if zero and self.chance(0.02) else self.choose.choice(SIZES)

    def shape(self, rank: int | None = None) -> tuple[Dim, ...]:
        rank = self.choose.choice((0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5)) if rank is None else rank
        return tuple(self.dim() for _ in range(rank))

    def dtype(self) -> DType:
        return self.choose.choice(DTYPES)

    # --- values ---

    def sizes(self, dim: Dim) -> list[int]:
        """What a dimension is in each run."""
        return [dims.evaluate(dim, env) for env in self.envs]

    def least(self, dim: Dim) -> int:
        return min(self.sizes(dim))

    def fits(self, shape: Sequence[Dim]) -> bool:
        """Whether a value of this shape is small enough, and of no negative size, in every run."""
        for env in self.envs:
            numbers = [dims.evaluate(d, env) for d in shape]
            if min(numbers, default=0) < 0 or int(np.prod(numbers)) > MOST_ELEMENTS:
                return False
        return len(shape) <= MOST_RANK

    def fresh(self, dtype: DType, shape: Sequence[Dim], *, hard: bool | None = None) -> Value | None:
        """A new input, or a constant where the shape is known. None where the value would be too large."""
        if not self.fits(shape):
            return None
        static = all(isinstance(d, int) for d in shape)
        known = all(name in OPEN for d in shape for name in dims.symbols(d))
        room = self.depth == 0 and len(self.inputs) < MOST_INPUTS and known
        if static and (not room or self.chance(0.5)):
            return self.constant(array(self.rng, dtype, [d for d in shape if isinstance(d, int)],
                                       self.hard if hard is None else hard))
        if not room:
            return None
        value = Value(TensorType(dtype, tuple(shape)), name=f"x{len(self.inputs)}")
        self.inputs.append(value)
        self.hold(value, [array(self.rng, dtype, [dims.evaluate(d, env) for d in shape],
                                self.hard if hard is None else hard) for env in self.envs])
        return value

    def constant(self, elements: Any, dtype: DType | None = None) -> Value:
        value = ops.constant(value=Tensor.of(np.asarray(elements), dtype))
        self.hold(value, [value.producer.attrs["value"].array] * len(self.envs))  # type: ignore[union-attr]
        return value

    def hold(self, value: Value, arrays: list[Array]) -> None:
        self.pool.append(value)
        self.held[value] = arrays

    def pick(self, kind: Kind | None = None, *, rank: Sequence[int] | None = None, least: int = 0) -> Value | None:
        """A value of that kind and rank, later ones more often; now and then a fresh one."""
        fits = [v for v in self.pool if (kind is None or kind(v.tensor.dtype)) and v.tensor.rank >= least
                and (rank is None or v.tensor.rank in rank)]
        if fits and not self.chance(0.1):
            return self.choose.choice(fits[-6:] if self.chance(0.6) else fits)
        types = [t for t in DTYPES if kind is None or kind(t)]
        if not types:
            return None
        wanted = self.choose.choice([r for r in rank or (1, 2, 3, 4) if r >= least] or [least])
        return self.fresh(self.choose.choice(types), self.shape(wanted))

    def apply(self, op: Op, *operands: Value | None, regions: Sequence[Graph] = (), **attrs: Any) -> Value | None:
        """The op's first result, or None where the op refuses or a result is too large."""
        node = self.node(op, *operands, regions=regions, **attrs)
        return node.results[0] if node is not None else None

    def node(self, op: Op, *operands: Value | None, regions: Sequence[Graph] = (), **attrs: Any) -> Node | None:
        if not regions and any(v is None for v in operands[:op.arity[0]]):
            return None  # a value that was too large to be made
        try:
            node = op.node(*operands, regions=regions, **attrs)
            if any(not isinstance(r.type, TensorType) or r.tensor.rank > MOST_RANK for r in node.results):
                return self._drop(node)
            outcomes = [apply(node, [None if v is None else self.held[v][run] for v in operands], env)
                        for run, env in enumerate(self.envs)]
        except LeptonError:
            return self._drop(locals().get("node"))
        if any(a.size > MOST_ELEMENTS for outcome in outcomes for a in outcome):
            return self._drop(node)
        for result, arrays in zip(node.results, zip(*outcomes, strict=True), strict=True):
            for env, a in zip(self.envs, arrays, strict=True):
                bind(result.tensor, a.shape, env)
            self.hold(result, list(arrays))
        return node

    @staticmethod
    def _drop(node: Node | None) -> None:
        """Let go of a node that will not be used: it must not count as a reader of its operands."""
        if node is not None:
            for slot, value in enumerate(node.inputs):
                if value is not None:
                    value.uses.pop(Use(node, slot), None)

    # --- regions ---

    def inner(self, captures: Sequence[Value], held: Sequence[list[Array]] | None = None) -> Draw:
        """A region that takes values of these types and, while it grows, sees what they hold now."""
        made = Draw(self.choose, self.rng, [dict(env) for env in self.envs], self.hard, self.depth + 1,
                    names=self.names)
        for i, value in enumerate(captures):
            stand_in = Value(value.type, name=f"p{i}")
            made.inputs.append(stand_in)
            made.hold(stand_in, list(held[i] if held is not None else self.held[value]))
        return made
