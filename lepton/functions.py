"""Functions that models call: C functions by pointer, or Python ones, registered under "domain::Name".

    lepton.register("acme.ops::Median", lambda x: np.median(x, axis=-1))

Python functions get read-only numpy views of the model's own memory, in the order of the node's inputs (None where an
optional one is absent), and the node's attributes as keywords. They give the outputs, an array or a tuple of them,
which are copied; one that has a keyword parameter `out` is handed the outputs' own memory instead (a list of arrays to
fill), where their sizes are known. Views must not be kept: the memory is the model's again afterwards.
"""
from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from lepton._rt import ffi, lib
from lepton.ir.diagnostics import LeptonError, UsageError
from lepton.ir.strings import to_bytes, to_text
from lepton.ports import Array, numpy_dtype, type_words

# Functions that come with Lepton, as "module:name", where the packages they need are installed.
INCLUDED = {"ai.onnx::ImageDecoder": "lepton.ir.images:decode"}
REGISTERED: dict[str, Registered] = {}
_RAISED = threading.local()


class Registered:
    """A C function and its context. `kept` lives as long as this."""

    def __init__(self, pointer: Any, context: Any = ffi.NULL, kept: object = None) -> None:
        self.pointer, self.context, self.kept = pointer, context, kept

    @classmethod
    def of(cls, function: object, context: object = None) -> Registered:
        """From a Python callable, cffi's pointer to a `lepton_function`, ctypes' one, or an address.

        Raises UsageError for anything else."""
        if isinstance(function, ffi.CData) or (isinstance(function, int) and not isinstance(function, bool)):
            pointer = ffi.cast("lepton_function", function)
        elif hasattr(function, "_flags_") and hasattr(function, "restype"):  # a function of ctypes'
            import ctypes

            pointer = ffi.cast("lepton_function", ctypes.cast(function, ctypes.c_void_p).value or 0)  # type: ignore[arg-type]
        elif callable(function):
            if context is not None:
                raise UsageError("a context is for C functions; Python ones have their closures")
            wrapped = Wrapped(function)
            handle = ffi.new_handle(wrapped)
            return cls(lib.lpt_call_python, handle, (wrapped, handle))
        else:
            raise UsageError(f"expected a function or a pointer to one, got {type(function).__name__}")
        if pointer == ffi.NULL:
            raise UsageError("the function's pointer is NULL")
        data = ffi.NULL if context is None else ffi.cast("void *", context)
        return cls(pointer, data, (function, context))


def register(name: str, function: object, context: object = None) -> None:
    """Make a function known to all models of this process whose sessions are made from now on.

    `function`: a Python callable, or a pointer to a C function (`lepton_function` in lepton.h), which gets `context`.
    Raises UsageError."""
    REGISTERED[checked_name(name)] = Registered.of(function, context)


def checked_name(name: str) -> str:
    """Raises UsageError unless this is "domain::Name"."""
    domain, colons, rest = name.partition("::")
    if not domain or not colons or not rest:
        raise UsageError(f"{name!r} is no name of a function: expected 'domain::Name'")
    return name


def find(name: str, own: Mapping[str, Registered]) -> Registered:
    """The function of this name: among a model's own, those of the process, those that come with Lepton.

    Raises UsageError where there is none."""
    found = own.get(name) or REGISTERED.get(name)
    if found is None and name in INCLUDED:
        module, _, attribute = INCLUDED[name].partition(":")
        found = REGISTERED[name] = Registered.of(getattr(import_module(module), attribute))
    if found is None:
        raise UsageError(f"the model calls '{name}', and no function of that name is registered",
                         help=f"lepton.register('{name}', function), or model.register, before the first run")
    return found


def rows(names: Sequence[str], own: Mapping[str, Registered]) -> tuple[Any, object]:
    """A `lepton_registration[]` of what a model needs, and what must live as long as a session that has it.

    Raises UsageError for a function that nobody registered."""
    if not names:
        return ffi.NULL, None
    found = [find(name, own) for name in names]
    texts = [ffi.new("char[]", name.encode()) for name in names]
    made = ffi.new("lepton_registration[]", [
        {"name": text, "function": f.pointer, "context": f.context} for text, f in zip(texts, found, strict=True)])
    return made, (made, texts, found)


def raised() -> BaseException | None:
    """What a Python function raised in this thread's last run, once."""
    error: BaseException | None = getattr(_RAISED, "error", None)
    _RAISED.error = None
    return error


# --- calls of Python functions --------------------------------------------------------------------


@ffi.def_extern(name="lpt_call_python", error=lib.LEPTON_INTERNAL)  # type: ignore[untyped-decorator]
def _enter(call: Any) -> int:
    try:
        status: int = ffi.from_handle(call.context)(call)
        return status
    except BaseException as error:
        _RAISED.error = error
        words = error.message if isinstance(error, LeptonError) else f"{type(error).__name__}: {error}"
        status = call.fail(call, lib.LEPTON_INVALID_ARGUMENT, words.encode())
        return status


class Wrapped:
    """A Python function as the runtime calls it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):  # builtins
            parameters = {}  # type: ignore[assignment]
        self.in_place = "out" in parameters and parameters["out"].kind is inspect.Parameter.KEYWORD_ONLY

    def __call__(self, call: Any) -> int:
        """The status. Raises what the function raises, and LeptonError for results that do not fit."""
        attributes = json.loads(ffi.buffer(call.attributes, call.attributes_size)[:].rstrip(b"\0") or b"{}")
        places = attributes.pop("sizes") if call.n_sizes else []
        inputs = [_read(call, call.inputs[i]) for i in range(call.n_inputs)]
        rows = [call.outputs[i] for i in range(call.n_outputs)]
        if self.in_place and not call.n_sizes and all(row.dtype != lib.LEPTON_STRING for row in rows):
            self.function(*inputs, **attributes, out=[_view(row, row.dtype) for row in rows])
            return int(lib.LEPTON_OK)
        made = self.function(*inputs, **attributes)
        results = made if isinstance(made, (tuple, list)) else (made,)
        if len(results) != len(rows):
            raise UsageError(f"gave {len(results)} results, expected {len(rows)}")
        arrays = [_fitting(result, row, i) for i, (result, row) in enumerate(zip(results, rows, strict=True))]
        if call.n_sizes:
            status: int = call.resize(call, [arrays[output].shape[axis] for output, axis in places])
            if status:
                return status
        for i, array in enumerate(arrays):
            _write(call, call.outputs[i], array, i)
        return int(lib.LEPTON_OK)


def _shape(row: Any) -> tuple[int, ...]:
    return tuple(row.shape[0:row.rank])


def _view(row: Any, code: int) -> Array:
    """The tensor's memory as an array; strings as their numbers."""
    dtype = np.dtype(np.int64) if code == lib.LEPTON_STRING else numpy_dtype(code)
    shape = _shape(row)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if not size:
        return np.empty(shape, dtype)
    return np.frombuffer(ffi.buffer(row.data, size), np.uint8).view(dtype).reshape(shape)


def _read(call: Any, row: Any) -> Array | None:
    if row.dtype == 0:
        return None
    array = _view(row, row.dtype)
    if row.dtype == lib.LEPTON_STRING:
        texts: Array = np.empty(array.shape, object)
        texts.reshape(-1)[:] = [_text(call, number) for number in array.reshape(-1).tolist()]
        return texts
    array.flags.writeable = False
    return array


def _text(call: Any, number: int) -> str:
    found = call.text(call, number)
    return to_text(ffi.buffer(found.data, found.size)[:]) if found.size else ""


def _fitting(result: Any, row: Any, index: int) -> Array:
    """The result as an array of the output's type. Raises UsageError."""
    array = np.asarray(result)
    dtype, shape = numpy_dtype(row.dtype), _shape(row)
    same = array.dtype.kind in "OUS" if dtype.kind == "O" else array.dtype == dtype
    if not same or array.ndim != len(shape) or any(d not in (-1, n) for d, n in zip(shape, array.shape, strict=True)):
        wanted = type_words(dtype, ["?" if d == -1 else d for d in shape])
        raise UsageError(f"result {index} is {type_words(array.dtype, array.shape)}, expected {wanted}")
    return array


def _write(call: Any, row: Any, array: Array, index: int) -> None:
    if _shape(row) != array.shape:
        raise UsageError(f"result {index} has shape {list(array.shape)}, expected {list(_shape(row))}")
    target = _view(row, row.dtype)
    if row.dtype != lib.LEPTON_STRING:
        target[...] = array
        return
    number = ffi.new("int64_t *")
    numbers = []
    for text in array.reshape(-1).tolist():
        data = to_bytes(text)
        words = ffi.from_buffer(data)
        if call.intern(call, {"data": words, "size": len(data)}, number):
            raise UsageError("no memory for a string")
        numbers.append(number[0])
    target.reshape(-1)[:] = numbers
