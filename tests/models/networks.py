"""The whole networks that the tests compile: where each comes from, at which sizes it runs, what else must agree."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from benchmarks.peers.zoo import light
from benchmarks.peers.zoo.inputs import graph_inputs, make_inputs
from benchmarks.peers.zoo.wheels import fix_shapes
from tests.models import lettering, transformers
from tests.models.fetch_models import FILES, models_folder, provide

Feeds = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]
Cost = Literal["small", "medium", "big"]


@dataclass(frozen=True)
class Network:
    """One model with the sizes it is run at.

    `shapes` are complete input shapes, one mapping per run; the first is also the one that is pinned.
    `dynamic`: whether the file leaves dimensions open, so that one compilation serves all of them.
    `classes`: outputs (by position) along whose last axis the largest element must be the same one.
    `cost`: small ones are compiled in every way in CI, medium ones in a few ways, big ones on demand.
    `state`: inputs that carry recurrent state. `picture`: makes the input `x` where noise would say nothing.
    """

    name: str
    source: Callable[[Path], Path]
    shapes: tuple[Shapes, ...]
    dynamic: bool = False
    classes: tuple[int, ...] = ()
    cost: Cost = "small"
    state: frozenset[str] = field(default=frozenset())
    picture: Callable[[tuple[int, ...]], np.ndarray] | None = None

    def path(self) -> Path:
        """The model file, fetched or made first if it is not there."""
        folder = models_folder()
        folder.mkdir(parents=True, exist_ok=True)
        return self.source(folder)

    def pinned_path(self) -> Path:
        """The same model with every input dimension fixed to the first of `shapes`."""
        if not self.dynamic:
            return self.path()
        target = models_folder() / f"{self.name}.pinned.onnx"
        if not target.exists():
            model = fix_shapes(onnx.load(self.path()), {name: list(shape) for name, shape in self.shapes[0].items()})
            _save(model, target)
        return target

    def feeds(self, run: int, seed: int = 7) -> Feeds:
        """Inputs for run number `run`: pictures, noise, token ids, bytes; recurrent state that is not zero."""
        if self.picture:
            return {"x": self.picture(self.shapes[run]["x"])}
        model = onnx.load(self.path(), load_external_data=False)
        shapes = {name: list(shape) for name, shape in self.shapes[run].items()}
        feeds = make_inputs(_resized(model, shapes), seed + run)
        rng = np.random.default_rng(seed)
        for name in self.state:
            feeds[name] = (rng.standard_normal(feeds[name].shape) * 0.3).astype(feeds[name].dtype)
        return feeds


def _resized(model: onnx.ModelProto, shapes: dict[str, list[int]]) -> onnx.ModelProto:
    """Only the inputs of `model`, at these sizes."""
    small = onnx.ModelProto()
    small.graph.input.extend(graph_inputs(model))
    for value in small.graph.input:
        dims = value.type.tensor_type.shape.dim
        del dims[:]
        for size in shapes[value.name]:
            dims.add().dim_value = size
    return small


def _save(model: onnx.ModelProto, target: Path) -> None:
    """Written beside and renamed: several test processes may share the folder."""
    partial_file = target.with_name(f"{target.name}.{os.getpid()}.partial")
    onnx.save(model, partial_file)
    partial_file.replace(target)


def _fetched(name: str, folder: Path) -> Path:
    provide(next(file for file in FILES if file.name == name), folder)
    return folder / name


def _made(name: str, make: Callable[[], onnx.ModelProto], folder: Path) -> Path:
    target = folder / f"{name}.onnx"
    if not target.exists():
        _save(make(), target)
    return target


def _text_lines(shape: tuple[int, ...]) -> np.ndarray:
    """Lines of text of shape [batch, 3, 48, width]."""
    return np.concatenate([lettering.recogniser_input(f"MODEL {41 + row} TILE", shape[3]) for row in range(shape[0])])


def _text_page(shape: tuple[int, ...]) -> np.ndarray:
    return lettering.detector_input(shape[2], shape[3], ("MATRIX 42", "KERNEL 7", "GRAPH"))


def _light(name: str, cost: Cost) -> Network:
    image = "gpu_0/data_0" if name in ("resnet50", "shufflenet", "zfnet512") else "data_0"
    source = partial(_made, f"light_{name}", partial(light.build, name))
    return Network(f"light_{name}", source, ({image: (1, 3, 224, 224)},), classes=(0,), cost=cost)


def _tokens(*shape: int) -> Shapes:
    return dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), shape)


def _sequence(steps: int) -> Shapes:
    return {"input": (steps, 576), "h": (1, 1, 128), "c": (1, 1, 128)}


NETWORKS = (
    Network("ppocr_cls", partial(_fetched, "ch_ppocr_mobile_v2.0_cls_infer.onnx"),
            ({"x": (1, 3, 48, 192)}, {"x": (3, 3, 48, 160)}), dynamic=True, classes=(0,)),
    Network("magika", partial(_fetched, "magika_standard_v3_3.onnx"),
            ({"bytes": (1, 2048)}, {"bytes": (3, 2048)}), dynamic=True, classes=(0,)),
    Network("silero_sequence", partial(_fetched, "silero_vad_16k_sequence.onnx"),
            (_sequence(5), _sequence(31)), dynamic=True, state=frozenset("hc")),
    Network("silero_ifless", partial(_fetched, "silero_vad_op18_ifless.onnx"),
            ({"input": (1, 576), "state": (2, 1, 128), "sr": ()}, {"input": (2, 576), "state": (2, 2, 128), "sr": ()}),
            dynamic=True, state=frozenset({"state"})),
    Network("minilm_l3", partial(_fetched, "paraphrase-MiniLM-L3-v2.onnx"),
            ({"input_ids": (1, 16), "attention_mask": (1, 16)}, {"input_ids": (2, 33), "attention_mask": (2, 33)}),
            dynamic=True),
    Network("ppocr_rec", partial(_fetched, "ch_PP-OCRv4_rec_infer.onnx"),
            ({"x": (1, 3, 48, 160)}, {"x": (2, 3, 48, 320)}), dynamic=True, classes=(0,), picture=_text_lines),
    Network("ppocr_det", partial(_fetched, "ch_PP-OCRv4_det_infer.onnx"),
            ({"x": (1, 3, 96, 160)}, {"x": (1, 3, 256, 192)}), dynamic=True, picture=_text_page),
    _light("squeezenet", "small"),
    _light("shufflenet", "small"),
    _light("inception_v1", "medium"),
    _light("inception_v2", "medium"),
    _light("resnet50", "medium"),
    _light("densenet121", "medium"),
    Network("vit_small", partial(_made, "vit_small", transformers.vit),
            ({"x": (1, 3, 224, 224)}, {"x": (2, 3, 224, 224)}), dynamic=True, classes=(0,), cost="medium"),
    Network("bert_base", partial(_made, "bert_base", transformers.bert),
            (_tokens(1, 32), _tokens(2, 57)), dynamic=True, cost="big"),
    _light("bvlc_alexnet", "big"),
    _light("zfnet512", "big"),
    _light("vgg19", "big"),
)
BY_NAME = {network.name: network for network in NETWORKS}
