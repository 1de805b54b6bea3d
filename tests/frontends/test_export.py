"""Graphs written to ONNX: ONNX Runtime and Lepton's own import say the same of them as their meaning."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from lepton import frontends
from lepton.cli import main
from lepton.frontends.onnx.export import to_onnx
from lepton.ir.core import Graph
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.evaluate import evaluate
from lepton.ir.parser import parse
from lepton.ir.sample import random_inputs

CONV = "strides=(2,1), pads_begin=(1,0), pads_end=(0,1), dilations=(1,1)"
POOL = "kernel=(2,2), strides=(2,2), pads_begin=(0,0), pads_end=(0,0), dilations=(1,1)"
GRAPHS = {
    "chain": """(%x: f32[N,3,8,7]) {
        %w = constant(value=dense<[[[[1.0]],[[0.5]],[[-1.0]]],[[[0.25]],[[2.0]],[[0.5]]]] : f32[2,3,1,1]>)
        %b = constant(value=dense<[1.0,-1.0] : f32[2]>)
        %0 = conv(%x, %w, %b, """ + CONV + """)
        %1 = hard_swish(%0)
        %2 = max_pool(%1, """ + POOL + """)
        %3 = avg_pool(%1, """ + POOL + """, count_include_pad=true)
        %4 = concat(%2, %3, axis=1)
        %5 = reduce_mean(%4, axes=(2,3), keepdims=false)
        %6 = softmax(%5, axis=1)
        return %6, %0 }""",
    "sizes": """(%x: f32[N,M,4], %y: f32[M,4]) {
        %0 = reshape(%x, shape=(N*M,2,2))
        %1 = reshape(%x, shape=(M,N,4))
        %2 = slice(%y, starts=(M-1,1), sizes=(M,3), steps=(-1,1))
        %3 = broadcast_to(%y, shape=(N,M,4))
        %4 = shape_values(dims=(N//2,(M+1)%3,N*M))
        %5 = iota(size=M+N, dtype=i64)
        %6 = pad(%y, before=(N,0), after=(1,0))
        return %0, %1, %2, %3, %4, %5, %6 }""",
    "levels": """(%x: f32[5,6]) {
        %s = constant(value=dense<0.05 : f32[]>)
        %z = constant(value=dense<7 : u8[]>)
        %0 = quantize(%x, %s, %z, axis=0, to=u8)
        %1 = dequantize(%0, %s, %z, axis=0)
        %w = constant(value=dense<[[1,-2],[3,4],[5,-6],[7,-7],[0,1],[2,3]] : i4[6,2]>)
        %t = constant(value=dense<[[0.5,0.25],[0.125,1.0],[2.0,1.0]] : f32[3,2]>)
        %2 = dequantize(%w, %t, axis=0, block=2)
        %3 = matmul(%1, %2)
        %4, %5, %6 = dynamic_quantize(%x)
        return %3, %4, %5, %6 }""",
    "elements": """(%x: f32[3,4], %y: f32[3,1]) {
        %l = constant(value=dense<-0.5 : f32[]>)
        %0 = swish(%x, alpha=1.5)
        %1 = gelu(%x)
        %2 = clip(%0, %l)
        %3 = maximum(%1, %y)
        %4 = leaky_relu(%3, alpha=0.1)
        %5 = greater(%4, %2)
        %6 = where(%5, %x, %y)
        %7 = cast(%6, to=i32)
        %g = constant(value=dense<[1.0,2.0,3.0,4.0] : f32[4]>)
        %8 = rms_norm(%x, %g, axis=1, epsilon=0.001)
        %9 = layer_norm(%x, %g, axis=1, epsilon=0.001)
        %10 = abs(%x)
        %11 = log1p(%10)
        %12 = rsqrt(%10)
        return %7, %8, %9, %11, %12 }""",
    "twice": """(%x: f32[3]) {
        %0 = relu(%x)
        %c = constant(value=dense<[1.0] : f32[1]>)
        return %0, %0, %x, %c }""",
    "resized": """(%x: f32[1,2,4,5]) {
        %0 = resize(%x, sizes=(1,2,8,10), scales=(1.0,1.0,2.0,2.0), mode="linear")
        %1 = resize(%x, sizes=(1,2,6,7), coordinates="asymmetric", nearest="floor")
        %2 = arg_max(%x, axis=3)
        %3 = transpose(%0, perm=(0,2,3,1))
        return %1, %2, %3 }""",
}


def graph_of(name: str) -> Graph:
    graph = parse(f"graph @{name}{GRAPHS[name]}")
    if name == "twice":  # as the frontend says it of a model whose outputs are one value
        graph.metadata["output_names"] = '["a", "b", "x:0", "c"]'
    return graph


@pytest.mark.parametrize("name", GRAPHS)
def test_means_the_same(name: str) -> None:
    graph = graph_of(name)
    model = to_onnx(graph)
    inputs = random_inputs(graph, sizes={"N": 4, "M": 5})
    want = evaluate(graph, *inputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {str(v.name): x for v, x in zip(graph.inputs, inputs, strict=True)}
    assert [o.name for o in session.get_outputs()] == [o.name for o in model.graph.output]
    for a, b, c in zip(want, session.run(None, feeds), evaluate(frontends.load(model), *inputs), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(c, a, rtol=1e-5, atol=1e-5)


def test_keeps_the_ports_names() -> None:
    model = to_onnx(graph_of("twice"))
    assert [o.name for o in model.graph.output] == ["a", "b", "x:0", "c"]
    assert [i.name for i in model.graph.input] == ["x"]


@pytest.mark.parametrize(("text", "said"), [
    ("(%x: f32[1,4,4,2]) { %0 = max_pool(%x, " + POOL + ', layout="nhwc")\n return %0 }', "nhwc layout"),
    ("(%x: str[3]) { %0 = string_rank(%x)\n return %0 }", "string_rank"),
])
def test_refuses_by_name(text: str, said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        to_onnx(parse(f"graph @g{text}"))


def test_the_command_writes_onnx(tmp_path: Path) -> None:
    source, out = tmp_path / "g.lir", tmp_path / "g.onnx"
    source.write_text(f"graph @chain{GRAPHS['chain']}")
    assert main([str(source), "--emit", "onnx", "--passes", "quantize-dynamic", "-q", "-o", str(out)]) == 0
    assert "ConvInteger" in {n.op_type for n in onnx.load(out).graph.node}


def test_the_command_refuses_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "g.lir"
    source.write_text(f"graph @chain{GRAPHS['chain']}")
    assert main([str(source), "--emit", "onnx", "-o", "-"]) == 2
    assert "no text" in capsys.readouterr().err


