"""Single operators as ONNX models, and the same in torch: what `ops` of benchmarks.cuda.gpu measures."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper, numpy_helper

TYPES = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16, "i8": TensorProto.INT8}
NUMPY = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "i8": np.int8}
SCALES = {"f32": 0.1, "f16": 0.1, "bf16": 0.1, "i8": 40.0}   # of random data
RESULTS = {"MatMulInteger": (TensorProto.INT32,), "TopK": (0, TensorProto.INT64),
           "NonZero": (TensorProto.INT64,)}   # where they are not one of the operands' type, which is 0


@dataclass(frozen=True)
class Case:
    """One operator on random data. `weights` of the inputs are constants of the model, as in a network."""

    name: str
    op: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str = "f32"
    weights: int = 0                     # how many of the last inputs
    attributes: tuple[tuple[str, Any], ...] = ()
    flops: int = 0
    axes: tuple[int, ...] = ()           # one more constant: axis or k
    waits: bool = False                  # torch's waits for the GPU, so that no CUDA graph holds it

    def arrays(self) -> list[Any]:
        random = np.random.default_rng(1)
        return [(random.standard_normal(s) * SCALES[self.dtype]).astype(NUMPY[self.dtype]) for s in self.shapes]

    def feeds(self) -> dict[str, Any]:
        count = len(self.shapes) - self.weights
        return {f"x{i}": a for i, a in enumerate(self.arrays()[:count])}

    def model(self) -> bytes:
        names, arrays, code = [f"x{i}" for i in range(len(self.shapes))], self.arrays(), TYPES[self.dtype]
        count = len(names) - self.weights
        constants = [numpy_helper.from_array(a, n) for n, a in zip(names[count:], arrays[count:], strict=True)]
        if self.axes:
            constants.append(numpy_helper.from_array(np.array(self.axes, np.int64), "axes"))
            names.append("axes")
        results = {f"y{i}": kind or code for i, kind in enumerate(RESULTS.get(self.op, (0,)))}
        node = helper.make_node(self.op, names, list(results), **dict(self.attributes))
        graph = helper.make_graph(
            [node], "op", [helper.make_tensor_value_info(names[i], code, self.shapes[i]) for i in range(count)],
            [helper.make_tensor_value_info(name, kind, None) for name, kind in results.items()], constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
        return bytes(made.SerializeToString())

    @property
    def bytes(self) -> int:
        """Read once and, of the size of the first input, written once."""
        size = np.dtype(NUMPY[self.dtype]).itemsize
        return int(size * (sum(math.prod(s) for s in self.shapes) + math.prod(self.shapes[0])))

    def torch_call(self, torch: Any, device: str = "cuda") -> Callable[[], Any]:
        """The same by torch's own kernels."""
        halves = self.dtype == "bf16"   # which torch takes from no array
        x = [torch.from_numpy(a.astype(np.float32) if halves else a).to(device) for a in self.arrays()]
        x = [t.to(torch.bfloat16) for t in x] if halves else x
        functional, given = torch.nn.functional, dict(self.attributes)
        if self.op.startswith("Conv"):
            x = [t.to(memory_format=torch.channels_last) for t in x]
        conv = {"stride": given.get("strides", (1, 1)), "padding": given.get("pads", (0, 0))[:2],
                "groups": given.get("group", 1)}
        calls: dict[str, Callable[[], Any]] = {
            "MatMul": lambda: x[0] @ x[1],
            "MatMulInteger": lambda: torch._int_mm(x[0], x[1]),
            "Transpose": lambda: x[0].transpose(0, 1).contiguous(),
            "Conv": lambda: functional.conv2d(*x, None, **conv),
            "ConvTranspose": lambda: functional.conv_transpose2d(*x, None, **conv),
            "Attention": lambda: functional.scaled_dot_product_attention(*x),
            "Softmax": lambda: torch.softmax(x[0], -1),
            "LayerNormalization": lambda: functional.layer_norm(x[0], x[0].shape[-1:], x[1], x[2]),
            "TopK": lambda: torch.topk(x[0], self.axes[0]),
            "CumSum": lambda: torch.cumsum(x[0], self.axes[0]),
            "NonZero": lambda: torch.nonzero(x[0]),
            "Add": lambda: x[0] + x[1],
            "Gelu": lambda: functional.gelu(x[0])}
        return calls[self.op]


def product(m: int, n: int, k: int, dtype: str) -> Case:
    op = "MatMulInteger" if dtype == "i8" else "MatMul"
    return Case(f"matmul {dtype} {m}x{n}x{k}", op, ((m, k), (k, n)), dtype, 1, flops=2 * m * n * k)


def conv(batch: int, channels: int, out: int, size: int, kernel: int, stride: int = 1, group: int = 1,
         dtype: str = "f32") -> Case:
    pad = kernel // 2
    flops = 2 * batch * out * (size // stride) ** 2 * channels // group * kernel**2
    kind = "" if dtype == "f32" else f"{dtype} "
    name = f"conv {kind}{batch}x{channels}x{size}x{size} -> {out}, {kernel}x{kernel}/{stride}, groups {group}"
    return Case(name, "Conv",
                ((batch, channels, size, size), (out, channels // group, kernel, kernel)), dtype, 1,
                (("pads", (pad,) * 4), ("strides", (stride,) * 2), ("group", group)), flops)


def upsampled(batch: int, channels: int, out: int, size: int, dtype: str = "f32") -> Case:
    """Twice as large each way."""
    return Case(f"conv transpose {dtype} {batch}x{channels}x{size}x{size} -> {out}, 2x2/2", "ConvTranspose",
                ((batch, channels, size, size), (channels, out, 2, 2)), dtype, 1, (("strides", (2, 2)),),
                2 * batch * channels * out * (2 * size) ** 2)


def attention(batch: int, heads: int, length: int, size: int, dtype: str) -> Case:
    return Case(f"attention {dtype} {batch}x{heads}x{length}x{size}", "Attention", ((batch, heads, length, size),) * 3,
                dtype, flops=4 * batch * heads * length**2 * size)


# For the simulator: one of each kind.
SMALL = (
    product(8, 24, 16, "f32"), product(8, 24, 16, "f16"), product(8, 24, 16, "i8"), conv(1, 4, 8, 8, 3),
    attention(1, 2, 9, 8, "f32"),
    Case("softmax 3x50", "Softmax", ((3, 50),)),
    Case("layer norm 3x20", "LayerNormalization", ((3, 20), (20,), (20,)), weights=2),
    Case("gelu 100", "Gelu", ((100,),)),
    product(8, 24, 16, "bf16"), conv(1, 4, 4, 8, 3, 1, 4), upsampled(1, 8, 8, 3),
    Case("top 3 of 2x100", "TopK", ((2, 100),), axes=(3,)), Case("cumsum 2x100", "CumSum", ((2, 100),), axes=(1,)),
    Case("nonzero 200", "NonZero", ((200,),), waits=True),
)
CASES = (
    *(product(n, n, n, d) for d in ("f32", "f16", "bf16") for n in (256, 1024, 4096, 8192)),
    product(4096, 4096, 4096, "i8"), product(8192, 8192, 8192, "i8"),
    product(1, 4096, 4096, "f32"), product(1, 4096, 4096, "f16"),
    product(128, 3072, 768, "f32"),
    product(128, 3072, 768, "f16"),
    conv(1, 3, 64, 224, 7, 2), conv(1, 64, 64, 56, 3), conv(1, 256, 64, 56, 1), conv(1, 512, 512, 7, 3),
    conv(32, 64, 64, 56, 3), conv(32, 256, 64, 56, 1), conv(32, 256, 256, 14, 3), conv(1, 144, 144, 56, 3, 1, 144),
    conv(32, 64, 64, 56, 3, dtype="f16"), conv(32, 256, 256, 14, 3, dtype="f16"),
    conv(32, 144, 144, 56, 3, 1, 144), conv(32, 144, 144, 56, 3, 1, 144, "f16"),
    upsampled(8, 128, 64, 56), upsampled(8, 128, 64, 56, "f16"),
    attention(1, 12, 128, 64, "f32"), attention(1, 12, 128, 64, "f16"), attention(8, 16, 2048, 64, "f16"),
    Case("softmax 4096x4096", "Softmax", ((4096, 4096),)),
    Case("layer norm 8192x1024", "LayerNormalization", ((8192, 1024), (1024,), (1024,)), weights=2),
    Case("transpose 4096x4096", "Transpose", ((4096, 4096),), attributes=(("perm", (1, 0)),)),
    Case("add 16M", "Add", ((1 << 24,),) * 2), Case("gelu 16M", "Gelu", ((1 << 24,),)),
    Case("top 50 of 64x32000", "TopK", ((64, 32000),), axes=(50,)),
    Case("cumsum 256x65536", "CumSum", ((256, 65536),), axes=(1,)),
    Case("nonzero 16M", "NonZero", ((1 << 24,),), waits=True),
)
