"""Two small decoders with a cache of keys and values, random weights, written node by node.

`gpt2` has the nodes that PyTorch's exporter writes for GPT-2: positions counted from the cache's length, a causal mask
cut out of a table. `grouped` has those of onnxruntime-genai's model builder: RMS normalisation, GroupQueryAttention
with rotary positions, and products with 4-bit weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.models.transformers import IR_VERSION, Builder

OPSET = 17
MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Decoder:
    """Sizes. `groups`: heads of keys and values, where they are fewer than those of queries."""

    layers: int = 2
    width: int = 64
    heads: int = 4
    groups: int = 2
    vocabulary: int = 211
    positions: int = 128

    @property
    def each(self) -> int:
        return self.width // self.heads


TINY = Decoder()


def gpt2(d: Decoder = TINY, seed: int = 3) -> onnx.ModelProto:
    """input_ids i64[batch, sequence], past.i.key and .value f32[batch, heads, past, each] -> logits[batch, sequence,
    vocabulary], present.i.key and .value[batch, heads, past + sequence, each]."""
    b = Builder(np.random.default_rng(seed))
    table = b.random(d.vocabulary, d.width, scale=0.4)
    sequence, past = (b.op("Gather", b.op("Shape", x), b.scalar_integer(axis), axis=0)
                      for x, axis in (("input_ids", 1), ("past.0.key", 2)))
    total = b.op("Add", past, sequence)
    places = b.op("Range", past, total, b.scalar_integer(1))
    x = b.op("Add", b.op("Gather", table, "input_ids", axis=0),
             b.op("Gather", b.random(d.positions, d.width, scale=0.2), places, axis=0))
    mask = _causal(b, d, past, total)
    for i in range(d.layers):
        x = b.op("Add", x, _attention(b, d, b.norm(x, d.width, 1e-5), mask, i))
        inner = b.op("Tanh", _inner(b, hidden := b.dense(b.norm(x, d.width, 1e-5), d.width, 4 * d.width)))
        gelu = b.op("Mul", b.op("Mul", hidden, b.scalar(0.5)), b.op("Add", inner, b.scalar(1.0)))
        x = b.op("Add", x, b.dense(gelu, 4 * d.width, d.width))
    b.op("MatMul", b.norm(x, d.width, 1e-5), b.random(d.width, d.vocabulary, scale=d.width**-0.5), name="logits")
    return _model("gpt2", b, d, d.heads, [])


def _inner(b: Builder, x: str) -> str:
    """sqrt(2/π) (x + 0.044715 x³), as GPT-2 writes it."""
    cube = b.op("Mul", b.op("Pow", x, b.scalar(3.0)), b.scalar(0.044715))
    return b.op("Mul", b.op("Add", x, cube), b.scalar(float(np.sqrt(2 / np.pi))))


def _causal(b: Builder, d: Decoder, past: str, total: str) -> str:
    """bool[1, 1, sequence, total]: what each place sees."""
    table = b.constant(np.tril(np.ones((1, 1, d.positions, d.positions), bool)))
    first, last = (b.op("Unsqueeze", v, b.integers(0)) for v in (past, total))
    rows = b.op("Slice", table, first, last, b.integers(2))
    return b.op("Slice", rows, b.integers(0), last, b.integers(3))


def _attention(b: Builder, d: Decoder, x: str, mask: str, layer: int) -> str:
    shape = b.integers(0, 0, d.heads, d.each)
    names = [f"qkv_{layer}_{k}" for k in range(3)]
    b.multi("Split", [b.dense(x, d.width, 3 * d.width), b.integers(*[d.width] * 3)], names, axis=2)
    q, *new = (b.op("Transpose", b.op("Reshape", name, shape), perm=(0, 2, 1, 3)) for name in names)
    k, v = (b.op("Concat", f"past.{layer}.{kind}", x, axis=2, name=f"present.{layer}.{kind}")
            for kind, x in zip(("key", "value"), new, strict=True))
    scores = b.op("Div", b.op("MatMul", q, b.op("Transpose", k, perm=(0, 1, 3, 2))), b.scalar(d.each**0.5))
    seen = b.op("Where", mask, scores, b.scalar(float(np.finfo(np.float32).min)))
    mixed = b.op("Transpose", b.op("MatMul", b.op("Softmax", seen, axis=-1), v), perm=(0, 2, 1, 3))
    return b.dense(b.op("Reshape", mixed, b.integers(0, 0, d.width)), d.width, d.width)


def grouped(d: Decoder = TINY, seed: int = 4) -> onnx.ModelProto:
    """The same interface, with attention_mask i64[batch, past + sequence], and caches of `groups` heads."""
    b = Builder(np.random.default_rng(seed))
    lens = b.op("ReduceSum", "attention_mask", b.integers(1), keepdims=0)
    last = b.op("Cast", b.op("Sub", lens, b.integers(1)), to=TensorProto.INT32)
    whole = b.op("Gather", b.op("Shape", "attention_mask"), b.scalar_integer(1), axis=0)
    whole = b.op("Cast", whole, to=TensorProto.INT32)
    angles = np.outer(np.arange(d.positions), 1e4 ** (-np.arange(d.each // 2) * 2 / d.each)).astype(np.float32)
    turns = [b.constant(np.cos(angles)), b.constant(np.sin(angles))]
    x = b.op("Gather", b.random(d.vocabulary, d.width, scale=0.4), "input_ids", axis=0)
    y = b.op("SimplifiedLayerNormalization", x, b.random(d.width, scale=0.1, around=1.0), axis=-1, epsilon=1e-6)
    for i in range(d.layers):
        q, k, v = (_four_bits(b, y, d.width, n * d.each) for n in (d.heads, d.groups, d.groups))
        outputs = [f"mixed_{i}", f"present.{i}.key", f"present.{i}.value"]
        b.multi("GroupQueryAttention", [q, k, v, f"past.{i}.key", f"past.{i}.value", last, whole, *turns], outputs,
                domain=MICROSOFT, num_heads=d.heads, kv_num_heads=d.groups, do_rotary=1)
        y, x = _skip(b, d, x, _four_bits(b, f"mixed_{i}", d.width, d.width))
        gate = _four_bits(b, y, d.width, 2 * d.width)
        up = b.op("Mul", b.op("Mul", gate, b.op("Sigmoid", gate)), _four_bits(b, y, d.width, 2 * d.width))
        y, x = _skip(b, d, x, _four_bits(b, up, 2 * d.width, d.width))
    b.op("MatMul", y, b.random(d.width, d.vocabulary, scale=d.width**-0.5), name="logits")
    return _model("grouped", b, d, d.groups, [("attention_mask", TensorProto.INT64, ["batch", "total"])])


def _skip(b: Builder, d: Decoder, x: str, y: str) -> tuple[str, str]:
    """(normalised sum, sum)"""
    name = f"skip_{len(b.nodes)}"
    b.multi("SkipSimplifiedLayerNormalization", [x, y, b.random(d.width, scale=0.1, around=1.0)],
            [name, "", "", f"{name}_sum"], domain=MICROSOFT, epsilon=1e-6)
    return name, f"{name}_sum"


def _four_bits(b: Builder, x: str, inputs: int, outputs: int) -> str:
    """A product with 4-bit weights in blocks of 32."""
    blocks = -(-inputs // 32)
    packed = b.constant(b.rng.integers(0, 256, (outputs, blocks, 16)).astype(np.uint8))
    scales = b.random(outputs, blocks, scale=0.02 * inputs**-0.5, around=0.25 * inputs**-0.5)
    return b.op("MatMulNBits", x, packed, scales, domain=MICROSOFT, K=inputs, N=outputs, bits=4, block_size=32)


def _model(
    name: str, b: Builder, d: Decoder, heads: int, more: list[tuple[str, int, list[str | int]]]
) -> onnx.ModelProto:
    def cache(kind: str, length: str) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(f"{kind}.{i}.{part}", TensorProto.FLOAT,
                                              ["batch", heads, length, d.each])
                for i in range(d.layers) for part in ("key", "value")]

    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", d.vocabulary])
    inputs = [ids, *(helper.make_tensor_value_info(*value) for value in more), *cache("past", "past")]
    graph = helper.make_graph(b.nodes, name, inputs, [logits, *cache("present", "present")], b.weights)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
