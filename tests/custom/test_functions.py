"""Functions that models call: Python ones, C ones, sizes they give, and what goes wrong in them."""
from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import lepton
from lepton import custom
from lepton._rt import ffi
from lepton.artifact import Model
from lepton.codegen.host import registered
from lepton.frontends import load
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError, UnsupportedError, UsageError
from lepton.ir.evaluate import evaluate
from lepton.ir.types import DType, TensorType
from tests.custom.models import F32, HARD, declare_median
from tests.frontends.build import text_model


def declare_split() -> None:
    """Two results of a size that depends on data, one of another such, one that is known."""
    @custom.host_function("my::Split", lambda x, *, sizes: (
        TensorType(x.dtype, sizes[:1]), TensorType(DType.I64, sizes[:1]), TensorType(x.dtype, (2, sizes[1])),
        TensorType(DType.BOOL, x.shape)), sizes=2)
    def split(x: Any) -> Any:
        return split_numpy(x)


def split_numpy(x: Any) -> Any:
    low = x[x <= 0]
    return x[x > 0], np.flatnonzero(x > 0), np.stack([low, low * 2]), x > 0


def test_python_functions_are_called() -> None:
    declare_median()
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(F32)
    model = lepton.compile(custom.model("my::Median", [x], {"scale": 2.0}))
    seen = []

    def median(x: Any, *, scale: float) -> Any:
        seen.append((x.flags.writeable, x.flags.owndata, x.shape))
        return (np.median(x, axis=-1) * scale).astype(F32)

    model.register("my::Median", median)
    np.testing.assert_allclose(model(x), np.median(x, axis=-1) * 2, rtol=1e-6)
    assert seen == [(False, False, x.shape)]

    def in_place(x: Any, *, scale: float, out: Any) -> None:
        out[0][...] = np.median(x, axis=-1) * scale

    session = model.session()  # keeps the function it was made with
    model.register("my::Median", in_place)
    np.testing.assert_allclose(model(x), np.median(x, axis=-1) * 2, rtol=1e-6)
    assert len(seen) == 1
    session(x)
    assert len(seen) == 2


@pytest.mark.parametrize("x", [HARD.reshape(-1), np.zeros(0, F32), np.ones(1, F32), -np.ones(3, F32)])
def test_sizes_that_the_function_gives(x: np.ndarray) -> None:
    declare_split()
    proto = custom.model("my::Split", [x], {}, outputs=4)
    model = lepton.compile(proto)
    model.register("my::Split", split_numpy)
    for _ in range(2):
        for got, want in zip(model(x), split_numpy(x), strict=True):
            np.testing.assert_array_equal(got, want)
    graph = load(proto)
    for got, want in zip(evaluate(graph, x), split_numpy(x), strict=True):
        np.testing.assert_array_equal(got, want)


def test_in_the_middle_of_a_model() -> None:
    declare_median()
    model = lepton.compile(text_model("""<ir_version: 10, opset_import: ["" : 20, "my" : 1]>
        m (float[N,M] x) => (float[N] y) { a = Relu(x)  b = my.Median<scale = 3.0>(a)  y = Exp(b) }"""))
    model.register("my::Median", lambda x, scale: (np.median(x, axis=-1) * scale).astype(F32))
    for shape in ((4, 3), (1, 1), (3, 8)):
        x = np.random.default_rng(1).normal(size=shape).astype(F32)
        np.testing.assert_allclose(model(x), np.exp(np.median(np.maximum(x, 0), axis=-1) * 3), rtol=1e-5)


def refused(model: Model, function: Callable[..., Any], said: str) -> LeptonError:
    model.register("my::Median", function)
    with pytest.raises(LeptonError, match=said) as caught:
        model(np.ones((2, 3), F32))
    return caught.value


def test_what_goes_wrong_in_a_function_is_told() -> None:
    declare_median()
    model = lepton.compile(custom.model("my::Median", [HARD], {}))
    with pytest.raises(UsageError, match="'my::Median', and no function of that name is registered"):
        model(HARD)
    error = refused(model, lambda x, scale: 1 / 0, "my::Median.*ZeroDivisionError: division by zero")
    assert isinstance(error.__cause__, ZeroDivisionError)
    refused(model, lambda x, scale: x, r"result 0 is f32\[2,3\], expected f32\[2\]")
    refused(model, lambda x, scale: np.ones(2), r"result 0 is f64\[2\], expected f32\[2\]")
    refused(model, lambda x, scale: (x, x), "gave 2 results, expected 1")
    refused(model, lambda x: x, "unexpected keyword argument 'scale'")
    model.register("my::Median", lambda x, scale: np.ones(2, F32))  # and afterwards all is well
    np.testing.assert_array_equal(model(np.ones((2, 3), F32)), [1, 1])


def test_a_function_cannot_run_the_session_that_calls_it() -> None:
    declare_median()
    model = lepton.compile(custom.model("my::Median", [HARD], {}))
    error = refused(model, lambda x, scale: model(x), "runs inside a run of its own")
    assert isinstance(error.__cause__, UsageError)

    def interrupted(x: Any, scale: float) -> Any:
        raise KeyboardInterrupt

    model.register("my::Median", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model(HARD)


def test_registering() -> None:
    declare_median()
    model = lepton.compile(custom.model("my::Median", [HARD], {}))
    assert model.functions == ("my::Median",)
    with pytest.raises(UsageError, match=r"does not call 'my::Mean'; it calls my::Median"):
        model.register("my::Mean", len)
    for wrong in (None, 3.5, "f", 0):
        with pytest.raises(UsageError):
            model.register("my::Median", wrong)
    with pytest.raises(UsageError, match="a context is for C functions"):
        model.register("my::Median", len, context=1)
    with pytest.raises(UsageError, match="expected 'domain::Name'"):
        lepton.register("Median", len)
    lepton.register("my::Median", lambda x, scale: x[:, 0] * 0)  # of all models
    model(np.ones((2, 3), F32))
    model.register("my::Median", lambda x, scale: x[:, 0] * 0 + 1)  # before it comes what is the model's own
    np.testing.assert_array_equal(model(np.ones((2, 3), F32)), [1, 1])


SOURCE = r"""
#include "lepton.h"
lepton_status total(lepton_call *call) {
  const lepton_tensor *x = &call->inputs[0];
  if (x->shape[1] == 0) return call->fail(call, LEPTON_INVALID_ARGUMENT, "nothing to add");
  for (int64_t i = 0; i < x->shape[0]; i++) {
    float sum = 0;
    for (int64_t k = 0; k < x->shape[1]; k++) sum += ((const float *)x->data)[i * x->shape[1] + k];
    ((float *)call->outputs[0].data)[i] = sum;
  }
  ++*(int *)call->context;
  return LEPTON_OK;
}
"""


def test_c_functions_are_called(tmp_path: Path) -> None:
    declare_median()
    root = Path(__file__).parents[2]
    (tmp_path / "total.c").write_text(SOURCE)
    subprocess.run(["cc", "-shared", "-fPIC", f"-I{root}/runtime_c/include", "total.c", "-o", "total.so"],
                   cwd=tmp_path, check=True, timeout=60)
    total, calls = ctypes.CDLL(str(tmp_path / "total.so")).total, ctypes.c_int(0)
    x = np.arange(6, dtype=F32).reshape(2, 3)
    lepton.compile_to(custom.model("my::Median", [x], {}), tmp_path / "model.so")
    model = lepton.load(tmp_path / "model.so")
    assert model.functions == ("my::Median",)
    address = ctypes.cast(total, ctypes.c_void_p).value
    for function in (total, address, ffi.cast("void *", address)):
        model.register("my::Median", function, ctypes.addressof(calls))
        np.testing.assert_array_equal(model(x), x.sum(axis=1))
    assert calls.value == 3
    with pytest.raises(LeptonError, match="nothing to add"):
        model(x[:, :0])


def test_attributes_that_json_cannot_hold_are_refused() -> None:
    node = ops.cast.node(Value(TensorType(DType.F32, (2,))), to=DType.I8)
    with pytest.raises(UnsupportedError, match="my::Cast cannot be handed to a function"):
        registered("my::Cast", node)


def test_strings_go_in_and_out() -> None:
    @custom.host_function("my::Upper", lambda x, *, sizes: (x, TensorType(DType.STRING, sizes)), sizes=1)
    def upper(x: Any) -> Any:
        raise NotImplementedError

    def function(x: Any) -> Any:
        return np.array([t.upper() for t in x], object), np.array([t for t in x if t], object)

    texts = np.array(["grün", "", "a" * 999, "b"], object)
    model = lepton.compile(custom.model("my::Upper", [texts], {}, outputs=2))
    model.register("my::Upper", function)
    for given in (texts, texts[:0], texts[::-1]):
        for got, want in zip(model(given), function(given), strict=True):
            assert got.tolist() == want.tolist()
    model.register("my::Upper", lambda x: (x, np.arange(3)))
    with pytest.raises(LeptonError, match=r"result 1 is i64\[3\], expected string"):
        model(texts)


def test_absent_inputs_and_narrow_types() -> None:
    @custom.host_function("my::Add", lambda a, b, c=None, *, name: a)
    def add(a: Any, b: Any, c: Any = None, *, name: str = "x") -> Any:
        return a + b if c is None else a + b + c

    x = np.array([1, 2.5], ml_dtypes.bfloat16)
    seen = []

    def function(a: Any, b: Any, c: Any, name: str) -> Any:
        seen.append((b is None, c is None, a.dtype, name))
        return a if c is None else a + c

    for arrays, want in (([x, x], x), ([x, x, x], x + x)):
        model = lepton.compile(custom.model("my::Add", arrays, {"name": 'a "b" ü'}))
        model.register("my::Add", function)
        np.testing.assert_array_equal(model(*arrays), want)
    assert seen == [(False, True, x.dtype, 'a "b" ü'), (False, False, x.dtype, 'a "b" ü')]
