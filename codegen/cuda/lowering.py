"""Lowerings of the CUDA family where the CPU's write LLVM IR directly; everything else is loop kernels already."""
from __future__ import annotations

from lepton.codegen.cuda import (  # noqa: F401  (register their lowerings)
    attention,
    integers,
    moves,
    order,
    products,
    transposed,
)
from lepton.codegen.group import lowers
from lepton.codegen.lower.recurrent_rows import recurrent_rows
from lepton.codegen.lower.tree_loops import tree_loops
from lepton.ir import ops

lowers(ops.lstm, ops.gru, ops.rnn, family="cuda")(recurrent_rows)
lowers(ops.tree_ensemble, family="cuda")(tree_loops)
