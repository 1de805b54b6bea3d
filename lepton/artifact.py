"""Compiled models: load one, ask for its ports, run it on numpy arrays.

Imports numpy, cffi's extension and the standard library only: a machine that runs models needs no compiler.
"""
from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np

from lepton import forks, functions
from lepton._rt import ffi, lib
from lepton.devices import DeviceArray, Lent, OnGpu
from lepton.ir.diagnostics import LeptonError, ResourceError, UsageError
from lepton.ir.structure import Structure
from lepton.ports import Array, Port, as_input, as_output, pointer, read_ports, read_strings, type_words


@dataclass(frozen=True, slots=True)
class StepTime:
    """What one step of a model has cost since profiling was switched on."""

    name: str
    calls: int
    seconds: float


class Code:
    """A function table, and what must live as long as it: a library, or memory of the JIT's."""

    def __init__(self, api: Any, *, program: Any = ffi.NULL, weights: Any = ffi.NULL,
                 keep_alive: object = None) -> None:
        self.api, self.program, self.weights, self.keep_alive = api, program, weights, keep_alive

        self.functions: tuple[str, ...] = tuple(ffi.string(api.functions[i]).decode() for i in range(api.n_functions))

    def create(self, threads: int, rows: Any = ffi.NULL) -> Any:
        """A `lepton_session *` whose program may call the functions in `rows`, a `lepton_registration[]`.

        Raises LeptonError."""
        options = ffi.new("lepton_options *", {
            "struct_size": ffi.sizeof("lepton_options"), "threads": threads, "functions": rows,
            "n_functions": 0 if rows == ffi.NULL else len(rows)})
        out = ffi.new("lepton_session **")
        if self.program == ffi.NULL:
            self.check(lib.lpt_call_create(self.api, options, out), ffi.NULL)
        else:
            self.check(lib.lpt_create(self.program, self.weights, options, out), ffi.NULL)
        return out[0]

    def check(self, status: int, session: Any) -> None:
        """Raise what a status means, in the runtime's words."""
        if status == lib.LEPTON_OK:
            return
        error = functions.raised()
        if error is not None and not isinstance(error, Exception):  # an interrupt inside a function
            raise error
        words = ffi.string(lib.lpt_call_message(self.api, session)).decode(errors="replace")
        if status == lib.LEPTON_INTERNAL:
            raise RuntimeError(f"internal error, this is a bug in Lepton: {words}")
        kinds = {lib.LEPTON_INVALID_ARGUMENT: UsageError, lib.LEPTON_OUT_OF_MEMORY: ResourceError}
        raise kinds.get(status, LeptonError)(words) from error


def checked_threads(threads: Any) -> int:
    """Raises UsageError."""
    if not isinstance(threads, Integral) or not 0 <= int(threads) < 2**31:
        raise UsageError(f"threads is {threads!r}; 0 means as many as the process may use")
    return int(threads)


def destroy(code: Code, session: Any, kept: object = None) -> None:
    """End a session of `code`'s."""
    lib.lpt_call_destroy(code.api, session)


class Session:
    """Memory to run a model in. Runs of one session wait for each other: give each thread its own."""

    def __init__(self, model: Model, threads: int) -> None:
        threads = checked_threads(threads)
        self.model = model
        self._code = model._code
        rows, kept = functions.rows(self._code.functions, model._functions)
        self._handle = self._code.create(threads, rows)
        weakref.finalize(self, destroy, self._code, self._handle, kept).atexit = False
        self._lock, self._runs, self._left = threading.RLock(), False, False
        self._inputs = ffi.new("lepton_tensor[]", max(len(model.inputs), 1))
        self._outputs = ffi.new("lepton_tensor[]", max(len(model.outputs), 1))
        self._rows = [self._inputs[i] for i in range(len(model.inputs))]
        self._out_rows = [self._outputs[i] for i in range(len(model.outputs))]
        for i, row in enumerate(self._rows):
            row.dtype = self._code.api.inputs[i].dtype
        self._shapes: list[tuple[int, ...] | None] = [None] * len(model.inputs)
        self._out_shapes: list[tuple[int, ...]] | None = None  # None: to be asked for
        self._steps: tuple[Any, int] = (ffi.NULL, 0)
        self.runs = 0  # begun so far
        forks.remember(self)

    def after_fork(self) -> None:
        """What another thread was in the middle of is never finished in the child."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock, self._left = threading.RLock(), True

    def _check_whole(self) -> None:
        if self._left:
            raise UsageError("another thread was running this session when the process forked, and does not exist here",
                             help="make the child a session of its own: model.session()")

    def __call__(self, *arrays: Any) -> Any:
        """Run on arrays in the order of the inputs; the output, or a tuple of them."""
        if self.model.structure is not None:
            return self._call_structured(self.model.structure, arrays)
        ports = self.model.inputs
        if len(arrays) != len(ports):
            raise UsageError(f"the model takes {len(ports)} inputs ({', '.join(p.name for p in ports)}), "
                             f"got {len(arrays)}")
        results = self._run(arrays, None)
        return results[0] if len(results) == 1 else tuple(results)

    def _call_structured(self, structure: Structure, values: Sequence[Any]) -> Any:
        if len(values) != len(structure.inputs):
            raise UsageError(f"the model takes {len(structure.inputs)} inputs ({', '.join(structure.inputs)}), "
                             f"got {len(values)}")
        results = tuple(self.run(dict(zip(structure.inputs, values, strict=True))).values())
        return results[0] if len(results) == 1 else results

    def run(self, feeds: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """`run_ports`; sequences and optionals among the inputs and outputs are lists and None."""
        structure = self.model.structure
        if structure is None or not isinstance(feeds, Mapping):
            return self.run_ports(feeds, outputs)
        return structure.results(self.run_ports(structure.feeds(feeds), outputs))

    def run_ports(self, feeds: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> dict[str, Array]:
        """Run on named arrays; all outputs by name.

        Inputs are numpy arrays or DLPack objects on the CPU, of the model's dtype and shape. C-contiguous ones are
        read in place, others copied first. `outputs` may name arrays of yours (C-contiguous, writeable) that are
        written in place; the other outputs come as new arrays. A model on a GPU also takes arrays that lie there
        (DLPack, __cuda_array_interface__), as inputs and as memory for outputs; `lepton.devices.ON_GPU` in the place of
        an output leaves it there (`lepton.devices.Lent`). Raises LeptonError.
        """
        names = self.model._input_names
        if not isinstance(feeds, Mapping) or len(feeds) != len(names) or any(name not in feeds for name in names):
            raise _names_error("input", names, feeds)
        if outputs and not outputs.keys() <= set(self.model._output_names):
            raise _names_error("output", self.model._output_names, outputs)
        results = self._run([feeds[name] for name in names], outputs)
        return dict(zip(self.model._output_names, results, strict=True))

    def profile(self, enable: bool = True) -> None:
        """Start counting step times at zero, or stop."""
        steps, count = ffi.new("lepton_step_time **"), ffi.new("size_t *")
        with self._lock:
            self._check_whole()
            status = lib.lpt_call_profile(self._code.api, self._handle, enable, steps, count)
            self._code.check(status, self._handle)
            self._steps = steps[0], count[0]

    def seed(self, seed: int) -> None:
        """The next run draws at random what the first run of a new session with this seed draws (0 to 2**64 - 1)."""
        number: Any = seed  # what callers without types give
        if not isinstance(number, Integral) or not 0 <= int(number) < 2**64:
            raise UsageError(f"seed {seed!r}; it must fit 64 bits without a sign")
        with self._lock:
            self._check_whole()
            self._code.check(lib.lpt_call_seed(self._code.api, self._handle, seed), self._handle)

    def step_times(self) -> list[StepTime]:
        """One entry per step, in the order of the program; empty before `profile`."""
        with self._lock:
            rows, count = self._steps
            return [StepTime(ffi.string(r.name).decode() if r.name else "?", r.calls, r.nanoseconds * 1e-9)
                    for r in (rows[i] for i in range(count))]

    # ---- one run ----

    def _run(self, arrays: Sequence[Any], given: Mapping[str, Any] | None) -> list[Array]:
        with self._lock:
            self._check_whole()
            if self._runs:  # only the thread that runs it gets here
                raise UsageError("a session runs inside a run of its own, by a function that the model calls",
                                 help="give the function a session of its own: model.session()")
            self._runs = True
            try:
                return self._run_locked(arrays, given)
            finally:
                self._runs = False

    def _run_locked(self, arrays: Sequence[Any], given: Mapping[str, Any] | None) -> list[Array]:
        held: list[Any] = []  # whose memory the runtime is shown; lives until it is done
        for i, (value, port) in enumerate(zip(arrays, self.model.inputs, strict=True)):
            array = as_input(value, port)
            if array.shape != self._shapes[i]:
                self._set_shape(i, array.shape)
            where = pointer(array)
            self._rows[i].data, self._rows[i].device = where, type(array) is DeviceArray
            held.append((array, where))
        self.runs += 1
        shapes = self._out_shapes
        if shapes is None:
            shapes = self._resolve()
        results = self._place_outputs(shapes, given, held)
        self._code.check(
            lib.lpt_call_run(self._code.api, self._handle, self._inputs, self._outputs), self._handle)
        return [self._late_result(i, r) for i, r in enumerate(results)]

    def _set_shape(self, index: int, shape: tuple[int, ...]) -> None:
        self._out_shapes, self._shapes[index] = None, None
        row = self._rows[index]
        row.rank = len(shape)  # one that is too high is refused by the runtime
        row.shape[0:min(len(shape), 16)] = shape[:16]
        self._shapes[index] = shape

    def _resolve(self) -> list[tuple[int, ...]]:
        """The outputs' shapes, -1 for sizes that depend on the data; their rows are filled in."""
        self._code.check(
            lib.lpt_call_resolve(self._code.api, self._handle, self._inputs, self._outputs), self._handle)
        self._out_shapes = [tuple(row.shape[0:row.rank]) for row in self._out_rows]
        return self._out_shapes

    def _place_outputs(self, shapes: Sequence[tuple[int, ...]], given: Mapping[str, Any] | None,
                       held: list[Any]) -> list[Array | OnGpu | None]:
        """The arrays that will hold the results; None where the runtime must find out the size."""
        results: list[Array | OnGpu | None] = []
        for port, row, shape in zip(self.model.outputs, self._out_rows, shapes, strict=True):
            result: Array | None = None
            row.device = 0
            if given is not None and isinstance(given.get(port.name), OnGpu):
                row.data, row.device = ffi.NULL, 1
                results.append(given[port.name])
                continue
            if given is not None and port.name in given:
                result = given[port.name]
                memory = as_output(result, port, shape)
                if isinstance(memory, DeviceArray):
                    row.data, row.device = pointer(memory), 1
                    held.append(memory)
                    results.append(result)
                    continue
            elif -1 not in shape and port.dtype != object:
                result = _memory(port, shape)
            own = result is None or port.dtype == object  # strings are read from the session's memory
            where = ffi.NULL if own or result is None else pointer(result)
            row.data = where
            held.append(where)
            results.append(result)
        return results

    def _late_result(self, index: int, result: Array | OnGpu | None) -> Any:
        """The result, or a copy of what the runtime keeps in memory of its own."""
        row, port = self._out_rows[index], self.model.outputs[index]
        shape = tuple(row.shape[0:row.rank])
        if isinstance(result, OnGpu):
            return Lent(self, int(ffi.cast("uintptr_t", row.data)), port.dtype, shape)
        if port.dtype == object:
            texts = read_strings(row.data, shape)
            if result is None:
                return texts
            result[...] = texts
        elif result is None:
            result = _memory(port, shape)
            ffi.memmove(pointer(result), row.data, result.nbytes)
        return result


def _memory(port: Port, shape: tuple[int, ...]) -> Array:
    """An array for an output. Raises ResourceError."""
    try:
        return np.empty(shape, port.dtype)
    except (MemoryError, ValueError) as error:  # ValueError: beyond the address space
        raise ResourceError(f"output '{port.name}': no memory for {type_words(port.dtype, shape)}") from error


def _names_error(kind: str, expected: Sequence[str], given: Any) -> LeptonError:
    if not isinstance(given, Mapping):
        return UsageError(f"{kind}s must be a dict from names to arrays, got {type(given).__name__}")
    missing = [n for n in expected if n not in given] if kind == "input" else []
    unknown = [str(n) for n in given if n not in expected]
    parts = [f"{word} {kind} {', '.join(map(repr, names))}"
             for word, names in (("missing", missing), ("unknown", unknown)) if names]
    return UsageError(f"{'; '.join(parts)}; the model's {kind}s are {', '.join(map(repr, expected))}")


class Model:
    """A compiled model: `model(x)`, `model.run({"x": x})`. Share it between threads.

    Its own runs use one session, made when first needed, and wait for each other; `session()` makes more. A forked
    child makes a new one where another thread was running it.
    """

    def __init__(self, code: Code, threads: int = 0) -> None:
        api = code.api
        self._code, self._threads = code, checked_threads(threads)
        self._making = threading.Lock()
        self._functions: dict[str, functions.Registered] = {}
        self.target: str | None = ffi.string(api.target).decode() if api.target else None
        self.metadata: dict[str, Any] = json.loads(ffi.string(api.metadata).decode()) if api.metadata else {}
        self.structure = Structure.of(self.metadata.get("model", {}))  # of sequences and optionals; None: has none
        self.inputs: tuple[Port, ...] = read_ports(api.n_inputs, api.inputs)
        self.outputs: tuple[Port, ...] = read_ports(api.n_outputs, api.outputs)
        self.workspace_size: int = api.workspace_size
        self._input_names = tuple(p.name for p in self.inputs)
        self._output_names = tuple(p.name for p in self.outputs)
        forks.remember(self)

    def after_fork(self) -> None:
        self._making = threading.Lock()
        session = self.__dict__.get("_session")
        if isinstance(session, Session):
            session.after_fork()  # whichever of the two is told first
            if session._left:
                del self.__dict__["_session"]

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions that the model calls, "domain::Name": they must be registered before it runs."""
        return self._code.functions

    def register(self, name: str, function: object, context: object = None) -> None:
        """`lepton.register` for this model alone: for sessions made from now on, and its own. Raises UsageError."""
        if functions.checked_name(name) not in self.functions:
            raise UsageError(f"the model does not call '{name}'; it calls {', '.join(self.functions) or 'none'}")
        with self._making:
            self._functions[name] = functions.Registered.of(function, context)
            self.__dict__.pop("_session", None)

    def session(self, threads: int | None = None) -> Session:
        """A session of its own for a thread. `threads`: how many it may use itself; 0 for all, None for the model's."""
        return Session(self, self._threads if threads is None else threads)

    @cached_property
    def _session(self) -> Session:
        with self._making:
            made = self.__dict__.get("_session")
            return made if isinstance(made, Session) else self.session()

    def __call__(self, *arrays: Any) -> Any:
        """Run on arrays in the order of the inputs; the output, or a tuple of them."""
        return self._session(*arrays)

    def run(self, feeds: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """`Session.run` on the model's own session."""
        return self._session.run(feeds, outputs)

    def run_ports(self, feeds: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> dict[str, Array]:
        """`Session.run_ports` on the model's own session."""
        return self._session.run_ports(feeds, outputs)

    def profile(self, enable: bool = True) -> None:
        """`Session.profile` on the model's own session."""
        self._session.profile(enable)

    def seed(self, seed: int) -> None:
        """`Session.seed` on the model's own session."""
        self._session.seed(seed)

    def step_times(self) -> list[StepTime]:
        """`Session.step_times` on the model's own session."""
        return self._session.step_times()

    def __repr__(self) -> str:
        ports = [", ".join(map(str, ports)) for ports in (self.inputs, self.outputs)]
        return f"<lepton.Model for {self.target}: ({ports[0]}) -> ({ports[1]})>"


def from_program(address: int, weights: Array | None = None, *, keep_alive: object = None, threads: int = 0) -> Model:
    """A model whose `lpt_program` lies at `address` in this process.

    `weights` are 64-byte aligned bytes; they and `keep_alive` live as long as the model and its sessions.
    """
    api = ffi.new("lepton_api *")
    program = ffi.cast("lpt_program *", address)
    lib.lpt_fill_api(program, api)
    data = ffi.NULL if weights is None else ffi.cast("uint8_t *", weights.ctypes.data)
    return Model(Code(api, program=program, weights=data, keep_alive=(weights, keep_alive)), threads)
