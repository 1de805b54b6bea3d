"""Random typed graphs made from OPS, for property tests; hypothesis shrinks them."""
from __future__ import annotations

import inspect
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lepton.ir import ops
from lepton.ir.core import Graph, Value, clone
from lepton.ir.diagnostics import Location
from lepton.ir.dims import Dim, dim_max, dim_min, floordiv, mod, sym
from lepton.ir.op import OPS, Op, Trait
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType

N, M, BATCH = sym("N"), sym("M"), sym("batch_size")
DIMS: tuple[Dim, ...] = (
    1, 2, 3, 4, 0, N, M, N + 1, 2 * N, N * M, floordiv(N + 1, 2), mod(N, 4), dim_max(N, M), dim_min(N * BATCH, 7),
    BATCH - 1 + M * M, sym("f16"), sym("inf"),
)
NAMES = (None, "x", "y", "hidden.1", "/layer/conv_0", "1", "", "return", "graph", "élan", 'quo"te', "_", "a b")
TEXTS = ("", "none", "tanh", 'a "quoted" \\ text', "new\nline", "comma,) > // no comment", "Größe")
FLOATS = (0.0, -0.0, 1.0, 0.1, -2.5e-30, 1e300, float("inf"), float("-inf"), float("nan"))
LOCATIONS = (
    Location("conv1", "Conv"), Location("it's (odd); node 'x'", "Relu"), Location("a\\b\nc"),
    Location("n", "Add", "dir/resnet.onnx"), Location("n", "", "m.onnx", 12),
)
FIXED: dict[str, tuple[Any, ...]] = {
    "layout": ("nchw", "nhwc"), "mode": ("constant", "nearest", "linear", "edge"), "reduction": ("none", "add"),
    "direction": ("forward", "bidirectional"), "symbol": ("d0", "d1"), "symbols": (("d0", "d1"),),
    "approximate": ("none", "tanh"), "group": (1, 2), "carried": (0, 1),
}
KINDS: dict[str, tuple[Any, ...]] = {
    "bool": (False, True), "int": (0, 1, 2, 3), "float": FLOATS, "str": TEXTS, "Dim": DIMS, "DType": tuple(DType),
}


def elements(dtype: DType, size: int, seed: int) -> np.ndarray[Any, Any]:
    """Any bit patterns of the type: NaNs with payloads, subnormals, infinities."""
    rng = np.random.default_rng(seed)
    if dtype is DType.STRING:
        array = np.empty(size, object)
        array[:] = [TEXTS[i] for i in rng.integers(0, len(TEXTS), size)]
        return array
    if dtype is DType.BOOL:
        return rng.integers(0, 2, size).astype(np.bool_)
    if dtype.bits < 8:
        codes = rng.integers(0, 1 << dtype.bits, size)
        if dtype is DType.F4E2M1:
            return codes.astype(np.uint8).view(dtype.numpy)
        return (codes - (1 << dtype.bits - 1 if dtype.is_signed else 0)).astype(dtype.numpy)
    return np.frombuffer(rng.bytes(size * dtype.numpy.itemsize), dtype.numpy)


def tensor(rng: Random) -> Tensor:
    """A constant of any element type: small, large, empty or repeated."""
    dtype = rng.choice(list(DType))
    shape = rng.choice([(), (1,), (3,), (2, 3), (0, 3), (2, 0), (40,), (5, 7)])
    array = elements(dtype, int(np.prod(shape)), rng.randrange(1 << 30)).reshape(shape)
    if array.size and rng.random() < 0.5:
        array = np.broadcast_to(array.reshape(-1)[0], shape)
    return Tensor.of(np.array(array), dtype) if dtype is DType.STRING else Tensor.of(np.array(array))


def tensors() -> st.SearchStrategy[Tensor]:
    return st.integers(0, 1 << 30).map(lambda seed: tensor(Random(seed)))


def value(rng: Random) -> Value:
    """A value to be an input."""
    dtype = rng.choice([DType.F32, DType.F32, DType.F32, DType.I64, DType.I32, DType.BOOL, DType.F16, DType.U8])
    shape = rng.choices(DIMS[:8], k=rng.choice([0, 1, 2, 2, 3, 4]))
    return Value(TensorType(dtype, tuple(shape)), name=rng.choice(NAMES))


def attribute(rng: Random, name: str, annotation: str, rank: int) -> Any:
    """A value for an attribute of this declaration; it need not fit."""
    if name == "perm":
        return tuple(rng.sample(range(rank), rank))
    if name in ("axis", "axes"):
        axis = rng.randrange(max(rank, 1))
        return axis if name == "axis" else (axis,)
    if name in FIXED:
        return rng.choice(FIXED[name])
    if annotation.endswith(" | None"):
        return None if rng.random() < 0.5 else attribute(rng, name, annotation.removesuffix(" | None"), rank)
    if annotation == "Tensor":
        return tensor(rng)
    if annotation.startswith("tuple["):
        inner = annotation[6:].split(",")[0].strip()
        count = rng.choice([rank, rank, max(rank - 2, 0)])
        return tuple(rng.choice(KINDS[inner]) for _ in range(count))
    return rng.choice(KINDS[annotation])


def applied(rng: Random, op: Op, pool: list[Value]) -> tuple[Value, ...]:
    """The results of the op on some values of the pool; () where they do not fit."""
    least, most = op.arity
    count = rng.randint(least, least + 1 if most is None else most)
    first = rng.choice(pool)
    alike = [v for v in pool if v.type == first.type]
    operands = [first, *(rng.choice([*alike, rng.choice(pool), None]) for _ in range(count - 1))]
    attrs = {}
    for name, default in op.attributes.items():
        if default is inspect.Parameter.empty or rng.random() < 0.3:
            attrs[name] = attribute(rng, name, str(op.signature.parameters[name].annotation), first.tensor.rank)
    loc = tuple(rng.sample(LOCATIONS, k=rng.choice([0, 0, 1, 2])))
    try:
        node = op.node(*operands[:count], loc=loc, **attrs)
    except Exception:  # type rules answer for what frontends give them, not for any nonsense
        return ()
    for result in node.results:
        result.name = rng.choice(NAMES)
    return node.results


def nested(rng: Random, pool: list[Value], depth: int) -> tuple[Value, ...]:
    """The results of a fusion or an if around a random graph of the pool's types."""
    operands = rng.sample(pool, k=min(len(pool), rng.randint(0, 3)))
    body = random_graph(rng, rng.randint(0, 6), depth - 1, [Value(v.type, name=rng.choice(NAMES)) for v in operands])
    if rng.random() < 0.5:
        return ops.fusion.node(*operands, kind=rng.choice(TEXTS), regions=[body]).results
    other = clone(body)
    other.name = "else"
    flag = ops.constant(value=Tensor.of(np.array(rng.random() < 0.5)))
    return ops.if_.node(flag, *operands, regions=[body, other]).results


PLAIN = tuple(op for op in OPS.values() if not op.has(Trait.REGIONS))


def random_graph(rng: Random, steps: int, depth: int, inputs: list[Value]) -> Graph:
    """A graph of about `steps` nodes; what nobody reads is an output, and some other values are."""
    names: set[str] = set()
    for given in inputs:
        given.name = given.name if given.name not in names else None
        names |= {given.name} if given.name else set()
    pool = list(inputs)
    for _ in range(steps):
        if depth > 0 and rng.random() < 0.2:
            pool += nested(rng, pool, depth)
        for _ in range(6):  # most ops fit few operands: try some
            if made := applied(rng, rng.choice(PLAIN), pool or [ops.constant(value=tensor(rng))]):
                pool += made
                break
    unread = [v for v in pool if v.producer is not None and not v.uses]
    outputs = [*unread, *rng.choices(pool, k=rng.randint(0, 2) if pool else 0)] or [ops.constant(value=tensor(rng))]
    for i, given in enumerate(dict.fromkeys(v for v in outputs if v not in inputs)):
        given.name = rng.choice([None, f"out{i}", f"out:{i}"])
    graph = Graph.of(rng.choice(["main", "g.1", "a b", ""]), inputs, outputs)
    graph.metadata.update({rng.choice([*TEXTS, 'name']): rng.choice(TEXTS) for _ in range(rng.randint(0, 2))})
    return graph


@st.composite
def graphs(draw: st.DrawFn, *, depth: int = 2) -> Graph:
    """Graphs of up to 15 nodes and their regions'."""
    rng = Random(draw(st.integers(0, 1 << 30)))
    return random_graph(rng, draw(st.integers(0, 15)), depth, [value(rng) for _ in range(draw(st.integers(0, 3)))])
