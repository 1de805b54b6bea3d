"""Reading models: every element type in every form, and what must be refused."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton.frontends import load
from lepton.frontends.onnx import wire
from lepton.frontends.onnx.limits import LIMITS
from lepton.frontends.onnx.model import read
from lepton.frontends.onnx.tensors import DTYPES, Store
from lepton.ir.diagnostics import Exit, LeptonError, UsageError
from lepton.ir.evaluate import evaluate
from lepton.ir.printer import show
from lepton.ir.sidecar import beside, save_constants
from lepton.ir.types import DType
from tests.frontends.build import floats, imported, single

Change = Callable[[onnx.ModelProto], object]


def add_model(weight: TensorProto | None = None) -> onnx.ModelProto:
    """y = x + w over f32[4]."""
    w = weight or numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"], name="plus")], "g", info[:1], info[1:], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


# --- tensors --------------------------------------------------------------------------------------

NUMBERS = [code for code, d in DTYPES.items() if d is not DType.STRING]


@pytest.mark.parametrize("code", NUMBERS, ids=lambda code: DTYPES[code].value)
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_every_element_type(code: int, raw: bool, count: int) -> None:
    dtype = DTYPES[code]
    one, other = np.array([1, 2 if dtype is DType.F8E8M0 else 0]).astype(dtype.numpy)
    values = np.array([one, other, one, one, other][:count], dtype.numpy)
    proto = numpy_helper.from_array(values, "t") if raw else helper.make_tensor("t", code, [count], values)
    got = Store(inline_raw=True).tensor(proto, "initialiser").array
    assert got.dtype == dtype.numpy
    assert got.tolist() == values.tolist()


def test_strings() -> None:
    proto = TensorProto(name="t", data_type=TensorProto.STRING, dims=[2], string_data=["grün".encode(), b"b"])
    assert Store().tensor(proto, "initialiser").array.tolist() == ["grün", "b"]


def test_sub_byte_types_are_packed_low_bits_first() -> None:
    proto = TensorProto(name="t", data_type=TensorProto.INT4, dims=[3], raw_data=bytes([0xF1, 0x08]))
    assert Store(inline_raw=True).tensor(proto, "t").array.tolist() == [1, -1, -8]


def test_sparse_initialiser() -> None:
    values = numpy_helper.from_array(np.array([2.0, 3.0], np.float32), "w")
    model = add_model()
    del model.graph.initializer[:]
    indices = numpy_helper.from_array(np.array([0, 3]), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    assert evaluate(imported(model), np.zeros(4, np.float32))[0].tolist() == [2, 0, 0, 3]


def test_weights_are_views_of_the_file(tmp_path: Path) -> None:
    """Reading a model allocates for its graph, not for its weights."""
    import tracemalloc

    big = np.ones((1 << 22,), np.float32)
    model = single("Add", {"x": floats(1)}, constants={"w": big})
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    tracemalloc.start()
    graph = load(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < big.nbytes // 8
    weight = next(n for n in graph.nodes if n.op.name == "constant").attrs["value"]
    assert not weight.array.flags.owndata
    assert weight.array.sum() == big.size


@pytest.mark.parametrize("source", ["path", "bytes", "proto"])
def test_forms_of_a_model(source: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(add_model(), path)
    forms: dict[str, Any] = {"path": path, "bytes": path.read_bytes(), "proto": add_model()}
    given = forms[source]
    assert evaluate(load(given), np.ones(4, np.float32))[0].tolist() == [1, 2, 3, 4]


# --- what is wrong with a model -------------------------------------------------------------------


def _weight(**fields: Any) -> TensorProto:
    return TensorProto(**{"name": "w", "data_type": TensorProto.FLOAT, "dims": [4], "raw_data": bytes(16), **fields})


def _duplicate(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Neg", ["x"], ["y"], name="again"))


def _cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[1] = "b"
    model.graph.node.append(helper.make_node("Neg", ["y"], ["b"], name="back"))


def _order(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[1] = "b"
    model.graph.node.append(helper.make_node("Neg", ["x"], ["b"], name="late"))


def _recursive(model: onnx.ModelProto) -> None:
    body = [helper.make_node("F", ["a"], ["b"], domain="me")]
    model.functions.append(helper.make_function("me", "F", ["a"], ["b"], body, [helper.make_opsetid("me", 1)]))


def _twice(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.extend([helper.make_attribute("k", 1)] * 2)


def _unknown(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("k", 1))


BROKEN: dict[str, tuple[Change, str]] = {
    "no graph": (lambda m: m.ClearField("graph"), "holds no graph"),
    "undefined": (lambda m: m.graph.node[0].input.__setitem__(1, "nowhere"), "'nowhere' is read but nothing"),
    "output": (lambda m: setattr(m.graph.output[0], "name", "nope"), "gives 'nope'"),
    "duplicate": (_duplicate, "'y' is defined twice: result of a node\n  --> node 'again'"),
    "cycle": (_cycle, "cycle through 'b'\n  --> node 'plus'"),
    "order": (_order, "'b' is read before node 'late' (Neg) computes it\n  --> node 'plus'"),
    "recursion": (_recursive, "calls itself: F -> F"),
    "attribute twice": (_twice, "an attribute is given twice"),
    "unknown attribute": (_unknown, "attribute 'k' of Add"),
    "unknown op": (lambda m: setattr(m.graph.node[0], "op_type", "Frobnicate"), "operator Frobnicate (opset 17)"),
    "unknown domain": (lambda m: setattr(m.graph.node[0], "domain", "far.away"), "no opset of domain 'far.away'"),
    "opset": (lambda m: setattr(m.opset_import[0], "version", 99), "opset 99"),
    "rank unknown": (lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"), "rank is unknown"),
    "no type": (lambda m: m.graph.input[0].ClearField("type"), "input 'x' has no type"),
    "element type": (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 77), "element type 77"),
    "shapes": (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 3), "node 'plus' (Add)"),
    "few inputs": (lambda m: m.graph.node[0].input.pop(), "input 1 is missing"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_models_are_refused(name: str) -> None:
    change, message = BROKEN[name]
    model = add_model()
    change(model)
    with pytest.raises(LeptonError) as caught:
        load(model)
    assert message in str(caught.value)


WEIGHTS = {
    "short": (_weight(raw_data=bytes(12)), "12 bytes of raw data"),
    "long": (_weight(raw_data=bytes(20)), "20 bytes of raw data"),
    "negative": (_weight(dims=[-4]), "negative dimension"),
    "overflow": (_weight(dims=[2**40, 2**40]), "more elements than an int64"),
    "overflow and empty": (_weight(dims=[2**62, 2**62, 0]), "more elements than an int64"),
    "huge": (_weight(dims=[2**45]), "bytes"),
    "rank": (_weight(dims=[1] * 65), "rank 65"),
    "type": (_weight(data_type=99), "element type 99"),
    "undefined": (_weight(data_type=0), "element type 0"),
    "typed": (TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], float_data=[1, 2]),
              "2 elements in float_data"),
    "raw strings": (_weight(data_type=TensorProto.STRING), "strings in raw_data"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_broken_weights_are_refused(name: str) -> None:
    weight, message = WEIGHTS[name]
    with pytest.raises(LeptonError, match="w") as caught:
        load(add_model(weight))
    assert message in str(caught.value)


def test_all_unsupported_nodes_are_reported_at_once() -> None:
    nodes = [helper.make_node("Foo", ["x"], [f"a{i}"], name=f"foo{i}") for i in range(7)]
    nodes += [helper.make_node("Bar", ["a0"], ["b"], name="bar"), helper.make_node("Neg", ["b"], ["c"]),
              helper.make_node("Sum", ["c", *(f"a{i}" for i in range(7))], ["y"])]
    model = add_model()
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    with pytest.raises(LeptonError) as caught:
        load(model)
    text = str(caught.value)
    assert "8 nodes" in text
    for part in ("7 x Foo", "node 'foo4'", "and 2 more", "1 x Bar"):
        assert part in text
    assert caught.value.exit is Exit.UNSUPPORTED


def test_dead_nodes_do_not_matter() -> None:
    model = add_model()
    model.graph.node.append(helper.make_node("Foo", ["x"], ["unused"]))
    assert len(imported(model).nodes) == 2


def test_graphs_nested_too_deeply() -> None:
    wire.skeleton(memoryview(_nested(LIMITS.depth - 1)))
    with pytest.raises(LeptonError, match="deeper"):
        wire.skeleton(memoryview(_nested(LIMITS.depth + 1)))


def _nested(levels: int) -> bytes:
    """model.graph.node.attribute.g.node.attribute.g… on the wire."""

    def field(number: int, body: bytes) -> bytes:
        size, out = len(body), bytearray()
        while size > 0x7F:
            out.append(size & 0x7F | 0x80)
            size >>= 7
        tag = (number << 3) | 2
        return bytes([tag, *out, size]) + body

    graph = b""
    for _ in range(levels):
        graph = field(1, field(5, field(6, graph)))
    return field(7, graph)


# --- damaged files --------------------------------------------------------------------------------


def _attempt(data: bytes) -> str:
    """Read, import and touch the constants of a damaged model; whatever is wrong must be a LeptonError."""
    try:
        graph = load(data)
        for node in graph.walk():
            if node.op.name == "constant" and node.attrs["value"].nbytes < 1 << 20:
                _ = node.attrs["value"].array
    except LeptonError:
        return "refused"
    return "read"


def _sample() -> bytes:
    """A model with many forms in it: attributes, tensors, a branch, a function."""
    text = """
    <ir_version: 10, opset_import: ["" : 17, "me" : 1]>
    g (float[N, 3, 8, 8] x, bool c) => (float[N, M] y)
    <float[4, 3, 3, 3] w, int64[2] s = {0, -1}, float[2] f = {1.0, 2.0}> {
      w2 = Constant <value = float[2, 1, 1] {0.5, 2.0}> ()
      k = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w)
      a = If (c) <
        then_branch = t () => (o1) { o1 = Relu (k) },
        else_branch = e () => (o2) { o2 = me.F <alpha = 0.5> (k) }
      >
      y = Reshape (a, s)
    }
    <domain: "me", opset_import: ["" : 17]>
    F <alpha> (a) => (b) { t = LeakyRelu <alpha: float = @alpha> (a) b = Tanh (t) }
    """
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(floats(4, 3, 3, 3), "w"))
    return bytes(model.SerializeToString())


def test_the_sample_is_sound() -> None:
    assert _attempt(_sample()) == "read"


def test_truncated_models() -> None:
    data = _sample()
    outcomes = {_attempt(data[:size]) for size in range(0, len(data), 7)}
    assert outcomes == {"refused"}


@pytest.mark.parametrize("seed", range(8))
def test_mutated_models(seed: int) -> None:
    """Random damage: flipped bytes, cut and repeated pieces. Bounded in time; the check is that nothing escapes."""
    rng, data = random.Random(seed), _sample()
    end = time.monotonic() + 10
    refused = 0
    for _ in range(250):
        copy = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(copy))
            match rng.randrange(4):
                case 0:
                    copy[at] = rng.randrange(256)
                case 1:
                    copy[at] ^= 1 << rng.randrange(8)
                case 2:
                    del copy[at:at + rng.randint(1, 9)]
                case _:
                    copy[at:at] = copy[at:at + rng.randint(1, 9)]
        refused += _attempt(bytes(copy)) == "refused"
        assert time.monotonic() < end
    assert refused > 100


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"version https://git-lfs.github.com/spec/v1\n", b"<html>" * 9])
def test_not_a_model(data: bytes) -> None:
    assert _attempt(data) == "refused"


def test_not_a_file(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe.onnx"
    os.mkfifo(fifo)
    for path in (tmp_path / "missing.onnx", tmp_path, fifo, Path("/dev/zero"), Path("nul\0byte")):
        with pytest.raises(LeptonError, match="cannot read") as caught:
            read(path)
        assert caught.value.exit is Exit.USAGE


def test_text_ir_is_a_model_file_too(tmp_path: Path) -> None:
    graph = imported(add_model(numpy_helper.from_array(floats(4), "w")))
    path = tmp_path / "m.lir"
    path.write_text(show(graph))
    assert show(load(path)) == show(graph)
    save_constants(graph, beside(path))
    x = floats(4, seed=1)
    np.testing.assert_array_equal(evaluate(load(path), x)[0], evaluate(graph, x)[0])
    with pytest.raises(UsageError, match="cannot be pinned"):
        load(path, dims={"N": 1})
    with pytest.raises(UsageError, match="cannot read"):
        load(tmp_path / "missing.lir")


def test_long_lists_of_numbers_are_passed_in_one_step() -> None:
    """Numbers of every length and sign, floats, texts and a tensor side by side: the skeleton has them all."""
    numbers = [*range(-200, 200), 2**62, -(2**63), 0]
    node = onnx.helper.make_node("X", ["a"], ["b"], i=numbers, f=[1.5, float("nan"), -0.0] * 40, s=["abc", "", "@]"],
                                 t=onnx.numpy_helper.from_array(np.arange(3), "t"))
    data = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [])).SerializeToString()
    found, spans = wire.skeleton(memoryview(data))
    assert data[spans[0].start:spans[0].stop] == np.arange(3).tobytes()
    again = {a.name: a for a in onnx.load_from_string(found).graph.node[0].attribute}
    assert list(again["i"].ints) == numbers
    assert (len(again["f"].floats), [s.decode() for s in again["s"].strings]) == (120, ["abc", "", "@]"])
    for cut in range(40, 140):  # the file ends within the list
        with pytest.raises(LeptonError):
            wire.skeleton(memoryview(data)[:cut])
