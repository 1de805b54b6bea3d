"""Random programs over the op records: well typed, with open sizes, control flow, every element type."""
from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lepton.ir import dims, ops
from lepton.ir.core import Graph, Value
from lepton.ir.evaluate import symbol_name
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType
from tests.fuzz import makers_basic, makers_control, makers_layers
from tests.fuzz.draw import OPEN, SIZES, Draw

MAKERS = (*makers_basic.MAKERS, *makers_layers.MAKERS, *makers_control.MAKERS)
_MAKERS = tuple(maker for maker, _ in MAKERS)
_WEIGHTS = tuple(weight for _, weight in MAKERS)
# Ops that no maker makes, and why.
NOT_MADE = {
    "constant": "made by `Draw.constant`",
    "fusion": "made by the passes, which run on every program",
    "draw_state": "not a function of its operands",
    "read_sizes": "importers make it where a size is read from data; the interpreter fails for sizes below 0",
    "tree_ensemble": "wants a forest, not any tensors: tests/frontends/test_tree_ensemble.py grows random ones",
    "couple_pairs": "iterates until it converges, which the order of sums decides",
    **dict.fromkeys(("decode_image", "number_to_string", "regex_full_match", "string_case", "string_concat",
                     "string_rank", "string_split", "string_to_number"), "calls of the host, on strings and images"),
}


@dataclass(frozen=True, eq=False)
class Program:
    """A graph and what to feed it: one list of arrays per run, with other sizes in each."""

    seed: int
    graph: Graph
    runs: list[list[Array]]


def random_program(seed: int) -> Program:
    """The program that this seed stands for: two to sixteen nodes, one to three outputs, two runs."""
    choose = random.Random(seed)
    envs = [_sizes(choose) for _ in range(2)] if choose.random() < 0.7 else [{}]
    d = Draw(choose, np.random.default_rng(seed), envs, hard=choose.random() < 0.35)
    for _ in range(choose.choice((1, 1, 2, 3))):
        while d.fresh(d.dtype(), d.shape()) is None:
            pass
    grow(d, choose.choice((2, 4, 6, 9, 14, 20)))
    ends = [v for v in d.pool if not v.uses and v.producer is not None and v.producer.op is not ops.constant]
    if not ends:
        ends = [_anything(d)]
    outputs = choose.sample(ends, min(len(ends), choose.choice((1, 1, 2, 3))))
    if choose.random() < 0.15:  # something that others read goes out as well
        outputs = list(dict.fromkeys([*outputs, choose.choice(d.pool)]))
    outputs = [v if v.producer is not None or v in d.inputs else ends[0] for v in outputs]
    _bind_symbols(d, graph_of(f"p{seed}", d.inputs, outputs))
    return Program(seed, graph_of(f"p{seed}", d.inputs, outputs),
                   [[d.held[v][run] for v in d.inputs] for run in range(len(envs))])


def _bind_symbols(d: Draw, graph: Graph) -> None:
    """Every symbol that a size mentions is a dimension of an input."""
    named = {name for v in d.pool for n in v.tensor.shape for name in dims.symbols(n)}
    for node in graph.walk():
        named |= {name for r in node.results for n in r.tensor.shape for name in dims.symbols(n)}
        named |= {name for attr in node.attrs.values() for name in _mentioned(attr)}
    bound = {symbol_name(n) for v in d.inputs for n in v.tensor.shape}
    for name in sorted((named & set(OPEN)) - bound):
        value = Value(TensorType(DType.BOOL, (dims.sym(name),)), name=f"size_{name}")
        d.inputs.append(value)
        d.hold(value, [np.ones(env[name], np.bool_) for env in d.envs])


def _mentioned(attr: object) -> frozenset[str]:
    """The symbols in an attribute."""
    if isinstance(attr, tuple):
        return frozenset().union(*map(_mentioned, attr))
    return dims.symbols(attr) if isinstance(attr, dims.Expr) else frozenset()


def graph_of(name: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> Graph:
    """A graph whose outputs have names of their own, as a model's have."""
    return Graph.of(name, inputs, outputs, output_names=json.dumps([f"y{i}" for i in range(len(outputs))]))


def grow(d: Draw, nodes: int) -> None:
    """Add about this many nodes."""
    for _ in range(nodes):
        for _ in range(6):
            if d.choose.choices(_MAKERS, _WEIGHTS)[0](d) is not None:
                break


def _sizes(choose: random.Random) -> dict[str, int]:
    return {name: 0 if choose.random() < 0.03 else choose.choice(SIZES) for name in OPEN}


def _anything(d: Draw) -> Value:
    value = d.apply(ops.neg, d.fresh(DType.F32, (3,)))
    assert value is not None
    return value
