"""Products with weights that are f16 numbers, stored as such, against the same with weights that are not."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.kernels.timing import Case, main
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType

# m, k, n
SHAPES = ((1, 8192, 8192), (1, 2048, 1000), (4, 768, 3072), (128, 768, 768), (128, 768, 3072), (512, 512, 512))


def cases() -> Iterator[Case]:
    for m, k, n in SHAPES:
        w = np.random.default_rng(0).standard_normal((k, n)).astype(np.float32)
        for kind, weights in (("f32", w), ("f16", w.astype(np.float16).astype(np.float32))):
            node = ops.matmul.node(Value(TensorType(DType.F32, (m, k))), ops.constant(value=Tensor.of(weights)))
            yield Case(f"{m}x{k}x{n} {kind}", node)


if __name__ == "__main__":
    main(cases, __doc__)
