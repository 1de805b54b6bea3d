"""Products with weights given by codes, as loop kernels: what decodes as it goes, on any target.

    for out element:  acc = 0;  for k:  acc += x[...] * ((level(codes[k, n]) - zero) * scale);  epilogue
"""
from __future__ import annotations

from lepton.codegen.group import Group, LowerOptions
from lepton.codegen.kernel import Kernel
from lepton.codegen.loops import Apply, Cast, Expr, Stmt, i64, mul
from lepton.codegen.lower.nest import div, load
from lepton.codegen.lower.products import _Product
from lepton.ir.types import DType


def coded_loops(group: Group, options: LowerOptions) -> Kernel:
    """A matmul_coded of any operands."""
    return _Coded(group).kernel()


class _Coded(_Product):
    def kernel(self) -> Kernel:
        assert self.x is not None
        return self.kernel_over(range(len(self.result.shape)), self.x.tensor.shape[-1], self.element_at)

    def element_at(self, point: list[Expr]) -> list[Stmt]:
        assert self.x is not None
        k = self.nest.var("k")
        left = self.element(self.x, [*point[:-1], k])
        product = Apply("mul", (left, self.weight(k, point[-1])), DType.F32)
        return self.sum([(k, self.nest.size(self.x.tensor.shape[-1]))], product, point, None)

    def weight(self, k: Expr, column: Expr) -> Expr:
        """The element of the matrix that the codes stand for."""
        assert self.w is not None
        _, _, scale, zero, table = (*self.node.inputs, None, None)[:5]
        assert scale is not None
        block = [div(k, i64(self.node.attrs["block"])), column]
        code = self.element(self.w, [k, column])
        level: Expr = Cast(code, DType.F32)
        if table is not None:
            place = mul(Cast(code, DType.I64), self.nest.size(self.group.access(table).strides[0]))
            level = load(self.buffers[table], DType.F32, place)
        if zero is not None:
            level = Apply("sub", (level, self.element(zero, block)), DType.F32)
        return Apply("mul", (level, self.element(scale, block)), DType.F32)
