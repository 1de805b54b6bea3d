"""From a pruned graph back to PyTorch, to train on: the same answers, with normalisation between the layers again."""
from __future__ import annotations

import copy
import io

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from benchmarks.headline.data import Array
from benchmarks.headline.network import Block, Network, Widths, pairs
from lepton.ir.core import Graph
from lepton.passes.common import elements
from lepton.passes.compress.layers import Layer, layers


def export(network: Network, batch: int | None = 1) -> onnx.ModelProto:
    """As ONNX: `x` [batch,1,28,28] -> `scores`; normalisation is folded into the convolutions by PyTorch."""
    network = copy.deepcopy(network)
    network.eval().to(memory_format=torch.contiguous_format)
    x = torch.zeros(batch or 2, 1, 28, 28)
    shapes = None if batch else ({0: torch.export.Dim("N")},)
    program = torch.onnx.export(network, (x,), dynamo=True, input_names=["x"], output_names=["scores"],
                                dynamic_shapes=shapes, verbose=False)
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    return onnx.load_from_string(file.getvalue())


def rebuilt(graph: Graph, images: Array) -> Network:
    """The network that the graph is now; `images` tell what normalisation is to expect. Raises ValueError for a graph
    that is no such network."""
    found = layers(graph)
    convs = [layer for layer in found if layer.is_conv]
    (head,) = (layer for layer in found if not layer.is_conv)
    network = Network(widths(convs))
    network.eval()
    with torch.no_grad():
        for layer, (conv, norm) in zip(convs, pairs(network), strict=True):
            conv.weight.copy_(torch.from_numpy(layer.weight.copy()))
            norm.bias.copy_(torch.from_numpy(bias(layer).copy()))
            norm.running_var.fill_(1 - norm.eps)
        network.head.weight.copy_(torch.from_numpy(np.ascontiguousarray(head.weight.T)))
        (user,) = head.node.result.users
        (offset,) = (v for v in user.inputs if v is not None and v is not head.node.result)
        network.head.bias.copy_(torch.from_numpy(elements(offset).reshape(-1).copy()))
        normalise(network, torch.from_numpy(images))
    return network


def widths(convs: list[Layer]) -> Widths:
    """By the convolutions of a graph in their order. Raises ValueError."""
    shapes = [layer.weight.shape for layer in convs]
    whole = pairs(Network())
    if [s[2:] for s in shapes] != [tuple(conv.kernel_size) for conv, _ in whole]:
        raise ValueError(f"not the layers of this network: {shapes}")
    made = Network()
    order = {id(conv): shape[0] for (conv, _), shape in zip(pairs(made), shapes, strict=True)}
    blocks = [block for block in made.blocks if isinstance(block, Block)]
    inner = [order[id(block.conv1)] for block in blocks]
    trunks = [order[id(block.conv2)] for block in blocks]
    return Widths(order[id(made.stem)], tuple(trunks[::2]),
                  tuple((a, b) for a, b in zip(inner[::2], inner[1::2], strict=True)))


def bias(layer: Layer) -> Array:
    value = layer.node.inputs[2] if len(layer.node.inputs) > 2 else None
    return np.zeros(len(layer.weight), np.float32) if value is None else elements(value)


def normalise(network: Network, images: Tensor) -> None:
    """Let every norm subtract and divide by what the images show, and undo that by its weight and bias: the answers
    stay, and training finds what it is used to."""
    seen: dict[nn.Module, Tensor] = {}
    hooks = [conv.register_forward_hook(lambda module, _, y: seen.__setitem__(module, y)) for conv, _ in pairs(network)]
    network(images)
    for hook in hooks:
        hook.remove()
    for conv, norm in pairs(network):
        mean, variance = seen[conv].mean((0, 2, 3)), seen[conv].var((0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.bias.add_(mean)
        norm.weight.copy_((variance + norm.eps).sqrt())
