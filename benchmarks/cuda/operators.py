"""Single operators as ONNX models, and the same in torch: what `ops` of benchmarks.cuda.gpu measures."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

TYPES = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "i8": TensorProto.INT8}
NUMPY = {"f32": np.float32, "f16": np.float16, "i8": np.int8}
SCALES = {"f32": 0.1, "f16": 0.1, "i8": 40.0}   # of random data
RESULTS = {"MatMulInteger": TensorProto.INT32}  # where it is not of the operands' type


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

    def arrays(self) -> list[Any]:
        random = np.random.default_rng(1)
        return [(random.standard_normal(s) * SCALES[self.dtype]).astype(NUMPY[self.dtype]) for s in self.shapes]

    def feeds(self) -> dict[str, Any]:
        count = len(self.shapes) - self.weights
        return {f"x{i}": a for i, a in enumerate(self.arrays()[:count])}

    def model(self) -> bytes:
        names, arrays, code = [f"x{i}" for i in range(len(self.shapes))], self.arrays(), TYPES[self.dtype]
        count = len(names) - self.weights
        node = helper.make_node(self.op, names, ["y"], **dict(self.attributes))
        graph = helper.make_graph(
            [node], "op", [helper.make_tensor_value_info(names[i], code, self.shapes[i]) for i in range(count)],
            [helper.make_tensor_value_info("y", RESULTS.get(self.op, code), None)],
            [numpy_helper.from_array(a, n) for n, a in zip(names[count:], arrays[count:], strict=True)])
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
        return bytes(made.SerializeToString())

    @property
    def bytes(self) -> int:
        """Read once and, of the size of the first input, written once."""
        size = np.dtype(NUMPY[self.dtype]).itemsize
        return int(size * (sum(math.prod(s) for s in self.shapes) + math.prod(self.shapes[0])))

    def torch_call(self, torch: Any) -> Callable[[], Any]:
        """The same by torch's own kernels."""
        x = [torch.from_numpy(a).cuda() for a in self.arrays()]
        functional, attributes = torch.nn.functional, dict(self.attributes)
        match self.op:
            case "MatMul":
                return lambda: x[0] @ x[1]
            case "MatMulInteger":
                return lambda: torch._int_mm(x[0], x[1])
            case "Transpose":
                return lambda: x[0].transpose(0, 1).contiguous()
            case "Conv":
                pads, strides = attributes.get("pads", (0, 0))[:2], attributes.get("strides", (1, 1))
                a, w = (t.to(memory_format=torch.channels_last) for t in x)
                return lambda: functional.conv2d(a, w, None, strides, pads, groups=attributes.get("group", 1))
            case "Attention":
                return lambda: functional.scaled_dot_product_attention(*x)
            case "Softmax":
                return lambda: torch.softmax(x[0], -1)
            case "LayerNormalization":
                return lambda: functional.layer_norm(x[0], x[0].shape[-1:], x[1], x[2])
            case "Add":
                return lambda: x[0] + x[1]
            case "Gelu":
                return lambda: functional.gelu(x[0])
        raise ValueError(f"no {self.op} of torch's to compare with")


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
)
CASES = (
    *(product(n, n, n, d) for d in ("f32", "f16") for n in (256, 1024, 4096, 8192)),
    product(4096, 4096, 4096, "i8"), product(8192, 8192, 8192, "i8"),
    product(1, 4096, 4096, "f32"), product(1, 4096, 4096, "f16"),
    product(128, 3072, 768, "f32"),
    product(128, 3072, 768, "f16"),
    conv(1, 3, 64, 224, 7, 2), conv(1, 64, 64, 56, 3), conv(1, 256, 64, 56, 1), conv(1, 512, 512, 7, 3),
    conv(32, 64, 64, 56, 3), conv(32, 256, 64, 56, 1), conv(32, 256, 256, 14, 3), conv(1, 144, 144, 56, 3, 1, 144),
    conv(32, 64, 64, 56, 3, dtype="f16"), conv(32, 256, 256, 14, 3, dtype="f16"),
    attention(1, 12, 128, 64, "f32"), attention(1, 12, 128, 64, "f16"), attention(8, 16, 2048, 64, "f16"),
    Case("softmax 4096x4096", "Softmax", ((4096, 4096),)),
    Case("layer norm 8192x1024", "LayerNormalization", ((8192, 1024), (1024,), (1024,)), weights=2),
    Case("transpose 4096x4096", "Transpose", ((4096, 4096),), attributes=(("perm", (1, 0)),)),
    Case("add 16M", "Add", ((1 << 24,),) * 2), Case("gelu 16M", "Gelu", ((1 << 24,),)),
)
