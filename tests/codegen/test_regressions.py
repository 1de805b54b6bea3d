"""Models that were once compiled wrongly, as small as they could be made."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import lepton


@pytest.mark.parametrize("target", ["x86-sse4", "x86-avx2"])
@pytest.mark.parametrize("start", range(4))
def test_products_read_their_operand_wherever_it_lies(target: str, start: int) -> None:
    """The columns of B fill whole vectors, and B begins at any element: vector loads must not assume more."""
    rng = np.random.default_rng(0)
    a, memory = rng.standard_normal((2, 3), np.float32), rng.standard_normal(2 * 3 * 16 + 3, np.float32)
    b = memory[start:start + 96].reshape(2, 3, 16)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["y"])], "g",
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, (2, 3, 16))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 2, 16))], [numpy_helper.from_array(a, "a")])
    model = lepton.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10),
                           target=target)
    np.testing.assert_allclose(model.run({"b": b})["y"], a @ b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("text", "feeds"), [
    ("int64[2] n) => (float[K, L] y) { y = ConstantOfShape(n) }", {"n": (2**32, 2**32)}),
    ("float[M] x, int64[2] n) => (float[K, L] y) { y = Expand(x, n) }", {"x": (1.0,), "n": (2**33, 2**33)}),
    ("float[M, P] x, int64[2] n) => (float[K, L] y) { y = Tile(x, n) }", {"x": ((1.0,),), "n": (2**31, 2**33)}),
])
def test_sizes_beyond_64_bits_do_not_wrap(text: str, feeds: dict[str, object]) -> None:
    """The product of sizes that are fine by themselves once came out as 0 bytes, and the kernel wrote behind them."""
    model = lepton.compile(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g ({text}'))
    kinds = {"x": np.float32, "n": np.int64}
    with pytest.raises(lepton.LeptonError, match="9223372036854775807 bytes"):
        model.run({name: np.array(value, kinds[name]) for name, value in feeds.items()})


@pytest.mark.parametrize(("text", "feeds"), [
    ("float[M] x) => (float[1] y) { a = Constant<value_ints=[-1]>() e = Constant<value_ints=[9]>() y = Slice(x,a,e) }",
     {}),
    ("float[M] x) => (float y) { i = Constant<value_int=-1>() y = Gather(x, i) }", {}),
    ("float[M] x, int64[K] i) => (float[K] y) { y = GatherElements(x, i) }", {"i": np.zeros(1, np.int64)}),
    ("float[M] x, int64[K, 1] i) => (float[K] y) { y = GatherND(x, i) }", {"i": np.zeros((1, 1), np.int64)}),
    ("float[M] x, int64[K, 1] i, float[K] u) => (float[M] y) { y = ScatterND(x, i, u) }",
     {"i": np.zeros((1, 1), np.int64), "u": np.ones(1, np.float32)}),
    ('float[M] x, int64[2] p) => (float[K] y) { y = Pad<mode="edge">(x, p) }', {"p": np.array([2, 2])}),
    ("float[M] x, int64[1] s) => (float[K] y) { y = Resize(x, , , s) }", {"s": np.array([4])}),
    ("float[M] x) => (int64[1] y) { y = ArgMax(x) }", {}),
])
def test_nothing_is_read_of_an_empty_axis(text: str, feeds: dict[str, np.ndarray]) -> None:
    """What lay before or behind the empty input's memory once came out, or was written to."""
    model = lepton.compile(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g ({text}'), level=1)
    with pytest.raises(lepton.LeptonError, match=r"M must equal max\("):
        model.run({"x": np.zeros(0, np.float32), **feeds})
    kept = feeds | ({"p": np.zeros(2, np.int64)} if "p" in feeds else {})  # and one element is enough
    assert next(iter(model.run({"x": np.ones(1, np.float32), **kept}).values())).size


@pytest.mark.parametrize("op", ["Gather", "Scatter"])
def test_indices_that_reach_beyond_the_data_are_refused(op: str) -> None:
    """More columns of indices than the data has: those of the next row, or behind the last, were taken."""
    extra, more = (", float[K, L] u", ", u") if op == "Scatter" else ("", "")
    model = lepton.compile(onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[M, P] x, int64[K, L] i{extra}) => (float[A, B] y) {{ y = {op}Elements(x, i{more}) }}"""))
    feeds = {"x": np.ones((2, 3), np.float32), "i": np.zeros((1, 9), np.int64)}
    if extra:
        feeds["u"] = np.zeros((1, 9), np.float32)
    with pytest.raises(lepton.LeptonError, match=r"min\(L,P\) must equal L"):
        model.run(feeds)


def test_ranges_to_the_end_of_64_bits() -> None:
    """The count wrapped: such ranges came out empty."""
    far = 2**63 - 1
    model = lepton.compile(onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        g (int64 a, int64 b, int64 c) => (int64[K] y) { y = Range(a, b, c) }"""))

    def count(a: int, b: int, c: int) -> list[int]:
        found: list[int] = model.run({"a": np.array(a), "b": np.array(b), "c": np.array(c)})["y"].tolist()
        return found

    assert count(0, 10, far) == [0]
    assert count(5, -5, -far - 1) == [5]
    assert count(far - 2, far, 1) == [far - 2, far - 1]
    assert count(7, 0, -3) == [7, 4, 1]
    assert count(0, 7, 3) == [0, 3, 6]
    assert count(0, 5, -1) == count(5, 0, 1) == count(0, 5, 0) == []
    for a, b, c in ((0, far, 1), (-far, far, 1), (far, -far, -1)):
        with pytest.raises(lepton.LeptonError, match="the data give a size"):
            count(a, b, c)


@pytest.mark.parametrize("axes", [("1099511627776", "0"), ("N", "0"), ("N", "M")])
@pytest.mark.parametrize("op", ["Softmax<axis=1>", "Relu", "Transpose", "LogSoftmax<axis=1>"])
def test_rows_of_nothing_take_no_time(op: str, axes: tuple[str, str]) -> None:
    """2**40 rows without elements were visited one by one."""
    name, _, attrs = op.partition("<")
    node = f"y = {name}{'<' if attrs else ''}{attrs}(x)"
    model = lepton.compile(onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g (float[{axes[0]}, {axes[1]}] x) => (float[K, L] y) {{ {node} }}'))
    assert model.run({"x": np.zeros((2**40, 0), np.float32)})["y"].size == 0
    if "M" in axes:
        assert model.run({"x": np.ones((3, 2), np.float32)})["y"].size == 6


FAR = 2**63 - 1


@pytest.mark.parametrize("span", [(FAR, FAR, 2), (FAR, 0, 2), (0, FAR, FAR), (2, FAR, FAR), (FAR, 0, FAR),
                                  (FAR, -FAR - 1, -FAR - 1), (-1, -FAR - 1, -FAR - 1), (-FAR - 1, FAR, 2**47)])
@pytest.mark.parametrize("size", ["N", "5"])
def test_slices_by_and_to_the_end_of_64_bits(span: tuple[int, int, int], size: str) -> None:
    start, end, step = span
    model = lepton.compile(onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[{size}] x) => (float[K] y)
        <int64[1] s = {{{start}}}, int64[1] e = {{{end}}}, int64[1] a = {{0}}, int64[1] t = {{{step}}}>
        {{ y = Slice(x, s, e, a, t) }}"""))
    for n in (0, 1, 5) if size == "N" else (5,):
        x = np.arange(n, dtype=np.float32)
        np.testing.assert_array_equal(model.run({"x": x})["y"], x[start:end:step])


def test_pads_by_the_least_of_64_bits() -> None:
    """-2**63 has no opposite: as data it was taken for 0, and two of them for the whole axis."""
    least = -FAR - 1
    data = lepton.compile(onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        g (float[N] x, int64[2] p) => (float[K] y) { y = Pad(x, p) }"""))
    x = np.arange(5, dtype=np.float32)
    assert data.run({"x": x, "p": np.array([1, -2])})["y"].tolist() == [0, 0, 1, 2]
    for pads in ((least, 0), (0, least), (least, least), (FAR, least)):
        with pytest.raises(lepton.LeptonError, match=r"the data give a size|must not be negative"):
            data.run({"x": x, "p": np.array(pads)})
        with pytest.raises(lepton.LeptonError, match=r"a pad of -?922337203685477580[78]"):
            lepton.compile(onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
                g (float[N] x) => (float[K] y) <int64[2] p = {{{pads[0]}, {pads[1]}}}> {{ y = Pad(x, p) }}"""))


@pytest.mark.parametrize("x", [[1e-44], [1e-45], [-1e-45], [1e-44, -1e-44], [0.0], [], [np.inf, 1], [-np.inf, 1]])
def test_levels_of_what_has_no_scale(x: list[float]) -> None:
    """The scale of a few subnormals is 0, that of infinity infinite: the zero point is ONNX Runtime's 255 there."""
    import onnxruntime

    proto = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        g (float[N] x) => (uint8[N] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }""")
    feeds = {"x": np.array(x, np.float32)}
    want = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feeds)
    for got, wanted in zip(lepton.compile(proto).run(feeds).values(), want, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_channels_that_only_the_weights_know(op: str, level: int) -> None:
    """An input whose channels are open: the distance of its rows is no number, and tiles of several rows want one."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 2, 9, 6), np.float32), rng.standard_normal((2, 2, 3, 3), np.float32)
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], pads=[1] * 4, strides=[2, 1])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, "C", 9, 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [numpy_helper.from_array(w, "w")])
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    model = lepton.compile(source, level=level)
    want: Any = ReferenceEvaluator(source).run(None, {"x": x})
    np.testing.assert_allclose(model(x), want[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(lepton.LeptonError, match="C"):
        model(x[:, :1])
