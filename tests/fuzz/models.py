"""Random ONNX models, compiled and compared with ONNX Runtime."""
from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime

import lepton.backend
import lepton.frontends
from lepton.ir.diagnostics import Exit, LeptonError, UnsupportedError
from lepton.ir.tensor import Array
from tests.conformance.compare import Mismatch
from tests.fuzz import models_tensors, models_windows
from tests.fuzz.explained import Row, explanation
from tests.fuzz.judge import Expected, expect
from tests.fuzz.recipe import Recipe
from tests.fuzz.running import HERE, Form, arrange, forms

EXPLAINED = "explained: "
MAKERS: tuple[tuple[Callable[[Recipe], None], int], ...] = (*models_windows.MAKERS, *models_tensors.MAKERS)
# ONNX Runtime's own error, of an element, by the floats' size.
RELATIVE = {2: 2e-3, 4: 1e-5, 8: 1e-9}
TINY = 1e-2     # what elements are held against at least: approximations of ONNX Runtime's err by 1e-7 near 0
SPREAD = 4      # times what rounding errors, drawn at random, make of the element


def random_model(seed: int) -> Recipe:
    """The model that this seed stands for."""
    recipe = Recipe(seed)
    makers, weights = zip(*MAKERS, strict=True)
    recipe.choose.choices(makers, weights)[0](recipe)
    recipe.tail()
    return recipe


def one_model(seed: int, targets: Sequence[str] = HERE) -> None:
    """Check the model of this seed. Raises Mismatch, or UnsupportedError where there is nothing to compare."""
    warnings.simplefilter("ignore")
    recipe = random_model(seed)
    proto, op = recipe.model(), recipe.nodes[0].op_type
    form = form_of(seed, targets)
    got = _compile_and_run(proto, recipe.feeds, form, op)
    expected = _meaning(proto, list(recipe.feeds.values()), op)
    if problem := expected.problem(got):
        raise Mismatch(f"{op}: not what the interpreter says: {problem}")
    try:
        want = _runtime(proto, recipe.feeds)
    except Exception as error:  # whatever it raises: it has no answer
        raise UnsupportedError(f"{EXPLAINED}ONNX Runtime has no answer: {op}") from error
    if not (problem := difference(got, want, expected)):
        return
    row = explanation(recipe, want, got)
    if row is None:
        raise Mismatch(f"{op}: {problem}")
    if row.settle is not None:
        _settle(row, recipe, form, got, expected)
    raise UnsupportedError(EXPLAINED + row.why)


def _settle(row: Row, recipe: Recipe, form: Form, got: Sequence[Array], expected: Expected) -> None:
    """Compare once more, what is in dispute said so that both read it alike. Raises Mismatch."""
    assert row.settle is not None
    other = row.settle(recipe)
    proto = other.model()
    try:
        want = _runtime(proto, other.feeds)
    except Exception as error:
        raise UnsupportedError(f"{EXPLAINED}{row.why}; ONNX Runtime cannot be told otherwise") from error
    if not row.same:
        got = _compile_and_run(proto, other.feeds, form, row.op)
        expected = _meaning(proto, list(other.feeds.values()), row.op)
    if problem := difference(got, want, expected):
        raise Mismatch(f"{row.op}, {row.why}; and beyond that: {problem}")


def _meaning(proto: onnx.ModelProto, feeds: Sequence[Array], op: str) -> Expected:
    """What the imported graph means, with rounding errors. Raises UnsupportedError, Mismatch."""
    try:
        graph = lepton.frontends.load(proto)
        return expect(graph, feeds, 24)
    except LeptonError as error:
        if error.exit is Exit.UNSUPPORTED:
            raise UnsupportedError(f"{op}: {error.message}") from error
        raise Mismatch(f"{op}: the interpreter: {error}") from error


def _compile_and_run(proto: onnx.ModelProto, feeds: dict[str, Array], form: Form, op: str) -> list[Array]:
    arrange(form.target, late=True)
    try:
        model = lepton.backend.prepare(proto, target=form.target, level=form.level, math=form.math)
        return [np.asarray(x) for x in model.run(list(feeds.values()))]
    except LeptonError as error:
        if error.exit in (Exit.UNSUPPORTED, Exit.USAGE):
            raise UnsupportedError(f"{op}: {error.message}") from error
        raise Mismatch(f"{op}: {type(error).__name__}: {error}") from error


def _runtime(proto: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(x) for x in session.run(None, feeds)]


def difference(got: Sequence[Array], want: Sequence[Array], expected: Expected) -> str:
    """"" if Lepton's answers agree with ONNX Runtime's. Integers exactly, but where a rounding error decides; floats
    element by element, within what rounding errors make of each."""
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return f"output {i}: {a.dtype}{list(a.shape)}, ONNX Runtime {b.dtype}{list(b.shape)}"
        stack = np.stack([s[i] for s in expected.samples])
        wrong = _floats_differ(a, b, stack) if a.dtype.kind == "f" else (a != b) & (stack == stack[0]).all(axis=0)
        if wrong.any():
            at = tuple(int(k) for k in np.argwhere(wrong)[0])
            return (f"output {i}: {int(wrong.sum())} of {a.size} elements, first {list(at)}: {a[at]!r}, "
                    f"ONNX Runtime {b[at]!r}")
    return ""


def _floats_differ(got: Array, want: Array, samples: Array) -> Array:
    a, b, stack = (x.astype(np.float64) for x in (got, want, samples))
    kinds = np.isnan(stack) + 2 * np.isposinf(stack) + 4 * np.isneginf(stack)
    settled = (kinds == kinds[0]).all(axis=0)
    finite = np.isfinite(a) & np.isfinite(b)
    numbers = np.where(np.isfinite(stack), stack, 0)
    room = RELATIVE[got.itemsize] * (np.abs(b) + TINY) + SPREAD * (numbers.max(axis=0) - numbers.min(axis=0))
    same_kind = (np.isnan(a) == np.isnan(b)) & (np.where(np.isinf(a), a, 0) == np.where(np.isinf(b), b, 0))
    off = np.where(finite, np.abs(np.where(finite, a, 0) - np.where(finite, b, 0)) > room, False)
    return np.asarray(settled & (~same_kind | off))


def form_of(seed: int, targets: Sequence[str]) -> Form:
    """The way that the model of this seed is compiled."""
    (form,) = forms(seed, 1, targets)
    return replace(form, level=random.Random(seed).randrange(4))


def replay(seed: int, targets: Sequence[str] = HERE) -> int:
    """Run one model again and show it."""
    recipe = random_model(seed)
    print(onnx.printer.to_text(recipe.model()))
    for name, x in (recipe.feeds | recipe.weights).items():
        print(f"{name}: {x.dtype}{list(x.shape)} {np.array2string(x.reshape(-1)[:12], precision=4)}")
    try:
        one_model(seed, targets)
    except (LeptonError, Mismatch) as error:
        print(f"{type(error).__name__}: {error}")
        outcome: list[Any] = []
        proto = recipe.model()
        op, form = recipe.nodes[0].op_type, form_of(seed, targets)
        for run in (lambda: _runtime(proto, recipe.feeds), lambda: _compile_and_run(proto, recipe.feeds, form, op)):
            try:
                outcome.append([(x.shape, x.reshape(-1)[:12]) for x in run()])
            except Exception as problem:
                outcome.append(problem)
        print(f"ONNX Runtime: {outcome[0]}\nLepton:       {outcome[1]}")
        return int(isinstance(error, Mismatch))
    print("agrees")
    return 0
