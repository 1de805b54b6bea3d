"""What NVRTC makes of the templates that lowerings give for whole nodes: as test_nvrtc_gates.py."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton.codegen.cuda.lowering
from lepton.codegen.cuda.templates.parts import SumOfParts
from lepton.codegen.cuda.templates.product import Product
from lepton.codegen.cuda.templates.text import DeviceBody
from lepton.codegen.group import LowerOptions, group_of, lowering_of
from lepton.codegen.kernel import Access, dense_strides
from lepton.ir import ops
from lepton.ir.core import Node
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType
from tests.codegen.harness import value
from tests.cuda.simulated import CUDA
from tests.cuda.test_nvrtc_gates import check

assert lepton.codegen.cuda.lowering
F32, F64, F16, I64 = DType.F32, DType.F64, DType.F16, DType.I64
Gate = tuple[DeviceBody, int, Sequence[str]]


def lowered(node: Node, *, before: bool = False) -> DeviceBody:
    """`before`: the kernel in front of its last one."""
    group = group_of(node, lambda v: Access(v.tensor, dense_strides(v.tensor.shape)))
    lowering = lowering_of(node.op, CUDA)
    assert lowering is not None
    kernel = lowering(group, LowerOptions(CUDA))
    body = kernel.before.body if before and kernel.before else kernel.body
    assert isinstance(body, DeviceBody), body
    return body


def attributes(size: int, stride: int) -> dict[str, Any]:
    return {"layout": "nhwc", "strides": (stride,) * 2, "dilations": (1, 1), "pads_begin": (size // 2,) * 2,
            "pads_end": (size // 2,) * 2}


def depthwise(dtype: DType, size: int, stride: int = 1) -> DeviceBody:
    w = ops.constant(value=Tensor.of(np.ones((96, 1, size, size), dtype.numpy)))
    return lowered(ops.conv.node(value((1, 56, 56, 96), dtype), w, None, group=96, **attributes(size, stride)))


def transposed(dtype: DType, size: int) -> DeviceBody:
    w = ops.constant(value=Tensor.of(np.ones((64, 64, size, size), dtype.numpy)))
    return lowered(ops.conv_transpose.node(value((8, 56, 56, 64), dtype), w, None, group=1, output_padding=(0, 0),
                                           **attributes(size, 2)))


def shared(dtype: DType, *, before: bool) -> DeviceBody:
    """A convolution whose sums blocks share: their parts, or what adds them up."""
    w = ops.constant(value=Tensor.of(np.ones((512, 512, 3, 3), dtype.numpy)))
    body = lowered(ops.conv.node(value((1, 7, 7, 512), dtype), w, None, group=1, **attributes(3, 1)), before=before)
    assert isinstance(body, Product if before else SumOfParts)
    return body


def firsts(dtype: DType, k: int) -> DeviceBody:
    return lowered(ops.top_k.node(value((4, 100000), dtype), k=k, axis=1, largest=True))


def running(dtype: DType) -> DeviceBody:
    return lowered(ops.cumsum.node(value((4, 100000), dtype), axis=1))


def found(dtype: DType) -> DeviceBody:
    return lowered(ops.non_zero.node(value((4, 100000), dtype), symbol=f"gate_{dtype.value}"))


def sorted_rows(dtype: DType) -> DeviceBody:
    return lowered(ops.sort_rows.node(value((100000, 3), dtype)))


# name -> (body, most registers of a thread, instructions that must occur)
KERNELS: dict[str, Gate] = {
    "depthwise": (depthwise(F32, 3), 128, ("FFMA", "LDG.E.128", "STG.E.128")),
    "depthwise_f16": (depthwise(F16, 3), 128, ("FFMA", "LDG.E.128", "STG.E.128")),
    "transposed_f16": (transposed(F16, 4), 128, ("HMMA.16816.F32 ", "LDSM.16.M88.4", "LDGSTS.E.BYPASS.128")),
    "parts": (shared(F32, before=True), 128, ("FFMA", "LDG.E.128")),
    "parts_f16": (shared(F16, before=True), 80, ("HMMA.16816.F32 ", "LDGSTS.E.BYPASS.128")),
    "sum_of_parts": (shared(F32, before=False), 40, ("FADD",)),
    "firsts": (firsts(F32, 50), 64, ("SHFL.BFLY", "LDS", "BAR.SYNC")),
    "in_order": (firsts(F32, 100000), 48, ("BAR.SYNC", "STG.E.64")),
    "running": (running(F32), 48, ("SHFL.BFLY", "FADD")),
    "found": (found(F32), 32, ("SHFL.BFLY", "STG.E.64")),
    "sorted_rows": (sorted_rows(F32), 32, ("BAR.SYNC", "STG.E.64")),
}
MORE: dict[str, Gate] = {
    "depthwise_step": (depthwise(F32, 3, 2), 96, ("FFMA", "LDG.E.128")),
    "depthwise_5": (depthwise(F32, 5), 128, ("FFMA", "LDG.E.128")),
    "depthwise_7": (depthwise(F32, 7), 168, ("FFMA", "LDG.E.128")),
    "depthwise_21": (depthwise(F32, 21), 96, ("FFMA", "LDG.E.128")),
    "depthwise_f16_step": (depthwise(F16, 3, 2), 168, ("FFMA", "LDG.E.128")),
    "depthwise_f16_7": (depthwise(F16, 7), 224, ("FFMA", "LDG.E.128")),
    "depthwise_f64": (depthwise(F64, 3), 128, ("DFMA", "LDG.E.128")),
    "transposed_f16_3": (transposed(F16, 3), 128, ("HMMA.16816.F32 ", "LDGSTS.E.BYPASS.128")),
    "transposed": (transposed(F32, 3), 255, ("HMMA.1688.F32.TF32", "LDGSTS.E.BYPASS.128")),
    "firsts_i64": (firsts(I64, 50), 64, ("SHFL.BFLY", "LDS")),
    "in_order_f64": (firsts(F64, 100000), 48, ("STG.E.64",)),
    "running_f64": (running(F64), 48, ("SHFL.BFLY", "DADD")),
    "running_i64": (running(I64), 48, ("SHFL.BFLY", "IADD3")),
    "found_i64": (found(I64), 40, ("SHFL.BFLY",)),
    "sorted_rows_i64": (sorted_rows(I64), 32, ("BAR.SYNC",)),
}


def test_templates(tmp_path: Path) -> None:
    check(KERNELS, "sm_90a", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_120"])
def test_templates_everywhere(arch: str, tmp_path: Path) -> None:
    check(KERNELS | MORE, arch, tmp_path)
