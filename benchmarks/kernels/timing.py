"""Run one kernel in this process, time it in turns with the peak of the machine and with ONNX Runtime."""
from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import lepton.codegen.lower
from lepton.ceilings import aligned, peak_loop
from lepton.codegen.group import LOWERINGS, LowerOptions, group_of
from lepton.codegen.kernel import Access, Kernel, Packed, dense_strides
from lepton.codegen.kernel import Operand as Bound
from lepton.codegen.llvm.builder import Module
from lepton.codegen.llvm.machine import compile_module
from lepton.codegen.target import TARGETS, Target, native
from lepton.codegen.templates.dots import FMA, bytes_dot
from lepton.ir.core import Node, Value
from lepton.ir.tensor import Array
from lepton.ir.types import DType

assert lepton.codegen.lower
ROUNDS = 12
_kept: list[Any] = []


@dataclass(frozen=True)
class Case:
    """What is measured: a node for Lepton, a model of one node and its inputs for ONNX Runtime."""

    name: str
    node: Node
    model: onnx.ModelProto | None = None
    feeds: tuple[tuple[str, Array], ...] = ()


@dataclass(frozen=True)
class Result:
    seconds: float
    gflops: float
    peak: float
    runtime: float | None     # ONNX Runtime's seconds

    def __str__(self) -> str:
        other = ""
        if self.runtime is not None:
            other = f"   ORT {self.runtime * 1e6:9.1f} us   {self.runtime / self.seconds:5.2f}x"
        share = 100 * self.gflops / self.peak
        return f"{self.seconds * 1e6:9.1f} us {self.gflops:7.1f} GFLOP/s {share:6.1f} % of peak{other}"


def main(cases: Callable[[], Iterable[Case]], about: str, elements: DType = DType.F32) -> None:
    """The command line that all benchmarks share; `elements`: whose products the peak is measured of."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--target", default=native().name, choices=list(TARGETS))
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--only", default="", help="measure the cases whose names hold this text")
    parser.add_argument("--no-winograd", action="store_true")
    parser.add_argument("--no-ort", action="store_true")
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.core})
    options = LowerOptions(TARGETS[args.target], winograd=not args.no_winograd)
    ratios = []
    for case in cases():
        if args.only in case.name:
            result = measure(case, options, compare=not args.no_ort, elements=elements)
            print(f"{case.name:34s} {result}", flush=True)
            if result.runtime is not None:
                ratios.append(result.runtime / result.seconds)
    if ratios:
        print(f"{'geometric mean against ORT':34s} {np.exp(np.mean(np.log(ratios))):.2f}x over {len(ratios)}")


def measure(case: Case, options: LowerOptions, *, compare: bool, elements: DType = DType.F32) -> Result:
    kernel, flops = kernel_runner(case.node, options)
    dot = FMA if elements is DType.F32 else bytes_dot(options.target, elements)
    peak, per_call = peak_loop(options.target, dot)
    runners = [kernel, peak]
    if compare and case.model is not None:
        runners.append(runtime_runner(case))
    best = [float("inf")] * len(runners)
    for run in runners:
        run()
    for _ in range(ROUNDS):
        for i, run in enumerate(runners):
            for _ in range(3):
                start = time.thread_time()
                run()
                best[i] = min(best[i], time.thread_time() - start)
    return Result(best[0], flops / best[0] / 1e9, per_call / best[1] / 1e9, best[2] if len(best) > 2 else None)


def load(text: str, target: Target, symbol: str) -> Any:
    folder = Path(tempfile.mkdtemp())
    (folder / "k.o").write_bytes(compile_module(text.replace("define hidden", "define"), target))
    subprocess.run(["cc", "-shared", "-o", folder / "k.so", folder / "k.o", "-lm"], check=True)
    function = getattr(ctypes.CDLL(str(folder / "k.so")), symbol)
    function.argtypes, function.restype = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 2, None
    return function


def kernel_runner(node: Node, options: LowerOptions) -> tuple[Callable[[], None], int]:
    """A call of the node's kernel over all its tasks, and its number of operations."""
    group = group_of(node, lambda v: Access(v.tensor, dense_strides(v.tensor.shape)))
    assert group.anchor is not None
    kernel = LOWERINGS[group.anchor.op](group, options)
    assert isinstance(kernel.flops, int)
    memory = {o: _filled(o) for step in (kernel.before, kernel) if step for o in step.operands}
    if kernel.before is None:
        return _steps_runner(kernel, options, memory), kernel.flops
    first, then = (_steps_runner(step, options, memory) for step in (kernel.before, kernel))

    def both() -> None:
        first()
        then()

    return both, kernel.flops


def _steps_runner(kernel: Kernel, options: LowerOptions, memory: Mapping[Bound, Array]) -> Callable[[], None]:
    """A call of one step over all its tasks."""
    module = Module()
    kernel.body.emit(module, "kernel", options.target)
    function = load(str(module), options.target, "kernel")
    arrays = [memory[o] for o in kernel.operands]
    pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
    assert isinstance(kernel.scratch, int)
    assert isinstance(kernel.tasks, int)
    scratch, tasks = aligned(kernel.scratch + 64), kernel.tasks
    _kept.append((arrays, pointers, scratch))
    at, place = ctypes.addressof(pointers), scratch.ctypes.data
    return lambda: function(at, None, place, 0, tasks)


def _filled(operand: Value | Packed) -> Array:
    if isinstance(operand, Packed):
        memory = aligned(operand.array.nbytes)
        memory[:] = np.ascontiguousarray(operand.array).reshape(-1).view(np.uint8)
        return memory
    size = operand.tensor.size
    assert isinstance(size, int)
    memory = aligned(size * operand.tensor.dtype.bytes)
    numbers = np.random.default_rng(0).random(size)
    memory.view(operand.tensor.dtype.numpy)[:] = numbers if operand.tensor.dtype.is_float else numbers * 127
    return memory


def runtime_runner(case: Case) -> Callable[[], None]:
    """ONNX Runtime on one thread, inputs and outputs bound."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    assert case.model is not None
    session = onnxruntime.InferenceSession(case.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in case.feeds:
        binding.bind_cpu_input(name, array)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding)


def model_of(op: str, inputs: Sequence[tuple[str, Sequence[int]]], constants: dict[str, Array],
             elements: DType = DType.F32, **attrs: Any) -> onnx.ModelProto:
    """An ONNX model of one node on tensors of `elements`; its operands are the inputs, then the constants."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    node = helper.make_node(op, [*(n for n, _ in inputs), *constants], ["y"], **attrs)
    kinds = helper.np_dtype_to_tensor_dtype(elements.numpy), onnx.TensorProto.FLOAT
    given = [helper.make_tensor_value_info(n, kinds[0], list(s)) for n, s in inputs]
    result = helper.make_tensor_value_info("y", kinds[1] if elements is DType.F32 else onnx.TensorProto.INT32, None)
    tensors = [numpy_helper.from_array(a, n) for n, a in constants.items()]
    graph = helper.make_graph([node], op, given, [result], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
