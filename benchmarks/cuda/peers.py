"""torch as the peer: its kernels (cuBLAS, cuDNN, SDPA), as CUDA graphs and compiled, timed on the device.

Where torch sees no GPU everything runs on the CPU, timed by the clock: what it says of speed is nothing, but it shows
that the comparison is in order.
"""
from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Call = Callable[[], Any]
ROUNDS, TURNS, WARM = 30, 5, 3


def torch_or_none() -> Any:
    return import_module("torch") if find_spec("torch") else None


def on_gpu() -> bool:
    torch = torch_or_none()
    return torch is not None and bool(torch.cuda.is_available())


def place() -> str:
    return "cuda" if on_gpu() else "cpu"


def set_policy(policy: str) -> None:
    """f32: products and convolutions in f32 itself; tf32: by one product of TF32."""
    torch = import_module("torch")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = policy == "tf32"


def milliseconds(call: Call, turns: int) -> float:
    """Of one of so many calls: on the device, by events; without a GPU by the clock."""
    torch = import_module("torch")
    if not on_gpu():
        start = time.perf_counter()
        for _ in range(turns):
            call()
        return (time.perf_counter() - start) * 1e3 / turns
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(turns):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end) / turns)


def median_ms(call: Call, until: float) -> float:
    taken: list[float] = []
    for _ in range(WARM):
        call()
    while len(taken) < ROUNDS and (len(taken) < 3 or time.monotonic() < until):
        taken.append(milliseconds(call, TURNS))
    return statistics.median(taken)


def graphed(call: Call) -> Call:
    """The call as a CUDA graph of torch's; without a GPU the call."""
    torch = import_module("torch")
    if not on_gpu():
        return call
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(WARM):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay  # type: ignore[no-any-return]


def tensors(arrays: Mapping[str, Any]) -> dict[str, Any]:
    torch = import_module("torch")
    return {name: torch.from_numpy(array).to(place()) for name, array in arrays.items()}


class Network:
    """An ONNX file as torch runs it, by onnx2torch, for inputs of these sizes."""

    def __init__(self, path: Path, feeds: Mapping[str, Any]) -> None:
        self.arguments = list(tensors(feeds).values())
        self.net = fixed(import_module("onnx2torch").convert(str(path)).to(place()).eval(), self.arguments)

    def ms(self, way: str, until: float) -> float:
        """The median by one of WAYS."""
        with import_module("torch").no_grad():
            return median_ms(WAYS[way](self), until)


def fixed(net: Any, arguments: Sequence[Any]) -> Any:
    """With sizes as numbers where onnx2torch reads them from tensors: on a GPU that waits, which no CUDA graph holds,
    and torch.compile cannot follow it."""
    torch = import_module("torch")
    with torch.no_grad():
        import_module("torch.fx.passes.shape_prop").ShapeProp(net).propagate(*arguments)
    sizes: tuple[Any, ...]
    for node in list(net.graph.nodes):
        module: Any = net.get_submodule(node.target) if node.op == "call_module" else None
        made = node.meta.get("tensor_meta")
        match type(module).__name__:
            case "OnnxReshape":
                function, sizes = torch.reshape, (tuple(made.shape),)
            case "OnnxSplit13":
                function, sizes = torch.split, ([m.shape[module.axis] for m in made], module.axis)
            case _:
                continue
        with net.graph.inserting_before(node):
            node.replace_all_uses_with(net.graph.call_function(function, (node.args[0], *sizes)))
        net.graph.erase_node(node)
    net.recompile()
    return net


def compiled(mode: str, network: Network) -> Call:
    torch = import_module("torch")
    torch.compiler.reset()
    made = torch.compile(network.net, mode=mode)
    return lambda: made(*network.arguments)


WAYS: dict[str, Callable[[Network], Call]] = {
    "torch_graph": lambda n: graphed(lambda: n.net(*n.arguments)),
    "torch_compile": partial(compiled, "reduce-overhead"), "torch_autotune": partial(compiled, "max-autotune")}
