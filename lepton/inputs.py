"""Inputs for a model from the command line: arrays from files, numbers, or random ones of a plausible kind.

Imports nothing of the compiler, so that artifacts run where only the runtime is installed.
"""
from __future__ import annotations

import json
import math
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton.ir import dims
from lepton.ir.diagnostics import LeptonError, UsageError
from lepton.ir.dim_text import parse_dim
from lepton.ports import Array, Port, type_words

if TYPE_CHECKING:
    from lepton.ir.core import Graph

LENGTH = re.compile(r"seq|len|time|token|step|frame", re.IGNORECASE)
MASK = re.compile(r"mask", re.IGNORECASE)
IDS = re.compile(r"(^|_)(ids?|tokens?)$", re.IGNORECASE)
TYPES = re.compile(r"type|segment", re.IGNORECASE)


def make_inputs(ports: Sequence[Port], given: Sequence[str], sizes: Mapping[str, int], seed: int | None,
                aliases: Mapping[str, str] | None = None) -> dict[str, Array]:
    """One array for each port.

    `given`: words `x=@x.npy`, `x=3.5`, `x=[1,2]` or `@all.npz`. `sizes`: of open dimensions, by their names or by
    their `aliases`. `seed`: for random arrays in place of what is missing; None: then nothing may be missing.
    Raises UsageError."""
    found = _read_all(given, ports)
    arrays = {name: v for name, v in found.items() if isinstance(v, np.ndarray) and v.ndim}
    missing = [p for p in ports if p.name not in found]
    if missing and seed is None:
        raise UsageError(f"no value for input {', '.join(map(str, missing))}",
                         help=f"-i {missing[0].name}=@file.npy, or --random 0 for random ones")
    env = bind_sizes(ports, arrays, _by_our_names(sizes, aliases or {}))
    rng = np.random.default_rng(seed)
    result: dict[str, Array] = {}
    for port in ports:
        if port.name in arrays:
            result[port.name] = arrays[port.name]
        elif port.name in found:
            result[port.name] = np.full(_shape(port, env), found[port.name], port.dtype)
        else:
            result[port.name] = random_array(port, _shape(port, env), rng)
    return result


@contextmanager
def telling_sizes(ports: Sequence[Port], given: Sequence[str], sizes: Mapping[str, int],
                  aliases: Mapping[str, str] | None = None) -> Iterator[None]:
    """Adds to an error of a run which sizes nobody gave: the model may refuse what `make_inputs` made up."""
    try:
        yield
    except LeptonError as error:
        known = {word.partition("=")[0] for word in given}
        told = {*_by_our_names(sizes, aliases or {}), *symbols(p for p in ports if p.name in known)}
        made_up = [name for name in symbols(ports) if name not in told]
        if not made_up or any(name.startswith("@") for name in known):
            raise
        hint = f"nothing said how large {' and '.join(made_up)} {'are' if len(made_up) > 1 else 'is'}: " + " ".join(
            f"--dim {name}=…" for name in made_up)
        raise type(error)(error.message, where=error.where, help="; ".join(filter(None, (error.help, hint))),
                          exit=error.exit) from error


def ports_of(graph: Graph) -> tuple[Port, ...]:
    """A graph's inputs as ports, so that they can be filled in the same way."""
    return tuple(Port(v.name or f"input{i}", v.tensor.dtype.numpy,
                      tuple(d if isinstance(d, int) else str(d) for d in v.tensor.shape))
                 for i, v in enumerate(graph.inputs))


# --- sizes ----------------------------------------------------------------------------------------


def symbols(ports: Iterable[Port]) -> dict[str, bool]:
    """The open dimensions' names, sorted, with whether it is somewhere a first axis."""
    found: dict[str, bool] = {}
    for port in ports:
        for axis, dim in enumerate(port.shape):
            for name in dims.symbols(_parse(dim, port)):
                found[name] = found.get(name, False) or axis == 0
    return dict(sorted(found.items()))


def bind_sizes(ports: Sequence[Port], arrays: Mapping[str, Array], sizes: Mapping[str, int]) -> dict[str, int]:
    """A size for every open dimension: as told, as the given arrays have it, or a default (1 for first axes, 16 for
    what sounds like a length). Raises UsageError for unknown names, and naming those that nothing is known of."""
    open_ = symbols(ports)
    if unknown := [name for name in sizes if name not in open_]:
        raise UsageError(f"no open dimension '{unknown[0]}'", help=f"open dimensions: {', '.join(open_) or 'none'}")
    env = dict(sizes)
    for port in ports:
        if port.name in arrays and arrays[port.name].ndim != len(port.shape):
            got = type_words(arrays[port.name].dtype, arrays[port.name].shape)
            raise UsageError(f"input '{port.name}': expected {type_words(port.dtype, port.shape)}, got {got}")
        for dim, size in zip(port.shape, arrays[port.name].shape if port.name in arrays else (), strict=False):
            if isinstance(dim, str) and dim in open_:
                env.setdefault(dim, size)
    defaults = {name: 1 if first else 16 for name, first in open_.items() if first or LENGTH.search(name)}
    env = {**defaults, **env}
    if missing := [name for name in open_ if name not in env]:
        shown = "; ".join(map(str, ports))
        plural = len(missing) > 1
        need = "need" if plural else "needs"
        raise UsageError(f"open dimension{'s' * plural} {', '.join(missing)} of {shown} {need} a size",
                         help=" ".join(f"--dim {name}=…" for name in missing))
    return env


def _parse(dim: int | str, port: Port) -> dims.Dim:
    try:
        return dim if isinstance(dim, int) else parse_dim(dim)
    except ValueError as error:
        raise UsageError(f"input {port}: nothing says how large '{dim}' is",
                         help=f"-i {port.name}=@file.npy") from error


def _shape(port: Port, env: Mapping[str, int]) -> tuple[int, ...]:
    shape = tuple(dims.evaluate(_parse(d, port), env) for d in port.shape)
    if any(size < 0 for size in shape) or math.prod(shape) * port.dtype.itemsize > 2**40:
        raise UsageError(f"input {port}: no array of shape {list(shape)} can be made", help="--dim gives other sizes")
    return shape


def _by_our_names(sizes: Mapping[str, int], aliases: Mapping[str, str]) -> dict[str, int]:
    ours = {original: name for name, original in aliases.items()}
    return {ours.get(name, name): size for name, size in sizes.items()}


# --- what is given --------------------------------------------------------------------------------


def _read_all(given: Sequence[str], ports: Sequence[Port]) -> dict[str, Any]:
    """Arrays from files and lists, numbers otherwise, by input. Raises UsageError."""
    by_name = {p.name: p for p in ports}
    found: dict[str, Any] = {}
    for word in given:
        for key, value in _items(word).items():
            if key not in by_name:
                raise UsageError(f"-i {word}: the model has no input '{key}'", help=f"its inputs: {', '.join(by_name)}")
            if key in found:
                raise UsageError(f"-i {word}: input '{key}' is given twice")
            found[key] = _literal(value, by_name[key]) if isinstance(value, str) else _viewed(value, by_name[key])
    return found


def parse_values(words: Sequence[str]) -> dict[str, Array]:
    """`--value` words: arrays by input, as numpy takes what was written. Raises UsageError."""
    found: dict[str, Array] = {}
    for word in words:
        for name, value in _items(word, "--value").items():
            if name in found:
                raise UsageError(f"--value {word}: input '{name}' is given twice")
            found[name] = _numbers(value, f"--value {word}") if isinstance(value, str) else value
    return found


def _items(word: str, option: str = "-i") -> Mapping[str, Array | str]:
    """What one `-i` gives: arrays that were read, or the text of a literal. Raises UsageError."""
    if word.startswith("@"):
        if "" in (arrays := read_arrays(Path(word[1:]))):
            raise UsageError(f"{option} {word}: one array, without a name", help=f"{option} NAME={word}")
        return arrays
    name, is_file, text = word.partition("=@")
    if not is_file:
        name, equals, text = word.rpartition("=")
    if not name or not (is_file or equals):
        raise UsageError(f"{option} {word}: expected NAME=@FILE.npy, NAME=NUMBER or @FILE.npz")
    return {name: _only(read_arrays(Path(text)), text) if is_file else text}


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz by name, or the one of an .npy as "". Nothing is unpickled. Raises UsageError."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            if twice := next((name for name, n in Counter(loaded.files).items() if n > 1), None):
                raise ValueError(f"it holds two arrays '{twice}'")
            return {name: _array(name, loaded[name]) for name in loaded.files}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"cannot read arrays from {path}: {reason}") from error


def _array(name: str, member: Any) -> Array:
    """numpy gives the bytes of members that are no arrays. Raises ValueError."""
    if not isinstance(member, np.ndarray):
        raise ValueError(f"'{name}' in it is no array")
    return member


def _only(arrays: Mapping[str, Array], path: str) -> Array:
    if len(arrays) != 1:
        raise UsageError(f"{path} holds {len(arrays)} arrays: {', '.join(arrays)}",
                         help="give one, or all as -i @FILE.npz")
    return next(iter(arrays.values()))


def _viewed(array: Array, port: Port) -> Array:
    """.npy files know no bfloat16 and the like: their elements come back as plain bytes."""
    same = array.dtype.kind == "V" and array.dtype.names is None and array.dtype.itemsize == port.dtype.itemsize
    return array.view(port.dtype) if same else array


def _literal(text: str, port: Port) -> Any:
    """A number, string or (nested) list as a 0-d or larger array of the port's dtype. Raises UsageError."""
    if port.dtype == object:
        return _strings(text, f"-i {port.name}={text[:80]}")
    exact = _numbers(text, f"-i {port.name}={text[:80]}")
    try:
        with np.errstate(all="ignore"):
            array = exact.astype(port.dtype)
        if port.dtype.kind in "biu" and not np.array_equal(array, exact):
            raise ValueError(f"it is no {type_words(port.dtype, ())[:-2]}")
    except (ValueError, TypeError) as error:
        raise UsageError(f"-i {port.name}={text[:80]}: {error}", help=f"the input is {port}") from error
    return array if array.ndim else array[()]


def _strings(text: str, what: str) -> Any:
    """A JSON string or nested list of them; what is no JSON is taken as it is. Raises UsageError."""
    try:
        value = json.loads(text) if text[:1] in ("[", '"') else text
        array = np.asarray(value)
        if array.dtype.kind != "U" and array.size:
            raise ValueError("only strings can be written here")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what}: {error}") from error
    return array.astype(object) if array.ndim else str(array)


def _numbers(text: str, what: str) -> Array:
    """A JSON number or nested list. Raises UsageError."""
    try:
        array = np.asarray(json.loads(text))
        if array.dtype.kind not in "biuf":
            raise ValueError("only numbers can be written here")
    except json.JSONDecodeError as error:
        raise UsageError(f"{what}: neither a number nor a list of numbers", help="a file is NAME=@FILE.npy") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{what}: {error}") from error
    return array


# --- random ---------------------------------------------------------------------------------------


def random_array(port: Port, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Plausible elements by name and dtype: ones for masks, 0 … 9 for ids, 0 or 1 for other integers and bools,
    normally distributed floats; strings that can be read as numbers 0 … 9."""
    kind, name = port.dtype.kind, port.name
    if kind == "O":
        return rng.integers(0, 10, shape).astype(str).astype(object)
    if MASK.search(name):
        return np.ones(shape, port.dtype)
    if kind in "biu" or port.dtype.name in ("int4", "uint4", "int2", "uint2"):
        wide = IDS.search(name) and not TYPES.search(name) and port.dtype.itemsize > 1
        return rng.integers(0, 10 if wide else 2, shape).astype(port.dtype)
    values = rng.standard_normal(shape)
    if kind == "c":
        return np.asarray(values + 1j * rng.standard_normal(shape)).astype(port.dtype)
    if port.dtype.name == "float8_e8m0fnu":  # has no sign
        values = np.abs(values)
    return np.asarray(values).astype(port.dtype)
