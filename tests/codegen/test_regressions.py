"""Models that were once compiled wrongly, as small as they could be made."""
from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

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
