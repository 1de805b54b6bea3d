"""Constants: read-only arrays compared and shared by content, loaded when first touched."""
from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from lepton.ir.types import DType, TensorType

Array = np.ndarray[Any, np.dtype[Any]]


class Tensor:
    """An immutable constant: a type and the elements, which may still lie in a file.

    `load` is called at most once at a time and may be called again after `release`; it must give the same
    elements each time (a memory map of the model's file, a slice of its bytes).
    """

    __slots__ = ("_array", "_digest", "_load", "type")

    def __init__(self, type: TensorType, load: Callable[[], Array] | None = None, array: Array | None = None) -> None:
        self.type, self._load, self._array = type, load, array
        self._digest: str | None = None

    @classmethod
    def of(cls, array: Any, dtype: DType | None = None, copy: bool = True) -> Tensor:
        """A constant with the elements of `array`, copied unless it is read-only already. `copy=False`: the array is
        given away, nobody writes into it any more."""
        array = np.asarray(array, dtype.numpy if dtype else None)
        if array.dtype.kind in "SUT":
            array = array.astype(object)
        if not array.flags.c_contiguous or (copy and array.flags.writeable):
            array = np.array(array, order="C")
        array.flags.writeable = False
        return cls(TensorType(DType.of(array), array.shape), array=array)

    @property
    def array(self) -> Array:
        """The elements: C-contiguous, read-only, in the type's numpy dtype."""
        if self._array is None:
            assert self._load is not None
            array = self._load()
            assert array.shape == self.type.shape, (array.shape, self.type)
            if array.flags.writeable:
                array.flags.writeable = False
            self._array = array
        return self._array

    def release(self) -> None:
        """Forget the elements if they can be loaded again."""
        if self._load is not None:
            self._array = None

    @property
    def nbytes(self) -> int:
        size = self.type.size
        assert isinstance(size, int)
        return size * self.type.dtype.bytes

    @property
    def digest(self) -> str:
        """Hash of type and content: what constants are shared, compared and elided by."""
        if self._digest is None:
            state = hashlib.sha256(str(self.type).encode())
            array = self.array
            if array.dtype == object:
                state.update(repr(array.tolist()).encode())
            else:
                state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            self._digest = state.hexdigest()
        return self._digest

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Tensor) and self.type == other.type and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.type) if self.nbytes > 4096 else hash(self.digest)

    def __repr__(self) -> str:
        return f"Tensor({self.type})"
