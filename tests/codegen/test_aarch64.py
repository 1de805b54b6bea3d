"""Loop kernels on NEON, under qemu: the same lowerings and meanings, another instruction set."""
from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower  # noqa: F401
from lepton.codegen.group import LowerOptions, group_of
from lepton.codegen.kernel import Access, Kernel, Packed, dense_strides
from lepton.codegen.llvm.builder import Module
from lepton.codegen.llvm.machine import compile_module
from lepton.codegen.target import TARGETS
from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.op import Op
from lepton.ir.tensor import Array
from lepton.ir.types import DType
from tests.codegen.harness import assert_close, lower, meaning, value

NEON = TARGETS["aarch64-neon"]
CC = "aarch64-linux-gnu-gcc"
pytestmark = [pytest.mark.qemu, pytest.mark.skipif(not (shutil.which("qemu-aarch64") and shutil.which(CC)),
                                                   reason="needs qemu-aarch64 and a cross compiler")]
DRIVER = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
void kernel(void *const *bufs, const int64_t *dims, void *scratch, int64_t lo, int64_t hi);
/* argv: tasks, scratch bytes, then the sizes of the operands, whose bytes come in on stdin and go out on stdout */
int main(int argc, char **argv) {
  int n = argc - 3;
  void *bufs[16];
  int64_t dims[1] = {0};
  for (int i = 0; i < n; i++) {
    bufs[i] = malloc(atol(argv[i + 3]) + 1);
    if (fread(bufs[i], 1, atol(argv[i + 3]), stdin) != (size_t)atol(argv[i + 3])) return 1;
  }
  void *scratch = aligned_alloc(64, atol(argv[2]) + 64);
  int64_t tasks = atol(argv[1]);
  kernel(bufs, dims, scratch, tasks / 2, tasks);
  kernel(bufs, dims, scratch, 0, tasks / 2);
  for (int i = 0; i < n; i++) fwrite(bufs[i], 1, atol(argv[i + 3]), stdout);
  return 0;
}
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("neon")
    (folder / "driver.c").write_text(DRIVER)
    subprocess.run([CC, "-O1", "-c", "driver.c"], cwd=folder, check=True)
    return folder


def run(kernel: Kernel, arrays: Sequence[Array], folder: Path) -> list[Array]:
    """The operands after a run of all tasks."""
    module = Module()
    kernel.body.emit(module, "kernel", NEON)
    (folder / "kernel.o").write_bytes(compile_module(str(module).replace("define hidden", "define"), NEON))
    subprocess.run([CC, "-static", "driver.o", "kernel.o", "-lm", "-o", "a.out"], cwd=folder, check=True)
    sizes = [str(a.nbytes) for a in arrays]
    done = subprocess.run(["qemu-aarch64", "./a.out", str(kernel.tasks), str(kernel.scratch), *sizes], cwd=folder,
                          input=b"".join(a.tobytes() for a in arrays), capture_output=True, check=True, timeout=60)
    parts, at = [], 0
    for a in arrays:
        parts.append(np.frombuffer(done.stdout[at:at + a.nbytes], a.dtype).reshape(a.shape))
        at += a.nbytes
    return parts


def floats(*shape: int, seed: int = 0) -> Any:
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 3
    x.reshape(-1)[3::50] = np.nan
    return x


def cases() -> list[tuple[str, Node]]:
    x, y = value((3, 37)), value((37,))
    pads = {"pads_begin": (1, 1), "pads_end": (1, 1)}
    window: dict[str, Any] = {"kernel": (3, 3), "strides": (1, 1), "dilations": (1, 1), **pads}
    body = Graph.of("body", [x, y], [ops.gelu(ops.add(ops.tanh(x), y)), ops.sigmoid(x)])
    return [
        ("map", ops.fusion.node(Value(x.type), Value(y.type), regions=(body,), kind="map")),
        ("f16", ops.cast.node(value((5, 37)), to=DType.F16)), ("bf16", ops.cast.node(value((5, 37)), to=DType.BF16)),
        ("f8", ops.cast.node(value((5, 37)), to=DType.F8E4M3FN)), ("i32", ops.cast.node(value((5, 37)), to=DType.I32)),
        ("u8", ops.cast.node(value((5, 37)), to=DType.U8)), ("bool", ops.less.node(x, y)),
        ("softmax", ops.softmax.node(value((4, 37)), axis=1)), ("softmax0", ops.softmax.node(value((4, 37)), axis=0)),
        ("layer_norm", ops.layer_norm.node(x, y, value((37,)), axis=1, epsilon=1e-5)),
        ("max", ops.reduce_max.node(value((3, 5, 19)), axes=(2,))),
        ("sum", ops.reduce_sum.node(value((7, 19)), axes=(0,))),
        ("arg_max", ops.arg_max.node(value((5, 21)), axis=1)),
        ("pool", ops.max_pool.node(value((1, 6, 7, 11)), layout="nhwc", **window)),
        ("pool_nchw", ops.avg_pool.node(value((1, 2, 9, 21)), **window)), ("pow", ops.pow_.node(x, y)),
        ("top_k", ops.top_k.node(value((2, 30)), k=7, axis=1)),
        ("floor", ops.floor.node(x)), ("round", ops.round_.node(x)),
    ]


@pytest.mark.parametrize("case", cases(), ids=lambda c: c[0])
def test_kernel(case: tuple[str, Node], driver: Path) -> None:
    _, node = case
    inputs = [v for v in dict.fromkeys(node.inputs) if v is not None]
    group = group_of(node, lambda v: Access(v.tensor, dense_strides(v.tensor.shape)))
    kernel = lower(group, LowerOptions(NEON))
    arrays = {v: floats(*(int(str(d)) for d in v.tensor.shape), seed=i) for i, v in enumerate(inputs)}
    with np.errstate(all="ignore"):
        expected = meaning(Graph.of("test", inputs, node.results), [arrays[v] for v in inputs], {})
    operands: list[Array] = []
    for o in kernel.operands:
        if isinstance(o, Packed):
            operands.append(o.array)
        else:
            operands.append(arrays.get(o, np.zeros(tuple(int(str(d)) for d in o.tensor.shape), o.tensor.dtype.numpy)))
    after = run(kernel, operands, driver)
    for v, e in zip(node.results, expected, strict=True):
        assert_close(after[list(kernel.operands).index(v)], e, v.tensor, 1e-5, 1e-5)


@pytest.mark.parametrize("op", [ops.random_uniform, ops.random_normal], ids=lambda o: o.name)
def test_draws_have_the_same_bits(op: Op, driver: Path) -> None:
    state = value((2,), DType.U64)
    node = op.node(state, shape=(3, 37), dtype=DType.F32)
    kernel = lower(group_of(node, lambda v: Access(v.tensor, dense_strides(v.tensor.shape))), LowerOptions(NEON))
    given = np.array([0x0123456789ABCDEF, 5], np.uint64)
    operands = [given if o in node.inputs else np.zeros((3, 37), np.float32) for o in kernel.operands]
    after = run(kernel, operands, driver)
    want = op.reference(given, shape=(3, 37), dtype=DType.F32)
    assert after[list(kernel.operands).index(node.result)].tobytes() == want.tobytes()
