"""Denormals: kept, but under `--math fast`, and the caller's way with them is never touched."""
from __future__ import annotations

import ctypes
import platform

import numpy as np
import pytest

import lepton
from lepton.ir.parser import parse

SCALE = """graph @g(%x: f32[400,1000]) {
  %half = constant(value=dense<0.5 : f32[]>)
  %y = mul(%x, %half)
  return %y
}
"""
SMALL = np.float32(1e-39)   # denormal


def modes() -> int:
    """FTZ and DAZ of this thread: bits of MXCSR, which lies behind the 28 bytes of the x87 in glibc's fenv_t."""
    environment = (ctypes.c_uint32 * 8)()
    ctypes.CDLL("libm.so.6").fegetenv(environment)
    return environment[7] & 0x8040


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("math", "kept"), [("strict", True), ("default", True), ("fast", False)])
def test_only_fast_flushes(math: str, kept: bool, threads: int) -> None:
    x = np.full((400, 1000), SMALL)
    x[::7] = 3.0
    model = lepton.compile(parse(SCALE), math=math, threads=threads)
    session = model.session(threads=threads)
    want = x * np.float32(0.5) if kept else np.where(x == 3, np.float32(1.5), np.float32(0))
    for _ in range(20):
        (y,) = session.run({"x": x}).values()
        np.testing.assert_array_equal(y, want)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads MXCSR")
def test_the_callers_mode_is_its_own() -> None:
    model = lepton.compile(parse(SCALE), math="fast", threads=2)
    x = np.full((400, 1000), SMALL)
    assert modes() == 0
    assert not model(x).any()
    assert modes() == 0
    assert SMALL * np.float32(1) == SMALL
