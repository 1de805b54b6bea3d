"""ResNet-50's convolutions, depthwise ones of mobile networks, a transposed one; all with bias."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.kernels.timing import Case, main, model_of
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType

# channels, filters, size, kernel, stride, groups
SHAPES = (
    (3, 64, 224, 7, 2, 1), (64, 64, 56, 1, 1, 1), (64, 64, 56, 3, 1, 1), (64, 256, 56, 1, 1, 1), (256, 64, 56, 1, 1, 1),
    (128, 128, 56, 3, 2, 1), (256, 512, 56, 1, 2, 1), (128, 128, 28, 3, 1, 1), (512, 128, 28, 1, 1, 1),
    (256, 256, 28, 3, 2, 1), (256, 256, 14, 3, 1, 1), (1024, 256, 14, 1, 1, 1), (512, 512, 14, 3, 2, 1),
    (512, 512, 7, 3, 1, 1), (512, 2048, 7, 1, 1, 1), (2048, 512, 7, 1, 1, 1), (32, 32, 112, 3, 1, 32),
    (96, 96, 112, 3, 2, 96), (192, 192, 28, 3, 1, 192), (672, 672, 14, 5, 1, 672), (64, 64, 28, 3, 1, 4),
)
TRANSPOSED = ((64, 32, 28, 2, 2), (128, 64, 28, 4, 2), (32, 1, 160, 2, 2))   # channels, filters, size, kernel, stride


def conv(channels: int, filters: int, size: int, kernel: int, stride: int, groups: int) -> Case:
    rng, pad = np.random.default_rng(0), kernel // 2
    w = rng.standard_normal((filters, channels // groups, kernel, kernel)).astype(np.float32)
    b = rng.standard_normal(filters).astype(np.float32)
    x = Value(TensorType(DType.F32, (1, size, size, channels)))
    node = ops.conv.node(x, ops.constant(value=Tensor.of(w)), ops.constant(value=Tensor.of(b)), strides=(stride,) * 2,
                         pads_begin=(pad,) * 2, pads_end=(pad,) * 2, dilations=(1, 1), group=groups, layout="nhwc")
    shape = (1, channels, size, size)
    model = model_of("Conv", [("x", shape)], {"w": w, "b": b}, strides=[stride] * 2, pads=[pad] * 4, group=groups)
    kind = "dw" if groups == channels else "" if groups == 1 else f"g{groups} "
    name = f"{kind}{kernel}x{kernel} s{stride} {channels}->{filters} {size}x{size}"
    return Case(name, node, model, (("x", rng.random(shape, dtype=np.float32)),))


def transposed(channels: int, filters: int, size: int, kernel: int, stride: int) -> Case:
    rng, pad = np.random.default_rng(0), (kernel - stride) // 2
    w = rng.standard_normal((channels, filters, kernel, kernel)).astype(np.float32)
    x = Value(TensorType(DType.F32, (1, size, size, channels)))
    node = ops.conv_transpose.node(x, ops.constant(value=Tensor.of(w)), strides=(stride,) * 2, pads_begin=(pad,) * 2,
                                   pads_end=(pad,) * 2, dilations=(1, 1), output_padding=(0, 0), layout="nhwc")
    shape = (1, channels, size, size)
    model = model_of("ConvTranspose", [("x", shape)], {"w": w}, strides=[stride] * 2, pads=[pad] * 4)
    name = f"transposed {kernel}x{kernel} s{stride} {channels}->{filters} {size}x{size}"
    return Case(name, node, model, (("x", rng.random(shape, dtype=np.float32)),))


def cases() -> Iterator[Case]:
    for shape in SHAPES:
        yield conv(*shape)
    for row in TRANSPOSED:
        yield transposed(*row)


if __name__ == "__main__":
    main(cases, __doc__)
