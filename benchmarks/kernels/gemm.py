"""Matrix products: BERT's and ViT's layers with constant weights, square ones, few rows, two values."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.kernels.timing import Case, main, model_of
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType

# m, k, n
CONSTANT = ((128, 768, 768), (128, 768, 2304), (128, 768, 3072), (128, 3072, 768), (197, 384, 1152), (1024, 1024, 1024),
            (16, 768, 768), (4, 768, 3072), (1, 768, 3072), (1, 2048, 1000), (3136, 96, 384), (49, 768, 3072))
VALUES = ((12, 128, 64, 128), (12, 128, 128, 64), (1, 512, 512, 512))   # batch, m, k, n


def constant(m: int, k: int, n: int) -> Case:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((k, n)).astype(np.float32)
    node = ops.matmul.node(Value(TensorType(DType.F32, (m, k))), ops.constant(value=Tensor.of(w)))
    model = model_of("MatMul", [("a", (m, k))], {"w": w})
    return Case(f"{m}x{k}x{n}", node, model, (("a", rng.random((m, k), dtype=np.float32)),))


def values(batch: int, m: int, k: int, n: int) -> Case:
    rng = np.random.default_rng(0)
    shapes = {"a": (batch, m, k), "b": (batch, k, n)}
    node = ops.matmul.node(*(Value(TensorType(DType.F32, s)) for s in shapes.values()))
    model = model_of("MatMul", list(shapes.items()), {})
    feeds = tuple((name, rng.random(s, dtype=np.float32)) for name, s in shapes.items())
    return Case(f"two values {batch}x {m}x{k}x{n}", node, model, feeds)


def cases() -> Iterator[Case]:
    for shape in CONSTANT:
        yield constant(*shape)
    for row in VALUES:
        yield values(*row)


if __name__ == "__main__":
    main(cases, __doc__)
