"""Attention layers of BERT, ViT and GPT. ONNX Runtime has no operator of this form in f32 to put beside them."""
from __future__ import annotations

from collections.abc import Iterator

from benchmarks.kernels.timing import Case, main
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.types import DType, TensorType

SHAPES = ((1, 12, 128, 64), (1, 12, 384, 64), (1, 6, 197, 64), (8, 12, 64, 64), (1, 12, 1024, 64))


def cases() -> Iterator[Case]:
    for batch, heads, length, size in SHAPES:
        shapes = [(batch, heads, length, size)] * 3 + [(batch, 1, 1, length)]
        node = ops.attention.node(*(Value(TensorType(DType.F32, s)) for s in shapes), scale=size ** -0.5)
        yield Case(f"{batch}x{heads} heads {length}x{size}", node)


if __name__ == "__main__":
    main(cases, __doc__)
