"""Products with weights given by codes of a few bits."""
from __future__ import annotations

from lepton.codegen.group import lowers
from lepton.codegen.lower.coded_loops import coded_loops
from lepton.ir import ops

lowers(ops.matmul_coded)(coded_loops)
lowers(ops.matmul_coded, family="cuda")(coded_loops)
