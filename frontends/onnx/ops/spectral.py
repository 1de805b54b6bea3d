"""Fourier transforms of known length as products with constant matrices, and what audio models put around them."""
from __future__ import annotations

import numpy as np

from lepton.frontends.onnx.call import Call
from lepton.frontends.onnx.ops.movement import cut
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim, floordiv
from lepton.ir.tensor import Array
from lepton.ir.types import DType

_LONGEST = 4096  # the matrices grow with the square


@imports("DFT", since=17)
def dft_17(c: Call) -> Value:
    return _dft(c, c.axis(1))


@imports("DFT", since=20)
def dft(c: Call) -> Value:
    axis = -2 if c.opt(2) is None else c.int_in(2, "the axis")
    return _dft(c, c.axes_of((axis,), c.x().tensor.rank)[0])


def _dft(c: Call, axis: int) -> Value:
    """[..., n, ..., 1 or 2] -> [..., k, ..., 2] (real: 1)."""
    x, inverse, onesided = c.x(), c.flag("inverse"), c.flag("onesided")
    rank, parts = x.tensor.rank, x.tensor.shape[-1]
    if rank < 2 or axis == rank - 1 or not isinstance(parts, int) or parts not in (1, 2):
        raise LeptonError(f"{x.tensor} is not [..., 1 or 2] with the axis {axis} before it", where=c.where)
    have = x.tensor.shape[axis]
    default: Dim = 2 * (have - 1) if inverse and onesided else have
    size = c.dim(1, "the length") if c.opt(1) is not None else default
    if not isinstance(size, int) or not isinstance(have, int) or not 1 <= size <= _LONGEST:
        c.open_sizes([size, have], f"a transform of length {size}",
                     help=f"lengths must be known, and {_LONGEST} at most")
    used = size // 2 + 1 if inverse and onesided else size
    x = _resized(c, x, axis, have, used)
    last = (*(a for a in range(rank - 1) if a != axis), axis)
    planes = [c(ops.transpose, c(ops.gather, x, c.const(k, DType.I64), axis=rank - 1), perm=last) for k in range(parts)]
    if inverse and onesided:
        results = [_real(c, planes, size)]
    else:
        results = _complex(c, planes, _matrix(size, size // 2 + 1 if onesided else size, inverse))
    back = tuple(last.index(a) for a in range(rank - 1))
    stacked = [c(ops.transpose, r, perm=back) for r in results]
    apart = [c.reshape(r, (*r.tensor.shape, 1)) for r in stacked]
    return c(ops.concat, *apart, axis=rank - 1) if len(apart) > 1 else apart[0]


def _resized(c: Call, x: Value, axis: int, have: int, want: int) -> Value:
    """The axis cut, or filled up with zeros."""
    if want <= have:
        return cut(c, x, {axis: (0, want, 1)})
    after = tuple(want - have if a == axis else 0 for a in range(x.tensor.rank))
    return c(ops.pad, x, before=(0,) * x.tensor.rank, after=after)


def _matrix(size: int, count: int, inverse: bool) -> Array:
    """[size, count] of exp(∓2πi jk/size), over size where inverse."""
    turns = np.outer(np.arange(size), np.arange(count)) % size / size
    return np.asarray(np.exp((2j if inverse else -2j) * np.pi * turns) / (size if inverse else 1))


def _complex(c: Call, planes: list[Value], matrix: Array) -> list[Value]:
    """[real, imaginary] of the planes (real, and perhaps imaginary) times the matrix."""
    re, im = (c.const(m, planes[0].tensor.dtype) for m in (matrix.real, matrix.imag))
    real, imag = c(ops.matmul, planes[0], re), c(ops.matmul, planes[0], im)
    if len(planes) == 2:
        real = c(ops.sub, real, c(ops.matmul, planes[1], im))
        imag = c(ops.add, imag, c(ops.matmul, planes[1], re))
    return [real, imag]


def _real(c: Call, planes: list[Value], size: int) -> Value:
    """The real signal whose spectrum's first half the planes are: the other half is its mirror image."""
    count = size // 2 + 1
    twice = np.array([1 if k == 0 or 2 * k == size else 2 for k in range(count)])
    matrix = _matrix(size, count, True).T * twice[:, None]
    re, im = (c.const(m, planes[0].tensor.dtype) for m in (matrix.real, matrix.imag))
    real = c(ops.matmul, planes[0], re)
    return c(ops.sub, real, c(ops.matmul, planes[1], im)) if len(planes) == 2 else real


@imports("STFT", since=17)
def stft(c: Call) -> Value:
    """signal [B,L,1] -> [B,frames,k,2]: a convolution with the windowed waves, one frame per step."""
    x, step = c.x(), c.int_in(1, "the step")
    window = c.opt(2)
    size = c.dim(3, "the frame's length") if c.opt(3) is not None else window.tensor.shape[0] if window else 0
    if x.tensor.rank != 3 or x.tensor.shape[2] != 1:
        c.fail(f"a signal of type {x.tensor}")
    if not isinstance(size, int) or not 1 <= size <= _LONGEST or step < 1:
        c.open_sizes([size], f"frames of length {size} every {step}",
                     help=f"lengths must be known, and {_LONGEST} at most")
    count = size // 2 + 1 if c.flag("onesided", True) else size
    matrix = _matrix(size, count, False)
    waves = np.concatenate([matrix.real.T, matrix.imag.T])[:, None, :]
    kernel = c.const(waves, x.tensor.dtype)
    kernel = kernel if window is None else c(ops.mul, kernel, window)
    batch, length = x.tensor.shape[:2]
    bands = c(ops.conv, c.reshape(x, (batch, 1, length)), kernel, strides=(step,), pads_begin=(0,), pads_end=(0,),
              dilations=(1,))
    frames = floordiv(length - size, step) + 1
    return c(ops.transpose, c.reshape(bands, (batch, 2, count, frames)), perm=(0, 3, 2, 1))


@imports("MelWeightMatrix", since=17)
def mel_weight_matrix(c: Call) -> Value:
    """Triangles that overlap, evenly spaced on the mel scale: a constant."""
    bands, size, rate = (c.int_in(i, what) for i, what in enumerate(("the bands", "the length", "the rate")))
    low, high = (c.number(i, "a frequency") for i in (3, 4))
    sane = 0 < bands <= _LONGEST and 0 < size <= 1 << 20 and bands * size <= 1 << 25
    if not sane or rate < 1 or not 0 <= low <= high < 1e9:
        raise LeptonError(f"{bands} bands of {size} at {rate} from {low} to {high}", where=c.where)
    begin, end = (2595 * np.log10(1 + edge / 700) for edge in (low, high))
    mels = begin + np.arange(bands + 2) * (end - begin) / (bands + 2)
    bins = ((size + 1) * (700 * (10 ** (mels / 2595) - 1)) // rate).astype(int)
    out = np.zeros((size // 2 + 1, bands))
    if bins[-1] > len(out) or bins[-2] >= len(out):
        raise LeptonError(f"the upper edge {high} lies above half the rate {rate}", where=c.where)
    for k, (a, b, d) in enumerate(zip(bins, bins[1:], bins[2:], strict=False)):
        if b == a:
            out[b:b + 1, k] = 1
        else:
            out[a:b + 1, k] = (np.arange(a, b + 1) - a) / (b - a)
        if d != b:
            out[b:d, k] = (d - np.arange(b, d)) / (d - b)
    return c.const(out, c.dtype("output_datatype", DType.F32))
