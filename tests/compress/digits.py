"""A small convolutional network, for scikit-learn's digits or other small pictures, trained here by descent."""
from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from sklearn.datasets import load_digits

from lepton.ir.tensor import Array

Weights = dict[str, Array]


def data() -> tuple[Array, Array]:
    """Images [1797,1,8,8] f32 in 0 ... 1 and labels [1797], in an order of no meaning."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return (images[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels[order]


def windows(x: Array) -> Array:
    """[N,C,H,W] -> [N,H,W,C*9], padded by 1."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.ascontiguousarray(views.transpose(0, 2, 3, 1, 4, 5)).reshape(len(x), x.shape[2], x.shape[3], -1)


def pooled(x: Array) -> Array:
    """[N,H,W,C] -> the largest of each 2x2 [N,H/2,W/2,C]."""
    n, h, w, c = x.shape
    return np.asarray(x.reshape(n, h // 2, 2, w // 2, 2, c).max(axis=(2, 4)))


def unpooled(gradient: Array, x: Array) -> Array:
    """What of the gradient reaches x: the elements that were the largest."""
    wide = gradient.repeat(2, axis=1).repeat(2, axis=2)
    return np.asarray(wide * (x == pooled(x).repeat(2, axis=1).repeat(2, axis=2)))


def step(w: Weights, x: Array, labels: Array) -> Weights:
    """Gradients of the cross entropy: conv 3x3, relu, pool, conv 3x3, relu, pool, dense. x [N,1,S,S], 4 divides S."""
    half, quarter = x.shape[2] // 2, x.shape[2] // 4
    a = windows(x)
    first = a @ w["v1"] + w["b1"]
    p = pooled(np.maximum(first, 0))
    b = windows(p.transpose(0, 3, 1, 2))
    second = b @ w["v2"] + w["b2"]
    q = pooled(np.maximum(second, 0)).reshape(len(x), -1)
    scores = q @ w["v3"] + w["b3"]
    share = np.exp(scores - scores.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    share[np.arange(len(x)), labels] -= 1
    share /= len(x)
    g: Weights = {"v3": q.T @ share, "b3": share.sum(axis=0)}
    d = unpooled((share @ w["v3"].T).reshape(len(x), quarter, quarter, -1), np.maximum(second, 0)) * (second > 0)
    g["v2"], g["b2"] = np.tensordot(b, d, ([0, 1, 2], [0, 1, 2])), d.sum(axis=(0, 1, 2))
    back = (d @ w["v2"].T).reshape(len(x), half, half, -1, 3, 3)
    e = np.zeros((len(x), half + 2, half + 2, back.shape[3]), np.float32)
    for i in range(3):
        for j in range(3):
            e[:, i:i + half, j:j + half] += back[..., i, j]
    e = unpooled(e[:, 1:-1, 1:-1], np.maximum(first, 0)) * (first > 0)
    g["v1"], g["b1"] = np.tensordot(a, e, ([0, 1, 2], [0, 1, 2])), e.sum(axis=(0, 1, 2))
    return g


@cache
def trained() -> Weights:
    """Weights by the first 1200 digits."""
    images, labels = data()
    return train(images[:1200], labels[:1200])


def train(images: Array, labels: Array, epochs: int = 8, channels: tuple[int, int] = (8, 16), kinds: int = 10,
          batch: int = 50) -> Weights:
    """Weights by Adam on images [N,1,S,S], labels [N]; what does not fill a batch waits for another epoch."""
    rng = np.random.default_rng(1)
    one, two = channels
    flat = two * (images.shape[2] // 4) ** 2
    shapes = {"v1": (9, one), "b1": (one,), "v2": (9 * one, two), "b2": (two,), "v3": (flat, kinds), "b3": (kinds,)}
    w = {k: (rng.standard_normal(s) * np.sqrt(2 / s[0]) if k[0] == "v" else np.zeros(s)).astype(np.float32)
         for k, s in shapes.items()}
    m, v = ({k: np.zeros_like(a) for k, a in w.items()} for _ in range(2))
    time = 0
    for _ in range(epochs):
        order = rng.permutation(len(images))
        for picked in np.split(order[:len(order) // batch * batch], len(order) // batch):
            time += 1
            for k, g in step(w, images[picked], labels[picked]).items():
                m[k] = 0.9 * m[k] + 0.1 * g
                v[k] = 0.999 * v[k] + 0.001 * g * g
                w[k] = (w[k] - 0.003 * (m[k] / (1 - 0.9**time)) / (np.sqrt(v[k] / (1 - 0.999**time)) + 1e-8)).astype(
                    np.float32)
    return w


def model(batch: int | str = "N") -> onnx.ModelProto:
    """The network for digits as ONNX: `x` [N,1,8,8] -> `scores` [N,10]."""
    return network(trained(), 8, batch)


def network(w: Weights, size: int, batch: int | str = "N") -> onnx.ModelProto:
    """Trained weights as ONNX: `x` [N,1,size,size] -> `scores` [N,kinds]."""
    one, two, kinds = len(w["b1"]), len(w["b2"]), len(w["b3"])
    conv: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1] * 4}
    pool: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
    tensors = {
        "w1": w["v1"].T.reshape(one, 1, 3, 3), "b1": w["b1"], "w2": w["v2"].T.reshape(two, one, 3, 3), "b2": w["b2"],
        # The dense layer saw [H,W,C]; ONNX's Flatten gives it [C,H,W].
        "w3": w["v3"].reshape(size // 4, size // 4, two, kinds).transpose(2, 0, 1, 3).reshape(-1, kinds),
        "b3": w["b3"]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], **conv), helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], **pool),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"], **conv),
        helper.make_node("Relu", ["c2"], ["r2"]), helper.make_node("MaxPool", ["r2"], ["p2"], **pool),
        helper.make_node("Flatten", ["p2"], ["f"]), helper.make_node("Gemm", ["f", "w3", "b3"], ["scores"])]
    graph = helper.make_graph(
        nodes, "digits", [helper.make_tensor_value_info("x", 1, [batch, 1, size, size])],
        [helper.make_tensor_value_info("scores", 1, [batch, kinds])],
        [numpy_helper.from_array(np.ascontiguousarray(a), k) for k, a in tensors.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
