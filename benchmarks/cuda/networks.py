"""The networks that `speed` of benchmarks.cuda.gpu measures: random weights, made where they are run, all sizes fixed.

A tree that carries no weights can so be taken to any GPU. ONNX Runtime folds what only computes shapes, so that peers
read the same plain operators. Each exists in a small form, for machines without a GPU.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.peers.zoo.inputs import Feeds, make_inputs
from benchmarks.peers.zoo.wheels import fix_shapes
from tests.models.decoder import Decoder, gpt2
from tests.models.transformers import BERT_BASE, IR_VERSION, OPSET, Builder, Encoder, bert, vit

Shapes = dict[str, list[int]]
VIT_BASE = Encoder(layers=12, width=768, heads=12, hidden=3072, pre_norm=True)
GPT2 = Decoder(layers=12, width=768, heads=12, groups=12, vocabulary=50257, positions=1024)
TINY_ENCODER = Encoder(layers=1, width=16, heads=2, hidden=24, pre_norm=True)
TINY_DECODER = Decoder(layers=1, width=16, heads=2, groups=2, vocabulary=23, positions=32)
# Of MobileNetV2: expansion, channels, how many, first stride.
INVERTED = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class Images(Builder):
    """Layers of convolutional networks, norms already folded into them."""

    def conv(self, x: str, inputs: int, outputs: int, size: int, stride: int = 1, group: int = 1,
             most: float | None = None) -> str:
        """With ReLU up to `most`; None: without."""
        w = self.random(outputs, inputs // group, size, size, scale=(2 * group / (inputs * size * size)) ** 0.5)
        made = self.op("Conv", x, w, self.random(outputs, scale=0.05), kernel_shape=(size, size), group=group,
                       strides=(stride, stride), pads=(size // 2,) * 4)
        match most:
            case None:
                return made
            case np.inf:
                return self.op("Relu", made)
        return self.op("Clip", made, self.scalar(0.0), self.scalar(most))

    def classes(self, x: str, inputs: int, outputs: int, image: list[int]) -> onnx.ModelProto:
        """The model with its last layers: the mean over all places, and a dense one."""
        flat = self.op("Flatten", self.op("GlobalAveragePool", x), axis=1)
        w, b = self.random(inputs, outputs, scale=inputs**-0.5), self.random(outputs, scale=0.02)
        self.op("Gemm", flat, w, b, name="logits")
        graph = helper.make_graph(
            self.nodes, "images", [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [image[0], outputs])], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def resnet(blocks: tuple[int, ...], width: int, image: int, batch: int) -> onnx.ModelProto:
    """Bottlenecks, the stride in their 3x3: ResNet-50 with 3, 4, 6, 3 blocks and a width of 64."""
    b = Images(np.random.default_rng(1))
    x = b.conv("x", 3, width, 7, 2, most=np.inf)
    x, inputs = b.op("MaxPool", x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)), width
    for stage, count in enumerate(blocks):
        inner = width << stage
        for i in range(count):
            stride = 2 if stage and not i else 1
            y = b.conv(b.conv(x, inputs, inner, 1, most=np.inf), inner, inner, 3, stride, most=np.inf)
            y = b.conv(y, inner, 4 * inner, 1)
            x = b.op("Relu", b.op("Add", y, x if i else b.conv(x, inputs, 4 * inner, 1, stride)))
            inputs = 4 * inner
    return b.classes(x, inputs, 1000, [batch, 3, image, image])


def mobilenet(parts: tuple[tuple[int, int, int, int], ...], last: int, image: int) -> onnx.ModelProto:
    """MobileNetV2: inverted bottlenecks around a depthwise 3x3."""
    b, inputs = Images(np.random.default_rng(2)), 32
    x = b.conv("x", 3, inputs, 3, 2, most=6.0)
    for expansion, outputs, count, first in parts:
        for i in range(count):
            wide, stride = inputs * expansion, 1 if i else first
            y = x if expansion == 1 else b.conv(x, inputs, wide, 1, most=6.0)
            y = b.conv(b.conv(y, wide, wide, 3, stride, wide, most=6.0), wide, outputs, 1)
            x = b.op("Add", x, y) if stride == 1 and inputs == outputs else y
            inputs = outputs
    return b.classes(b.conv(x, inputs, last, 1, most=6.0), last, 1000, [1, 3, image, image])


@dataclass(frozen=True)
class Network:
    """`make(tiny)`: the model; `shapes(tiny)`: of its inputs, where they are open."""

    name: str
    batch: int
    make: Callable[[bool], onnx.ModelProto]
    shapes: Callable[[bool], Shapes] = lambda tiny: {}

    def write(self, path: Path, tiny: bool = False) -> Feeds:
        """The model file, and inputs for it."""
        import onnxruntime

        model = fix_shapes(self.make(tiny), self.shapes(tiny))
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath, options.log_severity_level = str(path), 3
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        vocabulary = (TINY_DECODER if tiny else GPT2).vocabulary
        empty = {name: np.zeros(shape, np.float32) for name, shape in self.shapes(tiny).items() if 0 in shape}
        feeds = {**make_inputs(model), **empty}
        return {name: a % vocabulary if name == "input_ids" else a for name, a in feeds.items()}


def tokens(batch: int) -> Callable[[bool], Shapes]:
    names = ("input_ids", "attention_mask", "token_type_ids")
    return lambda tiny: {name: [batch, 5 if tiny else 128] for name in names}


def decoding(sequence: int, past: int) -> Callable[[bool], Shapes]:
    """So many tokens behind so many."""
    def shapes(tiny: bool) -> Shapes:
        d, scale = (TINY_DECODER, 32) if tiny else (GPT2, 1)
        cache = [1, d.heads, past // scale, d.each]
        return {"input_ids": [1, max(1, sequence // scale)],
                **{f"past.{i}.{part}": cache for i in range(d.layers) for part in ("key", "value")}}
    return shapes


def _resnet(batch: int) -> Callable[[bool], onnx.ModelProto]:
    return lambda tiny: resnet((1, 1), 4, 32, batch) if tiny else resnet((3, 4, 6, 3), 64, 224, batch)


def _bert(tiny: bool) -> onnx.ModelProto:
    return bert(TINY_ENCODER, 23, 16) if tiny else bert(BERT_BASE)


def _vit(tiny: bool) -> onnx.ModelProto:
    return vit(TINY_ENCODER, 32, 16, 10) if tiny else vit(VIT_BASE)


def _mobilenet(tiny: bool) -> onnx.ModelProto:
    return mobilenet(((1, 8, 1, 1), (2, 8, 2, 2)), 16, 24) if tiny else mobilenet(INVERTED, 1280, 224)


def _gpt2(tiny: bool) -> onnx.ModelProto:
    return gpt2(TINY_DECODER if tiny else GPT2)


NETWORKS = (
    Network("resnet50 b1", 1, _resnet(1)), Network("bert-base b1", 1, _bert, tokens(1)),
    Network("mobilenetv2 b1", 1, _mobilenet),
    Network("vit-b b1", 1, _vit, lambda tiny: {"x": [1, 3, 32, 32] if tiny else [1, 3, 224, 224]}),
    Network("gpt2 decode", 1, _gpt2, decoding(1, 128)), Network("gpt2 prefill", 1, _gpt2, decoding(128, 0)),
    Network("resnet50 b32", 32, _resnet(32)), Network("bert-base b8", 8, _bert, tokens(8)),
)
