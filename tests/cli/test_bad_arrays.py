"""What a compiled model is handed, from Python and from C: right answers or errors with words."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton
from lepton._rt import ffi, lib
from lepton.ir.diagnostics import LeptonError
from tests.cli import models


@pytest.mark.parametrize(("x", "said"), [
    (np.ones((2, 15), np.float32), "x"), (np.ones(16, np.float32), "x"), (np.ones((1, 1, 16), np.float32), "x"),
    (np.ones((2, 16), np.float64), "expected f32"), (np.ones((2, 16), ">f4"), "expected f32"), ("text", "expected f32"),
    (None, "expected f32"), ([[1.0, 2.0], [3.0]], "cannot read"), (object, "expected f32"),
    (np.ma.masked_less(np.zeros((2, 16), np.float32), 1), "masked"),
], ids=lambda x: x if isinstance(x, str) else type(x).__name__)
def test_wrong_arrays(artifact: Path, x: object, said: str) -> None:
    model = lepton.load(artifact)
    for call_it in (lambda: model(x), lambda: model.run({"x": x})):
        with pytest.raises(LeptonError) as caught:
            call_it()
        assert caught.value.exit == 2
        assert said in str(caught.value)
    good = np.ones((2, 16), np.float32)
    np.testing.assert_allclose(model(good), models.mlp_answer(good), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", [
    {"level": "2"}, {"target": 5}, {"dims": 3}, {"structure": [1]}, {"values": "x"}, {"threads": 1.5}, {"threads": -1},
    {"plugins": "one.py"}, {"seed": "7"}, {"tune": "60s"}, {"self_check": "no"}, {"math": None},
], ids=str)
def test_options_of_another_kind(option: dict[str, Any]) -> None:
    with pytest.raises(LeptonError, match=next(iter(option))) as caught:
        lepton.compile(models.mlp(), **option)
    assert caught.value.exit == 2


def test_threads_and_seeds_are_numbers(artifact: Path) -> None:
    model = lepton.load(artifact, threads=1)
    model.session(np.int64(1))  # type: ignore[arg-type]
    odd: list[Any] = [-1, 2**31, "2", 1.5]
    for threads in odd:
        with pytest.raises(LeptonError, match="threads is"):
            model.session(threads)
        with pytest.raises(LeptonError, match="threads is"):
            lepton.load(artifact, threads=threads)
    odd = [-1, 2**64, "1", 0.5]
    for seed in odd:
        with pytest.raises(LeptonError, match="seed"):
            model.session().seed(seed)


def test_strides_are_understood(artifact: Path) -> None:
    """Strided, reversed, transposed, overlapping and read-only arrays are right; outputs in such memory are refused."""
    model, base = lepton.load(artifact), np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    odd = np.frombuffer(b"\0" + base[:2, :16].tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 16)
    views = [base[::3, ::2], base[::-1, 15::-1], base[:16, :4].T, np.broadcast_to(base[0, :16], (5, 16)), base[:0, :16]]
    for x in (*views, odd):
        np.testing.assert_allclose(model(x), models.mlp_answer(x), rtol=1e-4, atol=1e-4)
    wide = np.zeros((2, 16), np.float32)
    for y in (wide[:, ::2], np.zeros((8, 2), np.float32).T, np.zeros((2, 8)), np.zeros((3, 8), np.float32)):
        with pytest.raises(LeptonError, match="output 'y'"):
            model.run({"x": base[:2, :16]}, {"y": y})
    assert not wide.any()


def test_nulls_through_c(artifact: Path) -> None:
    """Every pointer that C lets through may be NULL: an error with words, never a crash."""
    api, null = lepton.load(artifact)._code.api, ffi.NULL
    out = ffi.new("lepton_session **")
    bad = lib.LEPTON_INVALID_ARGUMENT
    assert api.create(null, null) == bad
    assert api.create(null, out) == lib.LEPTON_OK
    session, tensors = out[0], ffi.new("lepton_tensor[2]")
    tensors[0].dtype, tensors[0].rank, tensors[0].shape[0:2] = 1, 2, [2, 16]
    try:
        for results in ((null, tensors + 1), (tensors, null), (null, null)):
            assert api.run(session, *results) == bad
            assert api.resolve(session, *results) == bad
            assert ffi.string(api.message(session))
        assert api.run(null, tensors, tensors + 1) == bad
        assert api.resolve(session, tensors, tensors + 1) == lib.LEPTON_OK
        assert api.run(session, tensors, tensors + 1) == bad, "an input without data"
        assert b"x" in ffi.string(api.message(session))
        assert ffi.string(api.message(null)) is not None
    finally:
        api.destroy(session)
        api.destroy(null)
