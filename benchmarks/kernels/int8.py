"""Products and convolutions of bytes: u8 activations, s8 weights, summed in i32; next to ONNX Runtime's integer ops."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.kernels.timing import Case, main, model_of
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType

# m, k, n
PRODUCTS = ((128, 384, 384), (128, 384, 1536), (128, 1536, 384), (128, 768, 768), (128, 768, 3072), (128, 3072, 768),
            (1024, 1024, 1024), (197, 384, 1152), (1, 768, 3072))
# channels, filters, size, kernel, stride, groups
SHAPES = ((3, 64, 224, 7, 2, 1), (64, 64, 56, 1, 1, 1), (64, 64, 56, 3, 1, 1), (64, 256, 56, 1, 1, 1),
          (256, 64, 56, 1, 1, 1), (128, 128, 28, 3, 1, 1), (512, 128, 28, 1, 1, 1), (256, 256, 14, 3, 1, 1),
          (1024, 256, 14, 1, 1, 1), (512, 512, 7, 3, 1, 1), (512, 2048, 7, 1, 1, 1), (2048, 512, 7, 1, 1, 1),
          (32, 32, 112, 3, 1, 32), (96, 96, 112, 3, 2, 96), (192, 192, 28, 3, 1, 192))


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)


def product(m: int, k: int, n: int) -> Case:
    w = weights(k, n)
    node = ops.matmul_integer.node(Value(TensorType(DType.U8, (m, k))), ops.constant(value=Tensor.of(w)))
    model = model_of("MatMulInteger", [("a", (m, k))], {"w": w}, elements=DType.U8)
    x = np.random.default_rng(1).integers(0, 256, (m, k)).astype(np.uint8)
    return Case(f"{m}x{k}x{n}", node, model, (("a", x),))


def conv(channels: int, filters: int, size: int, kernel: int, stride: int, groups: int) -> Case:
    w, pad = weights(filters, channels // groups, kernel, kernel), kernel // 2
    x = Value(TensorType(DType.U8, (1, size, size, channels)))
    node = ops.conv_integer.node(x, ops.constant(value=Tensor.of(w)), strides=(stride,) * 2, pads_begin=(pad,) * 2,
                                 pads_end=(pad,) * 2, dilations=(1, 1), group=groups, layout="nhwc")
    kind = "dw" if groups == channels else ""
    return Case(f"{kind}{kernel}x{kernel} s{stride} {channels}->{filters} {size}x{size}", node)


def cases() -> Iterator[Case]:
    for shape in PRODUCTS:
        yield product(*shape)
    for row in SHAPES:
        yield conv(*row)


if __name__ == "__main__":
    main(cases, __doc__, DType.U8)
