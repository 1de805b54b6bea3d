"""The pipelines: one list per -O level. A target family may leave out what it does itself."""
from __future__ import annotations

from typing import get_args

from lepton.ir.diagnostics import UsageError
from lepton.passes.attention import Attention
from lepton.passes.base import Math, Pass
from lepton.passes.batch_parts import BatchParts
from lepton.passes.canonicalise import Canonicalise
from lepton.passes.coded_recurrent import CodedRecurrent
from lepton.passes.coded_weights import CodedWeights
from lepton.passes.cse import CSE
from lepton.passes.device_halves import DeviceHalves
from lepton.passes.disjoint_windows import DisjointWindows
from lepton.passes.float8 import Float8
from lepton.passes.flush_denormals import FlushDenormals
from lepton.passes.fold import Fold
from lepton.passes.fold_batchnorm import FoldBatchnorm
from lepton.passes.fuse import Fuse
from lepton.passes.halves import Halves, Precision, WidenHalves
from lepton.passes.integer_regions import IntegerRegions
from lepton.passes.layout import Layout
from lepton.passes.matmuls import Matmuls
from lepton.passes.merge_matmuls import MergeMatmuls
from lepton.passes.norms import Norms
from lepton.passes.parts import Parts
from lepton.passes.raise_casts import RaiseCasts
from lepton.passes.tables import Tables
from lepton.passes.to_levels import ToLevels

LEVELS = (0, 1, 2, 3)


def pipeline_for(target_family: str, level: int, math: str, precision: Precision = "f32",
                 tiles: bool = False, float8: bool = False) -> list[Pass]:
    """The passes for a family of targets ("x86", "aarch64", …) at a level under a math policy. Raises UsageError.
    `tiles`: of a target that multiplies whole tiles of bf16. `float8`: of one that multiplies 8-bit floats.

    0: only what code generation needs. 1: fold, clean up, fuse. 2: layouts, norms and attention too. 3: all."""
    policy = next((p for p in get_args(Math) if p == math), None)
    if level not in LEVELS or policy is None:
        raise UsageError(f"no pipeline for level {level} and math {math!r}",
                         help=f"levels are {LEVELS}, policies {get_args(Math)}")
    if level == 0:
        return [FoldBatchnorm("strict")]
    clean: list[Pass] = [Canonicalise(policy), Fold(), CSE()]
    device = target_family == "cuda"    # whose products read halves
    widen: list[Pass] = [DeviceHalves(policy)] if device else [WidenHalves(policy)]
    coded: list[Pass] = [] if device else [CodedWeights(policy, many=96 if precision == "f32" else 0),
                                         CodedRecurrent(policy)]
    float8 = float8 and policy != "strict"
    eights: list[Pass] = [Float8(policy)] if float8 else []
    raised: list[Pass] = [RaiseCasts()] if precision == "bf16" and not device else []
    parts: list[Pass] = [Parts()] if tiles and policy == "fast" and precision == "f32" else []
    if level == 1:
        return [IntegerRegions(policy), *eights, *coded, *([] if device else widen), Fold(), *clean,
                FoldBatchnorm(policy), *clean, Halves(precision, tiles, float8), CSE(), Halves(float8=float8), *parts,
                ToLevels(policy), Fuse(float8=float8)]
    return [
        IntegerRegions(policy), *eights, *coded, Fold(), *clean, FoldBatchnorm(policy), *clean,
        Layout(), DisjointWindows(policy), *clean,
        Norms(policy), Attention(policy), *widen, Matmuls(policy), Tables(),
        FlushDenormals(policy), Halves(precision, tiles, float8), *raised, *clean,
        *([MergeMatmuls()] if level >= 3 else []),
        Halves(float8=float8), *parts, ToLevels(policy),
        *([BatchParts()] if level >= 3 and not device else []), Fuse(float8=float8),
    ]
