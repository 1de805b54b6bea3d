"""Operators of one's own: numpy functions followed, importers, loops, functions of the host; plug-in files."""
from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lepton
from lepton import custom, functions, plugins
from lepton._rt import ffi
from lepton.artifact import Model
from lepton.cli import main as leptonc
from lepton.codegen.group import LOWERINGS
from lepton.codegen.host import HOST_CALLS
from lepton.frontends import load
from lepton.frontends.onnx import importer as _importer  # noqa: F401  (fills IMPORTERS)
from lepton.frontends.onnx.registry import IMPORTERS
from lepton.ir import dims, ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import LeptonError, UnsupportedError, UsageError
from lepton.ir.evaluate import evaluate
from lepton.ir.op import OPS
from lepton.ir.traced import trace
from lepton.ir.types import DType, TensorType
from lepton.ir.verify import verify
from lepton.passes.base import PASSES
from tests.frontends.build import text_model

F32 = np.float32
HARD = np.array([[np.nan, np.inf, -np.inf], [-0.0, 0.0, 1e-40], [1.5, -2.5, 3e38]], F32)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a test declares is gone after it."""
    tables: tuple[dict[Any, Any], ...] = (custom.DECLARED, IMPORTERS, OPS, HOST_CALLS, LOWERINGS, PASSES,
                                          functions.REGISTERED)
    before = [{key: list(value) if isinstance(value, list) else value for key, value in t.items()} for t in tables]
    yield
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)


# --- numpy functions ------------------------------------------------------------------------------

FOLLOWED: dict[str, Callable[[Any], Any]] = {
    "arithmetic": lambda x: (2 - x) / (1 + abs(x)) * x - 0.5,
    "powers": lambda x: x**2 + np.abs(x)**0.5 + np.square(x),
    "choice": lambda x: np.where(x > 0, np.expm1(x), -1.0),
    "choice of numbers": lambda x: np.where((x != x) | ~(x >= 0), 2, 3.5) + np.zeros_like(x),
    "clip": lambda x: np.clip(x, -1, None) + np.minimum(x, 1),
    "rounding": lambda x: np.trunc(x) + np.rint(x) - np.floor(x),
    "rest": lambda x: x % 2 + np.fmod(x, -0.75),
    "sums": lambda x: x.sum(axis=-1) - x.mean(axis=0, keepdims=True).max() + np.min(x),
    "counting": lambda x: np.sum(x > 0, axis=1) * 2 + (x > 0).sum(),
    "softmax": lambda x: np.exp(x - x.max(axis=-1, keepdims=True)) / np.exp(x - x.max(axis=-1, keepdims=True)).sum(
        axis=-1, keepdims=True),
    "gram": lambda x: x @ x.T + np.matmul(np.swapaxes(x, 0, 1), x)[:3, :3],
    "indices": lambda x: x[1:, ::2].reshape(-1) + x[0, -1] + x[-1, None, :1],
    "joining": lambda x: np.concatenate([x, x * 2, np.ones((3, 1), F32)], axis=1).reshape(3, -1, 1)
    - np.stack([x[0]] * 3)[0, 0],
    "kinds": lambda x: x.astype(np.int32) / 2 + np.int64(3),
    "bits": lambda x: (np.clip(x, -9, 9).astype(np.int16) & 5 | 8) << 1,
    "shape": lambda x: x / x.shape[1] + x.ndim + np.shape(x)[1],
}


@pytest.mark.parametrize("open_sizes", [False, True])
@pytest.mark.parametrize("name", FOLLOWED)
def test_followed_functions_mean_what_numpy_says(name: str, open_sizes: bool) -> None:
    function = FOLLOWED[name]
    x = np.array([[0.5, -1.25, 3], [2, 0.75, -0.5], [-3, 1, 0.25]], F32)
    if open_sizes and name in ("gram", "joining"):
        pytest.skip("its sizes must be numbers")
    value = Value(TensorType(DType.F32, (dims.sym("N") if open_sizes else 3, 3)), name="x")
    graph = Graph.of("g", (value,), trace(function, [value], {}))
    verify(graph)
    want = function(x)
    (got,) = evaluate(graph, x)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(lepton.compile(graph)(x), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", [
    lambda x: x if x.sum() > 0 else -x, lambda x: np.sort(x), lambda x: np.hypot(x, x), lambda x: np.asarray(x),
    lambda x: np.add.reduce(x), lambda x: x[[0, 1]], lambda x: np.add(x, x, out=x), lambda x: x // 2,
])
def test_what_cannot_be_followed_is_refused(function: Callable[[Any], Any]) -> None:
    with pytest.raises(UnsupportedError):
        trace(function, [Value(TensorType(DType.F32, (3, 3)))], {})


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_followed_operator() -> None:
    @custom.traced("my::Affine")
    def affine(x: Any, b: Any = None, *, scale: float, parts: tuple[int, ...] = (1, 2), kind: str = "id",
               flip: bool = False) -> Any:
        y = x * scale + sum(parts) + (0 if b is None else b)
        return {"id": y, "tanh": np.tanh(y)}[kind] * (-1 if flip else 1), y

    for pinned in (True, False):
        got = custom.run("my::Affine", HARD, outputs=2, pinned=pinned, scale=2.0, parts=[4, 5], kind="tanh", flip=1)
        for g, w in zip(got, affine(HARD, scale=2.0, parts=(4, 5), kind="tanh", flip=True), strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-6)
    np.testing.assert_array_equal(custom.run("my::Affine", HARD, HARD, scale=0.5), affine(HARD, HARD, scale=0.5)[1])
    np.testing.assert_array_equal(custom.run("my::Affine", np.zeros((0, 2), F32), scale=0.5), np.zeros((0, 2)))
    for attributes, said in (({}, "attribute 'scale' is missing"), ({"scale": 1}, "of type int, expected float"),
                             ({"scale": 1.0, "more": 2}, "attribute 'more'")):
        with pytest.raises(LeptonError, match=said):
            custom.run("my::Affine", HARD, **attributes)
    with pytest.raises(LeptonError, match="at most 2"):
        custom.run("my::Affine", HARD, HARD, HARD, scale=1.0)
    with pytest.raises(LeptonError, match="input 0 is missing"):
        custom.run("my::Affine", None, HARD, scale=1.0)


def test_any_number_of_inputs_and_versions() -> None:
    @custom.traced("my::Total")
    def total(*xs: Any) -> Any:
        return sum(xs)

    @custom.traced("my::Total", since=2)
    def scaled(*xs: Any) -> Any:
        return sum(xs) * 10

    x = np.arange(3, dtype=F32)
    np.testing.assert_array_equal(custom.run("my::Total", x, x, x), x * 3)
    newer = custom.model("my::Total", [x, x], {}, since=2)
    np.testing.assert_array_equal(lepton.compile(newer, dims={"x0_0": 3, "x1_0": 3})(x, x), x * 20)


def test_declared_again_the_last_one_holds() -> None:
    for factor in (2, 3):
        @custom.traced("my::Times")
        def times(x: Any, *, factor: int = factor) -> Any:
            return x * 1.0 * factor

        @custom.host_function("my::Host", lambda x: x)
        def host(x: Any) -> Any:
            return x
    np.testing.assert_array_equal(custom.run("my::Times", np.ones(2, F32)), [3, 3])


@pytest.mark.parametrize("name", ["Relu", "::Relu", "my::", "ai.onnx::Relu", "ai.onnx.ml::Scaler"])
def test_names(name: str) -> None:
    with pytest.raises(UsageError):
        custom.importer(name)(lambda c: c.x(0))


# --- functions of the host ------------------------------------------------------------------------

def declare_median() -> None:
    @custom.host_function("my::Median", lambda x, *, scale: TensorType(x.dtype, x.shape[:-1]))
    def median(x: Any, *, scale: float = 1.0) -> Any:
        return (np.median(x, axis=-1) * scale).astype(x.dtype)


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
    import ctypes

    declare_median()
    root = Path(__file__).parents[1]
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
    from lepton.codegen.host import registered

    node = ops.cast.node(Value(TensorType(DType.F32, (2,))), to=DType.I8)
    with pytest.raises(UnsupportedError, match="my::Cast cannot be handed to a function"):
        registered("my::Cast", node)


# --- plug-in files --------------------------------------------------------------------------------

PLUGIN = """
import numpy as np
from lepton import custom

@custom.traced("my::Twice")
def twice(x):
    return x * {factor}
"""


def test_plugin_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.ones(2, F32)
    onnx.save(custom.model("my::Twice", [x], {}), "twice.onnx")
    assert leptonc(["twice.onnx", "-q"]) == 3
    assert "my::Twice" in capsys.readouterr().err
    Path("plugin.py").write_text(PLUGIN.format(factor=2.0))
    assert leptonc(["twice.onnx", "-q", "--load-plugin", "plugin.py"]) == 0
    np.testing.assert_array_equal(lepton.load("twice.so")(x), [2, 2])
    for factor in (2.0, 2.5):  # loaded once, and again when it has changed
        Path("plugin.py").write_text(PLUGIN.format(factor=factor))
        np.testing.assert_array_equal(lepton.compile("twice.onnx", plugins=("plugin.py",))(x), x * F32(factor))
    with pytest.raises(UsageError, match="gone"):
        lepton.compile("twice.onnx", plugins=("gone.py",))


def test_passes_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text('from lepton.passes.base import Pass\nclass Mine(Pass):\n    name = "p-mine"\n'
                    '    def run(self, graph):\n        return False\n')
    plugins.load([file])
    assert "p-mine" in PASSES
    file.write_text("x = 1\n")
    for bad in (file, tmp_path / "nothing.py", tmp_path):
        with pytest.raises(UsageError):
            plugins.load([bad])
    file.write_text("import lepton\nlepton.register('my::F', len)\n")  # a function is enough
    plugins.load([file])
