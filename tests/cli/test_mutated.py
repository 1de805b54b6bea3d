"""leptonc on files with random edits."""
from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cli import models
from tests.cli.models import OLD, Invoke


def _seeds() -> list[bytes]:
    """Files worth mutating: dense and convolutional, with shapes as data, a sub-graph, several kinds of attributes."""
    filters = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    weights: dict[str, np.ndarray] = {"w": filters, "s": np.array([0, -1], np.int64)}
    net = models.model([
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]), helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
        helper.make_node("Reshape", ["p", "s"], ["f"]), helper.make_node("Softmax", ["f"], ["y"], axis=-1),
    ], {"x": ["N", 3, 8, 8]}, {"y": ["N", "K"]}, weights)
    branch = [helper.make_graph([helper.make_node(op, ["x"], [name])], name, [],
                                [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4])])
              for op, name in (("Exp", "then"), ("Neg", "else"))]
    choice = models.model([helper.make_node("If", ["k"], ["y"], then_branch=branch[0], else_branch=branch[1])],
                          {"x": [4], "k": []}, {"y": [4]}, kinds={"k": int(TensorProto.BOOL)})
    typed = models.mlp()
    typed.graph.initializer[1].CopyFrom(numpy_helper.from_array(models.BIAS, "b"))
    return [m.SerializeToString() for m in (models.mlp(), net, choice, typed)]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four edits: bits, bytes, numbers at the edges, pieces cut, doubled, moved, overwritten."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(out)), rng.randint(1, 12)
        match rng.randrange(6):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                numbers = (b"\xff" * 9 + b"\x01", b"\x80\x80\x80\x80\x10")
                out[at:at] = rng.choice((*numbers, bytes(size), rng.randbytes(size)))
            case 3 if len(out) > size:
                del out[at:at + size]
            case 4:
                out[at:at] = out[rng.randrange(len(out)):][:size * 4]
            case _:
                piece = rng.randbytes(size)
                out[at:at + len(piece)] = piece
    return bytes(out) or b"\0"


FUZZ = int(os.environ.get("FUZZ_COUNT", "250"))


def test_mutated_models_never_crash(folder: Path, leptonc: Invoke) -> None:
    """leptonc on mutated files: compiled, or refused with a message and an exit code that is not `a bug`."""
    seeds, rng, codes = _seeds(), random.Random(7), dict[int, int]()
    for seed in seeds:
        (folder / "m.onnx").write_bytes(seed)
        assert leptonc("m.onnx", "--emit", "llvm", "--target", "x86-avx2", "-q", "-o", "m.ll")[0] == 0
    (folder / "m.ll").write_bytes(OLD)
    for number in range(FUZZ):
        data = mutate(rng.choice(seeds), rng)
        (folder / "m.onnx").write_bytes(data)
        code, out, err = leptonc("m.onnx", "--emit", "loops", "--target", "x86-avx2", "-q", "-o", "m.ll")
        codes[code] = codes.get(code, 0) + 1
        if code not in (0, 2, 3, 5):
            kept = Path(os.environ.get("FUZZ_KEEP", folder)) / f"fuzz-{number}.onnx"
            kept.write_bytes(data)
            pytest.fail(f"mutation {number} ({kept}): exit code {code}\n{err[-3000:]}")
        assert out == ""
        if code:
            assert err.startswith("leptonc: error: ")
            assert (folder / "m.ll").read_bytes() == OLD
        (folder / "m.ll").write_bytes(OLD)
    assert codes.get(3, 0) > FUZZ // 10, f"hardly a mutation was refused: {codes}"
    assert codes.get(0, 0) > FUZZ // 50, f"hardly a mutation was accepted: {codes}"
    assert not list(folder.glob("lepton-repro-*"))
