"""Random typed graphs made from OPS, for property tests; hypothesis shrinks them."""
from __future__ import annotations

import inspect
from collections.abc import Callable
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

Draw = Callable[[st.SearchStrategy[Any]], Any]

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


@st.composite
def tensors(draw: Draw) -> Tensor:
    """Constants of every element type, small, large, empty and repeated."""
    dtype = draw(st.sampled_from(list(DType)))
    shape = draw(st.sampled_from([(), (1,), (3,), (2, 3), (0, 3), (40,), (5, 7)]))
    array = elements(dtype, int(np.prod(shape)), draw(st.integers(0, 1000))).reshape(shape)
    if array.size and draw(st.booleans()):
        array = np.broadcast_to(array.reshape(-1)[0], shape)
    return Tensor.of(np.array(array), dtype) if dtype is DType.STRING else Tensor.of(np.array(array))


@st.composite
def values(draw: Draw) -> Value:
    """A value to be an input."""
    dtype = draw(st.sampled_from([DType.F32, DType.F32, DType.F32, DType.I64, DType.BOOL, DType.F16, DType.U8]))
    shape = draw(st.lists(st.sampled_from(DIMS[:8]), max_size=4))
    return Value(TensorType(dtype, tuple(shape)), name=draw(st.sampled_from(NAMES)))


def attribute(draw: Draw, name: str, annotation: str, rank: int) -> Any:
    """A value for an attribute of this declaration; it need not fit."""
    if name == "perm":
        return tuple(draw(st.permutations(range(rank))))
    if name in ("axis", "axes"):
        axis = draw(st.integers(0, max(rank - 1, 0)))
        return axis if name == "axis" else (axis,)
    if name in FIXED:
        return draw(st.sampled_from(FIXED[name]))
    if annotation == "Tensor":
        return draw(tensors())
    if annotation.startswith("tuple["):
        inner = annotation[6:].split(",")[0].strip()
        return tuple(draw(st.sampled_from(KINDS[inner])) for _ in range(rank))
    return draw(st.sampled_from(KINDS[annotation]))


def applied(draw: Draw, op: Op, pool: list[Value]) -> tuple[Value, ...]:
    """The results of the op on some values of the pool; () where they do not fit."""
    least, most = op.arity
    count = draw(st.integers(least, least + 1 if most is None else most))
    first = draw(st.sampled_from(pool))
    alike = [v for v in pool if v.type == first.type]
    operands = [first, *(draw(st.sampled_from([*alike, draw(st.sampled_from(pool)), None])) for _ in range(count - 1))]
    attrs = {}
    for name, default in op.attributes.items():
        if default is inspect.Parameter.empty or draw(st.booleans()):
            attrs[name] = attribute(draw, name, str(op.signature.parameters[name].annotation), first.tensor.rank)
    loc = tuple(draw(st.lists(st.sampled_from(LOCATIONS), max_size=2)))
    try:
        node = op.node(*operands[:count], loc=loc, **attrs)
    except Exception:  # type rules answer for what frontends give them, not for any nonsense
        return ()
    for result in node.results:
        result.name = draw(st.sampled_from(NAMES))
    return node.results


def nested(draw: Draw, pool: list[Value], depth: int) -> tuple[Value, ...]:
    """The results of a fusion or an if around a random graph."""
    body = draw(graphs(depth=depth - 1))
    operands: list[Value] = []
    for wanted in body.inputs:
        fits = [v for v in pool if v.type == wanted.type]
        if not fits:
            return ()
        operands.append(draw(st.sampled_from(fits)))
    if draw(st.booleans()):
        return ops.fusion.node(*operands, kind=draw(st.sampled_from(TEXTS)), regions=[body]).results
    flags = [v for v in pool if v.type == TensorType(DType.BOOL, ())]
    if not flags:
        return ()
    other = clone(body)
    other.name = "else"
    return ops.if_.node(flags[0], *operands, regions=[body, other]).results


PLAIN = tuple(op for op in OPS.values() if not op.has(Trait.REGIONS))


@st.composite
def graphs(draw: Draw, *, depth: int = 2) -> Graph:
    """A graph of a few nodes; outputs are any of its values."""
    inputs = draw(st.lists(values(), min_size=1, max_size=3))
    names: set[str] = set()
    for value in inputs:
        value.name = value.name if value.name not in names else None
        names |= {value.name} if value.name else set()
    pool = [*inputs, ops.constant(value=Tensor.of(np.array(True)))]
    for _ in range(draw(st.integers(0, 8))):
        if depth > 0 and draw(st.integers(0, 4)) == 0:
            pool += nested(draw, pool, depth)
        else:
            pool += applied(draw, draw(st.sampled_from(PLAIN)), pool)
    outputs = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3))
    for value in dict.fromkeys(outputs):
        value.name = None if value not in inputs else value.name
    metadata = draw(st.dictionaries(st.sampled_from(TEXTS), st.sampled_from(TEXTS), max_size=2))
    name = draw(st.sampled_from(["main", "g.1", "a b", ""]))
    graph = Graph.of(name, inputs, outputs)
    graph.metadata.update(metadata)
    return graph
