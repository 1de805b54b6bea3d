"""Recurrent layers: one kernel each, a task per direction and block of sequences."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel, packed
from lepton.codegen.lower.matmul import grain_of
from lepton.codegen.templates.cells import Activation
from lepton.codegen.templates.epilogue import Operand
from lepton.codegen.templates.fused import Bindings, constant_array, outer
from lepton.codegen.templates.gemm import pack_constant
from lepton.codegen.templates.recurrent import GATES, Recurrent
from lepton.codegen.templates.tiles import Tile, choose
from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.dims import Dim, ceildiv, product
from lepton.ir.ops.recurrent import ACTIVATIONS, DIRECTIONS
from lepton.ir.tensor import Array
from lepton.ir.types import DType

USUAL = {"lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh"), "rnn": ("tanh",)}
COUNT = {"lstm": 8, "gru": 6, "rnn": 6}     # of operands before the two scales
MOST_SEQUENCES = 12            # of a task
UNKNOWN_BATCH = 4
CHUNK_BYTES = 256 * 1024       # of projected gates


@lowers(ops.lstm, ops.gru, ops.rnn)
def lower_recurrent(group: Group, options: LowerOptions) -> Kernel:
    """All steps of all directions."""
    node = group.anchor
    assert node is not None
    if group.body.outputs != node.results or node.results[0].tensor.dtype not in (DType.F32, DType.F64):
        raise UnsupportedError(f"{node.op.name} on {node.results[0].type} is not supported in this form",
                               where=node.loc[0] if node.loc else None)
    return _Lowering(group, node, options).kernel()


class _Lowering:
    def __init__(self, group: Group, node: Node, options: LowerOptions) -> None:
        self.group, self.node, self.target = group, node, options.target
        self.kind, self.attrs, self.bindings = node.op.name, node.attrs, Bindings()
        names = ("x", "w", "r", "b", "lens", "h0", "c0", "p")
        given: tuple[Value | None, ...] = (*node.inputs, *(None,) * (COUNT[self.kind] + 2 - len(node.inputs)))
        *operands, w_scale, r_scale = given
        self.inputs = dict(zip(names, (*operands, *(None,) * len(names)), strict=False))
        self.scales = {"w": w_scale, "r": r_scale} if w_scale is not None else {}
        x, w = self.inputs["x"], self.inputs["w"]
        assert x is not None
        assert w is not None
        self.dtype = x.tensor.dtype
        first = self.attrs["layout"] == 0
        self.steps, self.batch = x.tensor.shape[:2] if first else x.tensor.shape[1::-1]
        self.hidden, length = int(self.attrs["hidden"]), w.tensor.shape[2]
        if not isinstance(length, int):
            raise UnsupportedError(f"{self.kind} with {length} inputs per step is not supported: not a number",
                                   where=node.loc[0] if node.loc else None)
        self.length = length
        self.first = first

    def kernel(self) -> Kernel:
        backwards = DIRECTIONS[self.attrs["direction"]]
        count = GATES[self.kind] * self.hidden
        block = self.block(len(backwards))
        lanes, size = self.target.lanes(self.dtype), self.dtype.bytes
        chunk = max(1, min(64, CHUNK_BYTES // (block * count * size)))
        chunk = min(chunk, max(1, self.steps)) if isinstance(self.steps, int) else chunk
        tile_w = choose(self.target, chunk, count, self.length, self.dtype)
        tile_r = choose(self.target, block, count, self.hidden, self.dtype, row_stride=0)
        bodyless = self.operands(tile_w, tile_r)
        steps, batch = self.bindings.sizes((self.steps, self.batch))
        variants = ("input_forget", "linear_before_reset")
        more: dict[str, Any] = {name: bool(self.attrs[name]) for name in variants if name in self.attrs}
        body = Recurrent(self.kind, self.dtype, steps, batch, self.length, self.hidden, backwards, self.functions(),
                         tile_w=tile_w, tile_r=tile_r, block=block, chunk=chunk, **bodyless, **more)
        tasks = product((len(backwards), ceildiv(self.batch, block)))
        flops = product((2, self.steps, self.batch, len(backwards), count, self.length + self.hidden))
        return Kernel(self.group.name, body, tuple(self.bindings.bound), tasks, self.bindings.table.dims,
                      sum(body.regions(lanes).values()) * size, grain_of(flops, tasks), flops, self.group.outputs)

    def block(self, directions: int) -> int:
        """Sequences of a task: many share the weights of a step, but two tasks should be possible."""
        if not isinstance(self.batch, int):
            return UNKNOWN_BATCH
        wanted = -(-self.batch // (2 if directions == 1 else 1))
        return max(1, min(MOST_SEQUENCES, wanted))

    def functions(self) -> tuple[tuple[Activation, ...], ...]:
        """The activations of each direction."""
        usual, names = USUAL[self.kind], self.attrs["activations"]
        alphas, betas = self.attrs["alphas"], self.attrs["betas"]
        found = []
        for d in range(len(DIRECTIONS[self.attrs["direction"]])):
            slots = range(d * len(usual), (d + 1) * len(usual))
            row = []
            for k, slot in enumerate(slots):
                name = names[slot] if names else usual[k]
                _, alpha, beta = ACTIVATIONS[name]
                row.append(Activation(name, alphas[slot] if alphas else alpha, betas[slot] if betas else beta,
                                      float(self.attrs["clip"])))
            found.append(tuple(row))
        return tuple(found)

    def operands(self, tile_w: Tile, tile_r: Tile) -> dict[str, Any]:
        """The body's operands by their names."""
        count = GATES[self.kind]
        parts = [(0, 2), (2, 3)] if self.kind == "gru" and not self.attrs["linear_before_reset"] else [(0, count)]
        results = self.node.results
        y, *ends = (self.bind(v, v, self.group.accesses[o].strides) for v, o in
                    zip(results, self.group.outputs, strict=True))
        return {
            "x": self.view("x", self.sequence), "w": self.weights("w", [(0, count)], tile_w),
            "r": self.weights("r", parts, tile_r), "b": self.view("b", tuple), "lens": self.view("lens", tuple),
            "h0": self.view("h0", self.states), "c0": self.view("c0", self.states), "p": self.view("p", tuple),
            "y": y, "ends": tuple(ends), "scales": tuple(self.scale(v) for v in self.scales.values()) or None,
        }

    def scale(self, value: Value | None) -> Operand:
        assert value is not None
        return self.bindings.operand(outer(self.group, value), value.tensor, self.group.access(value).strides)

    def bind(self, result: Value, inner: Value, strides: Sequence[Dim]) -> Operand:
        """A result: y over (t, d, n, h), a state over (d, n, h)."""
        program = self.group.outputs[self.group.body.outputs.index(inner)]
        if result is self.node.results[0]:
            ordered = tuple(strides) if self.first else (strides[1], strides[2], strides[0], strides[3])
        else:
            ordered = self.states(strides)
        return self.bindings.operand(program, result.tensor, ordered)

    def sequence(self, strides: Sequence[Dim]) -> tuple[Dim, ...]:
        return tuple(strides) if self.first else (strides[1], strides[0], strides[2])

    def states(self, strides: Sequence[Dim]) -> tuple[Dim, ...]:
        return tuple(strides) if self.first else (strides[1], strides[0], strides[2])

    def view(self, name: str, order: Any) -> Operand | None:
        value = self.inputs[name]
        if value is None:
            return None
        return self.bindings.operand(outer(self.group, value), value.tensor, order(self.group.access(value).strides))

    def weights(self, name: str, parts: list[tuple[int, int]], tile: Tile) -> Operand | int:
        """Constant weights in panels, others as they lie: over (d, k, column)."""
        value = self.inputs[name]
        assert value is not None
        array = constant_array(self.group, value)
        if array is not None:
            return self.bindings.buffer(packed(np.concatenate([
                pack_constant(self.columns(array[d], a, b), self.target, tile, self.dtype)
                for d in range(len(array)) for a, b in parts])))
        if self.scales:
            raise UnsupportedError(f"{self.kind} with levels that are no constants is not supported",
                                   where=self.node.loc[0] if self.node.loc else None)
        d, column, k = self.group.access(value).strides
        return self.bindings.operand(outer(self.group, value), value.tensor, (d, k, column))

    def columns(self, matrix: Array, first: int, last: int) -> Array:
        return np.ascontiguousarray(matrix[first * self.hidden:last * self.hidden].T)
