"""Two transformer encoders with random weights, written node by node: ViT-S/16 and BERT-base. No torch needed.

The nodes are those that PyTorch's exporter writes: MatMul and Add for dense layers, LayerNormalization, the erf form of
GELU, attention as Reshape, Transpose, MatMul, Softmax, and (BERT) reshapes whose sizes come from Shape and Gather.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
EPSILON = 1e-12


@dataclass(frozen=True)
class Encoder:
    """Sizes of a transformer encoder. `pre_norm`: normalise before a block (ViT) instead of after it (BERT)."""

    layers: int
    width: int
    heads: int
    hidden: int
    pre_norm: bool


VIT_SMALL = Encoder(layers=12, width=384, heads=6, hidden=1536, pre_norm=True)
BERT_BASE = Encoder(layers=12, width=768, heads=12, hidden=3072, pre_norm=False)


@dataclass
class Builder:
    """Nodes and weights under construction; every method returns the name of what it made."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        output = name or f"{kind.lower()}_{len(self.nodes)}"
        self.multi(kind, inputs, [output], **attributes)
        return output

    def multi(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        """A node whose outputs are named by the caller."""
        self.nodes.append(helper.make_node(kind, list(inputs), list(outputs), name=f"node_{outputs[0]}", **attributes))

    def constant(self, array: np.ndarray, name: str = "") -> str:
        name = name or f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def scalar_integer(self, value: int) -> str:
        return self.constant(np.array(value, np.int64))

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def random(self, *shape: int, scale: float, around: float = 0.0) -> str:
        values = self.rng.standard_normal(shape, dtype=np.float32) * np.float32(scale) + np.float32(around)
        return self.constant(values)

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        product = self.op("MatMul", x, self.random(inputs, outputs, scale=inputs**-0.5))
        return self.op("Add", self.random(outputs, scale=0.02), product)

    def norm(self, x: str, width: int, epsilon: float) -> str:
        scale, bias = self.random(width, scale=0.1, around=1.0), self.random(width, scale=0.05)
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def gelu(self, x: str) -> str:
        """x · (1 + erf(x / √2)) / 2"""
        erf = self.op("Erf", self.op("Div", x, self.scalar(2**0.5)))
        doubled = self.op("Mul", x, self.op("Add", erf, self.scalar(1.0)))
        return self.op("Mul", doubled, self.scalar(0.5))


def _sizes(b: Builder, x: str) -> tuple[str, str]:
    """Batch and sequence length of x[batch, sequence, …], each of shape [1]."""
    shape = b.op("Shape", x)
    return b.op("Gather", shape, b.integers(0), axis=0), b.op("Gather", shape, b.integers(1), axis=0)


def _attention(b: Builder, x: str, e: Encoder, mask: str | None) -> str:
    """Self-attention over x[batch, sequence, width]; `mask` is added to the scores."""
    batch, sequence = _sizes(b, x)
    split = b.op("Concat", batch, sequence, b.integers(e.heads), b.integers(e.width // e.heads), axis=0)

    def heads(perm: tuple[int, ...]) -> str:
        return b.op("Transpose", b.op("Reshape", b.dense(x, e.width, e.width), split), perm=perm)

    query, key, value = heads((0, 2, 1, 3)), heads((0, 2, 3, 1)), heads((0, 2, 1, 3))
    scores = b.op("Div", b.op("MatMul", query, key), b.scalar((e.width / e.heads) ** 0.5))
    if mask is not None:
        scores = b.op("Add", scores, mask)
    mixed = b.op("Transpose", b.op("MatMul", b.op("Softmax", scores, axis=-1), value), perm=(0, 2, 1, 3))
    joined = b.op("Reshape", mixed, b.op("Concat", batch, sequence, b.integers(e.width), axis=0))
    return b.dense(joined, e.width, e.width)


def _layer(b: Builder, x: str, e: Encoder, mask: str | None, epsilon: float) -> str:
    def feed_forward(y: str) -> str:
        return b.dense(b.gelu(b.dense(y, e.width, e.hidden)), e.hidden, e.width)

    if e.pre_norm:
        x = b.op("Add", x, _attention(b, b.norm(x, e.width, epsilon), e, mask))
        return b.op("Add", x, feed_forward(b.norm(x, e.width, epsilon)))
    x = b.norm(b.op("Add", _attention(b, x, e, mask), x), e.width, epsilon)
    return b.norm(b.op("Add", feed_forward(x), x), e.width, epsilon)


def vit(
    e: Encoder = VIT_SMALL, image: int = 224, patch: int = 16, classes: int = 1000, seed: int = 1
) -> onnx.ModelProto:
    """Image x[batch, 3, image, image] -> logits[batch, classes]: patches, class token, encoder, head."""
    b = Builder(np.random.default_rng(seed))
    kernel = b.random(e.width, 3, patch, patch, scale=(3 * patch * patch) ** -0.5)
    grid = b.op("Conv", "x", kernel, b.random(e.width, scale=0.02), kernel_shape=(patch, patch), strides=(patch, patch))
    patches = (image // patch) ** 2
    tokens = b.op("Transpose", b.op("Reshape", grid, b.integers(0, e.width, patches)), perm=(0, 2, 1))
    batch, _ = _sizes(b, tokens)
    start = b.op("Expand", b.random(1, 1, e.width, scale=0.5), b.op("Concat", batch, b.integers(1, e.width), axis=0))
    x = b.op("Add", b.op("Concat", start, tokens, axis=1), b.random(1, patches + 1, e.width, scale=0.5))
    for _ in range(e.layers):
        x = _layer(b, x, e, None, 1e-6)
    first = b.op("Gather", b.norm(x, e.width, 1e-6), b.constant(np.array(0, np.int64)), axis=1)
    b.op("Add", b.op("MatMul", first, b.random(e.width, classes, scale=e.width**-0.5)), b.random(classes, scale=0.02),
         name="logits")
    return _model("vit", b, [("x", TensorProto.FLOAT, ["batch", 3, image, image])], ("logits", ["batch", classes]))


def bert(e: Encoder = BERT_BASE, vocabulary: int = 30522, positions: int = 512, seed: int = 2) -> onnx.ModelProto:
    """input_ids, attention_mask, token_type_ids [batch, sequence] -> last_hidden_state[batch, sequence, width]."""
    b = Builder(np.random.default_rng(seed))
    words = b.op("Gather", b.random(vocabulary, e.width, scale=0.5), "input_ids", axis=0)
    kinds = b.op("Gather", b.random(2, e.width, scale=0.5), "token_type_ids", axis=0)
    _, sequence = _sizes(b, "input_ids")
    table = b.constant(np.arange(positions, dtype=np.int64)[None])
    numbers = b.op("Slice", table, b.integers(0), sequence, b.integers(1), b.integers(1))
    places = b.op("Gather", b.random(positions, e.width, scale=0.5), numbers, axis=0)
    x = b.norm(b.op("Add", b.op("Add", words, kinds), places), e.width, EPSILON)
    wide = b.op("Unsqueeze", b.op("Unsqueeze", "attention_mask", b.integers(1)), b.integers(2))
    hidden = b.op("Sub", b.scalar(1.0), b.op("Cast", wide, to=TensorProto.FLOAT))
    mask = b.op("Mul", hidden, b.scalar(float(np.finfo(np.float32).min)))
    for _ in range(e.layers):
        x = _layer(b, x, e, mask, EPSILON)
    b.op("Identity", x, name="last_hidden_state")
    inputs = [(name, TensorProto.INT64, ["batch", "sequence"])
              for name in ("input_ids", "attention_mask", "token_type_ids")]
    return _model("bert", b, inputs, ("last_hidden_state", ["batch", "sequence", e.width]))


def _model(
    name: str, b: Builder, inputs: Sequence[tuple[str, int, Sequence[str | int]]], output: tuple[str, list[str | int]]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        b.nodes,
        name,
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, output[1])],
        b.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
