"""Random inputs for a graph, and when two answers count as the same: what self-checks and golden tests run on."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from lepton.ir import dims
from lepton.ir.core import Graph
from lepton.ir.diagnostics import LeptonError
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType

Accuracy = Literal["exact", "reassociating", "approximate"]

# In units of the element type's epsilon, relative to the largest element. Even an exact rewrite may change the order
# in which the interpreter's matrix product adds, hence not 0.
TOLERANCE: Mapping[Accuracy, float] = {"exact": 64, "reassociating": 4096, "approximate": 262144}
LARGEST: Mapping[Accuracy, float] = {"exact": 0.02, "reassociating": 0.06, "approximate": 0.2}  # for narrow types


def sizes_for(graph: Graph, first: int = 2) -> dict[str, int]:
    """A small number for each symbol of the graph's inputs, such that every dimension is positive."""
    shape_dims = [d for v in graph.inputs if isinstance(v.type, TensorType) for d in v.type.shape]
    names = sorted({s for d in shape_dims for s in dims.symbols(d)})
    for start in range(first, first + 8):
        sizes = {name: start + i % 3 for i, name in enumerate(names)}
        if all(dims.evaluate(d, sizes) > 0 for d in shape_dims):
            return sizes
    raise LeptonError(f"no small sizes make the inputs of '{graph.name}' non-empty", help="give the sizes")


def random_inputs(graph: Graph, seed: int = 0, sizes: Mapping[str, int] | None = None) -> list[Array]:
    """One array for each input. Integers are -2 … 1, so that they can serve as indices."""
    rng = np.random.default_rng(seed)
    env = dict(sizes) if sizes is not None else sizes_for(graph)
    return [random_array(rng, v.tensor.dtype, [dims.evaluate(d, env) for d in v.tensor.shape]) for v in graph.inputs]


def random_run(graph: Graph, seed: int = 0) -> tuple[list[Array], list[Any]]:
    """Random inputs and what the graph makes of them, with the first small sizes at which it runs.

    Raises LeptonError where none does."""
    from lepton.ir.evaluate import evaluate  # it needs the op set, which this module's other users do without

    failed: LeptonError | None = None
    for first in (2, 3, 4, 8, 1, 16, 64, 512):
        try:
            inputs = random_inputs(graph, seed, sizes_for(graph, first))
            return inputs, evaluate(graph, *inputs)
        except LeptonError as error:
            failed = failed or error
    assert failed is not None
    raise failed


def random_array(rng: np.random.Generator, dtype: DType, shape: Sequence[int]) -> Array:
    """Elements of moderate size: normal, a few small integers, random bools or letters."""
    if dtype is DType.BOOL:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtype is DType.STRING:
        return np.array(rng.choice(list("abcd"), shape), dtype=object)
    if dtype.is_integer:
        wide = dtype.bits in (8, 16)
        low, high = (0, 200 if wide else 2) if dtype.is_unsigned else (-100, 100) if wide else (-2, 2)
        return rng.integers(low, high, shape).astype(dtype.numpy)
    if dtype.is_complex:
        return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype.numpy)
    array: Array = np.asarray(rng.standard_normal(shape))
    return np.abs(array).astype(dtype.numpy) if dtype is DType.F8E8M0 else array.astype(dtype.numpy)


def difference(want: Sequence[Any], got: Sequence[Any], accuracy: Accuracy | float = "exact") -> str:
    """"" if the answers agree, else where and by how much they do not. A number is a relative tolerance."""
    if len(want) != len(got):
        return f"{len(got)} results, expected {len(want)}"
    for i, (a, b) in enumerate(zip(want, got, strict=True)):
        if text := _difference(np.asarray(a), np.asarray(b), accuracy):
            return f"result {i}: {text}"
    return ""


def _difference(want: Array, got: Array, accuracy: Accuracy | float) -> str:
    if want.shape != got.shape or want.dtype != got.dtype:
        return f"{got.dtype}{list(got.shape)}, expected {want.dtype}{list(want.shape)}"
    if want.dtype.kind in "biuO" or DType.of(want).is_integer or want.size == 0:
        wrong = np.asarray(want != got)
        return f"{int(wrong.sum())} of {wrong.size} elements differ" if wrong.any() else ""
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    a, b = want.astype(wide), got.astype(wide)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return "infinities or NaNs differ"
    if not finite.any():
        return ""
    error, size = float(np.abs(a[finite] - b[finite]).max()), float(np.abs(a[finite]).max())
    relative = accuracy if isinstance(accuracy, float) else _relative(accuracy, DType.of(want))
    limit = relative * max(size, 1)
    return f"off by {error:.3g} where values reach {size:.3g}; allowed {limit:.3g}" if error > limit else ""


def _relative(accuracy: Accuracy, dtype: DType) -> float:
    return min(TOLERANCE[accuracy] * _epsilon(dtype), LARGEST[accuracy])


def _epsilon(dtype: DType) -> float:
    match dtype:
        case DType.F64 | DType.C128:
            return 2.0**-52
        case DType.F32 | DType.C64:
            return 2.0**-23
        case DType.F16:
            return 2.0**-16  # of which 64 are one step of the type
        case _:
            return 2.0**-13
