"""Random ONNX models, compiled and compared with ONNX Runtime."""
from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime

import lepton.backend
from lepton.ir.diagnostics import Exit, LeptonError, UnsupportedError
from lepton.ir.tensor import Array
from tests.conformance.compare import Mismatch
from tests.fuzz import models_tensors, models_windows
from tests.fuzz.explained import explanation
from tests.fuzz.recipe import Recipe
from tests.fuzz.running import forms

EXPLAINED = "explained: "
MAKERS: tuple[tuple[Callable[[Recipe], None], int], ...] = (*models_windows.MAKERS, *models_tensors.MAKERS)
# Operators whose integers come of rounding floats: one level off is no error.
ROUNDED = frozenset(("QuantizeLinear", "QLinearMatMul", "QLinearConv", "DynamicQuantizeLinear", "Cast"))


def random_model(seed: int) -> Recipe:
    """The model that this seed stands for."""
    recipe = Recipe(seed)
    makers, weights = zip(*MAKERS, strict=True)
    recipe.choose.choices(makers, weights)[0](recipe)
    recipe.tail()
    return recipe


def one_model(seed: int) -> None:
    """Check the model of this seed. Raises Mismatch, or UnsupportedError where there is nothing to compare."""
    warnings.simplefilter("ignore")
    recipe = random_model(seed)
    proto = recipe.model()
    try:
        want = _runtime(proto, recipe.feeds)
    except Exception as error:  # whatever it raises: it has no answer
        _compile_and_run(proto, recipe, seed, allowed=True)
        raise UnsupportedError(f"{EXPLAINED}ONNX Runtime has no answer: {recipe.nodes[0].op_type}") from error
    got = _compile_and_run(proto, recipe, seed)
    if problem := _difference(recipe, got, want):
        if why := explanation(recipe, want, got):
            raise UnsupportedError(EXPLAINED + why)
        raise Mismatch(f"{recipe.nodes[0].op_type}: {problem}")


def _compile_and_run(proto: onnx.ModelProto, recipe: Recipe, seed: int, allowed: bool = False) -> list[Array]:
    (form,) = forms(seed, 1)
    try:
        level = random.Random(seed).randrange(4)
        model = lepton.backend.prepare(proto, target=form.target, level=level, math=form.math)
        return [np.asarray(x) for x in model.run(list(recipe.feeds.values()))]
    except LeptonError as error:
        if allowed or error.exit is Exit.UNSUPPORTED:
            raise UnsupportedError(f"{recipe.nodes[0].op_type}: {error.message}") from error
        raise Mismatch(f"{recipe.nodes[0].op_type}: {type(error).__name__}: {error}") from error


def _runtime(proto: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(x) for x in session.run(None, feeds)]


def _difference(recipe: Recipe, got: Sequence[Array], want: Sequence[Array]) -> str:
    """"" if the answers agree. Floats: within 2e-4 of the largest (f16: 4e-3)."""
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return f"output {i}: {a.dtype}{list(a.shape)}, ONNX Runtime {b.dtype}{list(b.shape)}"
        if a.dtype.kind != "f":
            off = np.abs(a.astype(np.int64) - b.astype(np.int64)) if a.dtype.kind in "iu" else np.asarray(a != b)
            room = 1 if recipe.nodes[0].op_type in ROUNDED else 0
            if a.size and int(off.max()) > room:
                return f"output {i}: {int((off > room).sum())} of {a.size} elements differ"
            continue
        if problem := _float_difference(a.astype(np.float64), b.astype(np.float64), 4e-3 if a.itemsize == 2 else 2e-4):
            return f"output {i}: {problem}"
    return ""


def _float_difference(a: Array, b: Array, limit: float) -> str:
    if not np.array_equal(np.isnan(a), np.isnan(b)) or not np.array_equal(a[np.isinf(a)], b[np.isinf(b)]):
        return "NaNs or infinities differ"
    finite = np.isfinite(a) & np.isfinite(b)
    if not finite.any():
        return ""
    size = max(1.0, float(np.abs(b[finite]).max()))
    error = float(np.abs(a[finite] - b[finite]).max())
    return f"off by {error:.3g} where values reach {size:.3g}" if error > limit * size else ""


def replay(seed: int) -> int:
    """Run one model again and show it."""
    recipe = random_model(seed)
    print(onnx.printer.to_text(recipe.model()))
    for name, x in (recipe.feeds | recipe.weights).items():
        print(f"{name}: {x.dtype}{list(x.shape)} {np.array2string(x.reshape(-1)[:12], precision=4)}")
    try:
        one_model(seed)
    except (LeptonError, Mismatch) as error:
        print(f"{type(error).__name__}: {error}")
        outcome: list[Any] = []
        proto = recipe.model()
        for run in (lambda: _runtime(proto, recipe.feeds), lambda: _compile_and_run(proto, recipe, seed)):
            try:
                outcome.append([(x.shape, x.reshape(-1)[:12]) for x in run()])
            except Exception as problem:
                outcome.append(problem)
        print(f"ONNX Runtime: {outcome[0]}\nLepton:       {outcome[1]}")
        return int(isinstance(error, Mismatch))
    print("agrees")
    return 0
