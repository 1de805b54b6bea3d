"""The importers, one function per ONNX operator and opset range. Importing this package fills the table."""
from __future__ import annotations

import lepton.frontends.onnx.ops.shape  # noqa: F401  (named `shape`, as a function in it is)
from lepton.frontends.onnx.ops import (  # noqa: F401
    control,
    conv,
    deform,
    detect,
    elementwise,
    index,
    linalg,
    matmul,
    microsoft,
    microsoft_attention,
    microsoft_quant,
    ml,
    movement,
    norm,
    quant,
    random,
    recurrent,
    reduce,
    resize,
    sample,
    sequence,
    sorting,
    spectral,
    text,
    training,
    tree_ensemble,
    trees,
    unpool,
)
