"""Arrays that lie on a GPU, as other libraries hand them over: DLPack (kDLCUDA) and __cuda_array_interface__.

Sources: https://dmlc.github.io/dlpack/latest/c_api.html and
https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html.
"""
from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton.ir.diagnostics import LeptonError, UsageError

if TYPE_CHECKING:
    from lepton.artifact import Session

CUDA, CUDA_MANAGED = 2, 13  # DLDeviceType
DEFAULT_STREAM = 1          # __dlpack__'s word for the legacy default stream, which a session's stream waits for


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """Dense memory on a GPU. `owner` keeps it alive."""

    address: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    owner: object
    writable: bool = True   # DLPack's capsules do not say


class OnGpu:
    """In place of an array for an output: the result stays on the GPU, as a `Lent`."""


ON_GPU = OnGpu()


class Lent:
    """A result in a session's own memory on the GPU, until the session runs again. Other libraries read it by
    __cuda_array_interface__ (torch.as_tensor, cupy.asarray), other sessions as an input."""

    def __init__(self, session: Session, address: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.dtype, self.shape = dtype, shape
        self._session, self._address, self._run = session, address, session.runs

    def memory(self) -> DeviceArray:
        """Raises UsageError when the session has run again."""
        if self._session.runs != self._run:
            raise UsageError("the session has run again: its earlier results on the GPU are gone",
                             help="copy what is to stay, or give each run a session of its own")
        return DeviceArray(self._address, self.dtype, self.shape, self)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Raises UsageError when the session has run again, and for types that the interface has no word for."""
        memory = self.memory()
        if self.dtype.kind not in "biufc":
            raise UsageError(f"__cuda_array_interface__ has no word for elements of type {self.dtype.name}")
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (memory.address, False), "strides": None,
                "stream": DEFAULT_STREAM, "version": 3}

    def __repr__(self) -> str:
        return f"Lent({self.dtype.name}{list(self.shape)} on the GPU)"


class _Tensor(ctypes.Structure):
    """DLTensor, with which a DLManagedTensor begins."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("device", ctypes.c_int32), ("device_id", ctypes.c_int32), ("rank", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


def device_array(value: object, what: str) -> DeviceArray | None:
    """The memory of an array that lies on a GPU; None for what does not. `what` it is, for errors.

    Raises UsageError: not dense, a type that no model has, another GPU than the first."""
    if isinstance(value, Lent):   # of all types, also those that the interface has no word for
        return value.memory()
    where = getattr(value, "__dlpack_device__", None)
    if where is not None and hasattr(value, "__dlpack__"):
        kind, number = where()
        if kind not in (CUDA, CUDA_MANAGED):
            return None
        _check_number(int(number), what)
        return _from_dlpack(value, what)
    if hasattr(value, "__cuda_array_interface__"):
        return _from_interface(value, what)
    return None


def _check_number(number: int, what: str) -> None:
    if number:
        raise UsageError(f"{what} lies on GPU {number}; models run on the first that the process sees",
                         help="choose it by CUDA_VISIBLE_DEVICES")


def _from_dlpack(value: Any, what: str) -> DeviceArray:
    try:
        capsule = value.__dlpack__(stream=DEFAULT_STREAM)
    except (BufferError, TypeError, RuntimeError, ValueError) as error:
        raise UsageError(f"{what}: cannot take a {type(value).__name__}'s memory: {error}") from error
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _Tensor.from_address(get(capsule, b"dltensor"))
    shape = tuple(tensor.shape[i] for i in range(tensor.rank))
    if tensor.strides:
        _check_dense(shape, [tensor.strides[i] for i in range(tensor.rank)], 1, what)
    return DeviceArray((tensor.data or 0) + tensor.offset, _dtype(tensor, what), shape, (value, capsule))


def _dtype(tensor: _Tensor, what: str) -> np.dtype[Any]:
    """DLDataTypeCode and bits -> numpy's dtype."""
    if (tensor.code, tensor.bits, tensor.lanes) == (4, 16, 1):
        import ml_dtypes

        half: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return half
    kind = {0: "i", 1: "u", 2: "f", 5: "c", 6: "b"}.get(tensor.code)
    if kind is None or tensor.lanes != 1 or tensor.bits not in (8, 16, 32, 64, 128):
        raise UsageError(f"{what}: no model has elements of DLPack's type ({tensor.code}, {tensor.bits})")
    return np.dtype("bool" if kind == "b" else f"{kind}{tensor.bits // 8}")


def _from_interface(value: Any, what: str) -> DeviceArray:
    facts = value.__cuda_array_interface__
    shape, dtype = tuple(facts["shape"]), np.dtype(facts["typestr"])
    if facts.get("mask") is not None:
        raise UsageError(f"{what}: arrays with a mask are not read")
    if facts.get("stream") not in (None, DEFAULT_STREAM):
        _wait(int(facts["stream"]), what)
    if facts.get("strides") is not None:
        _check_dense(shape, facts["strides"], dtype.itemsize, what)
    address, read_only = facts["data"]
    return DeviceArray(int(address), dtype, shape, value, not read_only)


def _wait(stream: int, what: str) -> None:
    """For what another library has queued on a stream of its own. Raises LeptonError with the driver's words."""
    try:
        driver = ctypes.CDLL(os.environ.get("LEPTON_LIBCUDA") or "libcuda.so.1")
    except OSError as error:
        raise UsageError(f"{what} lies on a GPU, and there is no CUDA driver: {error}") from error
    context, words = ctypes.c_void_p(), ctypes.c_char_p()
    code = driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) or driver.cuCtxPushCurrent_v2(context)
    if not code:
        code = driver.cuStreamSynchronize(ctypes.c_void_p(stream))
        driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    if code:
        driver.cuGetErrorString(code, ctypes.byref(words))
        raise LeptonError(f"{what}: cannot wait for its stream: {(words.value or b'?').decode()}")


def _check_dense(shape: tuple[int, ...], strides: Any, unit: int, what: str) -> None:
    expected = unit
    for size, stride in zip(reversed(shape), reversed(list(strides)), strict=True):
        if size > 1 and stride != expected and 0 not in shape:
            raise UsageError(f"{what}: an array on a GPU must be dense and row-major", help="make it contiguous first")
        expected *= size
