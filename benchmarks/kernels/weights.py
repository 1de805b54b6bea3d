"""Products with weights of a few bits next to those of f32; with --decoder, a decoder of GPT-2's size, token by token.

Weights are read cold: copies of them, more than the caches hold, take turns."""
from __future__ import annotations

import argparse
import ctypes
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import lepton
from benchmarks.kernels.timing import _filled, load
from lepton.ceilings import aligned
from lepton.codegen.group import LOWERINGS, LowerOptions, group_of
from lepton.codegen.kernel import Access, Kernel, Packed, dense_strides
from lepton.codegen.llvm.builder import Module
from lepton.codegen.target import TARGETS, native
from lepton.compress import quantize_model
from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from tests.models.decoder import Decoder, gpt2

SHAPES = ((768, 768), (768, 3072), (3072, 768), (4096, 4096))     # k, n
FORMS = {"f32": (32, 0, False), "int8": (8, 0, False), "int4 b32": (4, 32, False), "int4 b128": (4, 128, False),
         "palette 16": (4, 0, True), "palette 256": (8, 0, True)}  # bits, block, by a table
COLD = 128 << 20      # bytes of copies
GPT2 = Decoder(layers=12, width=768, heads=12, vocabulary=50257, positions=1024)
RECIPES: dict[str, dict[str, Any]] = {
    "f32": {}, "int8": {"kind": "weights", "bits": 8, "embeddings": True},
    "int4 b32": {"kind": "weights", "bits": 4, "block": 32, "embeddings": True},
    "palette 16": {"kind": "palette", "bits": 4, "embeddings": True}}


def constant(array: Array) -> Value:
    return ops.constant(value=Tensor.of(array))


def node(rows: int, k: int, n: int, bits: int, block: int, table: bool) -> Node:
    rng, x = np.random.default_rng(0), Value(TensorType(DType.F32, (rows, k)))
    if bits == 32:
        return ops.matmul.node(x, constant(rng.standard_normal((k, n)).astype(np.float32)))
    block = block or k
    scale = constant(rng.random((-(-k // block), n)).astype(np.float16).astype(np.float32))
    if table:
        codes = rng.integers(0, 1 << bits, (k, n)).astype(DType.U4.numpy if bits == 4 else np.uint8)
        entries = constant(rng.standard_normal(1 << bits).astype(np.float32))
        return ops.matmul_coded.node(x, constant(codes), scale, None, entries, block=block)
    codes = rng.integers(-(1 << bits - 1), 1 << bits - 1, (k, n)).astype(DType.I4.numpy if bits == 4 else np.int8)
    return ops.matmul_coded.node(x, constant(codes), scale, block=block)


def runner(made: Kernel, options: LowerOptions) -> tuple[Callable[[], None], int, int]:
    """A call of the kernel on each copy of its weights, how many copies, and a copy's bytes."""
    module = Module()
    made.body.emit(module, "kernel", options.target)
    function = load(str(module), options.target, "kernel")
    size = sum(o.array.nbytes for o in made.operands if isinstance(o, Packed))
    values = {o: _filled(o) for o in made.operands if isinstance(o, Value)}
    copies = []
    for _ in range(max(1, COLD // size)):
        arrays = [values[o] if isinstance(o, Value) else _filled(o) for o in made.operands]
        copies.append((arrays, (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))))
    assert isinstance(made.scratch, int)
    scratch = aligned(made.scratch + 64)

    def run() -> None:
        for _, pointers in copies:
            function(ctypes.addressof(pointers), None, scratch.ctypes.data, 0, made.tasks)

    return run, len(copies), size


def kernels(target: str, rows: list[int], only: str) -> Iterator[str]:
    """A line for each product and form."""
    options = LowerOptions(TARGETS[target])
    for m in rows:
        for k, n in SHAPES:
            plain = 0.0
            for name, (bits, block, table) in FORMS.items():
                if only not in name and name != "f32":
                    continue
                one = node(m, k, n, bits, block, table)
                group = group_of(one, lambda v: Access(v.tensor, dense_strides(v.tensor.shape)))
                run, copies, size = runner(LOWERINGS[one.op](group, options), options)
                best = least(run) / copies
                plain = plain or best
                yield (f"{m:3d} x {k} x {n}  {name:12s} {best * 1e6:8.1f} us  {size / best / 1e9:5.1f} GB/s  "
                       f"{8 * size / k / n:5.2f} bits a weight  {plain / best:5.2f}x of f32")


def least(run: Callable[[], None], rounds: int = 8) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = time.thread_time()
        run()
        best = min(best, time.thread_time() - start)
    return best


# --- a decoder ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Subject:
    """One form of the decoder."""

    session: Any
    weights: int

    def logits(self, tokens: Array, past: int, seed: int = 0) -> Array:
        """[tokens, vocabulary] after a cache of noise."""
        rng, shape = np.random.default_rng(seed), (1, GPT2.heads, past, GPT2.each)
        feeds = {f"past.{i}.{part}": rng.standard_normal(shape).astype(np.float32)
                 for i in range(GPT2.layers) for part in ("key", "value")}
        return np.asarray(self.session.run({"input_ids": tokens[None], **feeds})["logits"][0])


def subject(source: Any, threads: int) -> Subject:
    model = lepton.compile(source)
    return Subject(model.session(threads), model.metadata["statistics"]["weights"])


def decoder(threads: int) -> Iterator[str]:
    """One token behind 128 others, in turns; then what rounding changes about the next token of a text that the f32
    model says itself. The weights are random: a trained model's distributions are sharper, its losses other ones."""
    model = gpt2(GPT2)
    forms: dict[str, Graph | Any] = {n: quantize_model(model, **r) if r else model for n, r in RECIPES.items()}
    subjects = {name: subject(source, threads) for name, source in forms.items()}
    rng = np.random.default_rng(2)
    cache = {f"past.{i}.{part}": rng.standard_normal((1, GPT2.heads, 128, GPT2.each)).astype(np.float32)
             for i in range(GPT2.layers) for part in ("key", "value")}
    feeds = {"input_ids": np.array([[17]]), **cache}
    best = dict.fromkeys(subjects, float("inf"))
    clock = time.process_time if threads == 1 else time.perf_counter    # a busy machine interrupts long runs
    for _ in range(40):
        for name, one in subjects.items():
            start = clock()
            one.session.run(feeds)
            best[name] = min(best[name], clock() - start)
    text = said(subjects["f32"])
    exact = subjects["f32"].logits(text[:-1], 0)
    for name, one in subjects.items():
        found = one.logits(text[:-1], 0)
        yield (f"{name:12s} {best[name] * 1e3:7.2f} ms a token  {best['f32'] / best[name]:5.2f}x  "
               f"weights {one.weights / 1e6:6.1f} MB  KL {divergence(exact, found):.4f}  "
               f"perplexity {np.exp(surprise(found, text[1:])):.1f}")


def said(one: Subject, length: int = 65) -> Array:
    """Tokens drawn one after the other from the model's own distribution."""
    rng, text = np.random.default_rng(1), [11]
    while len(text) < length:
        last = one.logits(np.array(text), 0)[-1].astype(np.float64)
        text.append(int(rng.choice(last.size, p=np.exp(_log_shares(last)))))
    return np.array(text)


def _log_shares(logits: Array) -> Array:
    logits = logits.astype(np.float64)
    top = logits.max(axis=-1, keepdims=True)
    return np.asarray(logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True)))


def divergence(exact: Array, found: Array) -> float:
    """Mean KL divergence of the found distributions from the exact ones, in nats."""
    p, q = _log_shares(exact), _log_shares(found)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def surprise(logits: Array, tokens: Array) -> float:
    """Mean negative log likelihood of the tokens."""
    return float(-_log_shares(logits)[np.arange(len(tokens)), tokens].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default=native().name, choices=list(TARGETS))
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--only", default="", help="measure the forms whose names hold this text, and f32")
    parser.add_argument("--decoder", action="store_true", help="the decoder instead (2 GB of memory, a minute or two)")
    parser.add_argument("--threads", type=int, default=1, help="of the decoder")
    args = parser.parse_args()
    if not args.decoder:
        os.sched_setaffinity(0, {args.core})
    for line in decoder(args.threads) if args.decoder else kernels(args.target, args.rows, args.only):
        print(line, flush=True)


if __name__ == "__main__":
    main()
