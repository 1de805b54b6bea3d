"""Data to calibrate and to judge by: runs of a model, from files or arrays.

A *run* is one call's inputs and, where the data has them, its labels. Sources:

    a folder of .npz files      each file is a run: arrays by the inputs' names
    an .npz, a dict of arrays   arrays by the inputs' names, their first axis counts samples
    an .npy, an array           for a model with one input; its first axis counts samples
    a .csv                      for a model with one input [N,features]: a row for each sample, a column named label is
                                the label
    a list of dicts             each is a run

Labels are the array `labels`."""
from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton.inputs import ports_of, read_arrays
from lepton.ir.core import Graph
from lepton.ir.diagnostics import UsageError
from lepton.ir.tensor import Array
from lepton.ports import Port

LABELS = "labels"
BATCH = 16  # samples in a run at most, where the model leaves that open
RUNS = 16   # runs that there are at least, as long as there are samples: half of them certify


@dataclass(frozen=True, eq=False)
class Run:
    """One call: arrays by input and the samples' labels, if known; `name` says where it comes from, `samples` how many
    of a data set were put together in it."""

    name: str
    feeds: Mapping[str, Array]
    labels: Array | None = None
    samples: int = 1


Source = Any  # see above; or a list of Runs


def read(source: Source, graph: Graph) -> list[Run]:
    """The runs in a source, checked against the graph's inputs. Raises UsageError naming what does not fit."""
    ports = ports_of(graph)
    runs = _runs(source, ports)
    if not runs:
        raise UsageError("the data set is empty", help="calibration and measurement need at least one sample")
    for run in runs:
        _check(run, ports)
    return runs


def _runs(source: Source, ports: Sequence[Port]) -> list[Run]:
    if isinstance(source, (str, os.PathLike)):
        return _of_path(Path(source), ports)
    if isinstance(source, Mapping):
        return _split("data", source, ports)
    if isinstance(source, np.ndarray):
        return _split("data", {_only(ports, "an array").name: source}, ports)
    if isinstance(source, Sequence):
        return [r if isinstance(r, Run) else _listed(f"run {i}", r, ports) for i, r in enumerate(source)]
    raise UsageError(f"cannot take data from {type(source).__name__}",
                     help="a path, arrays by input, or a list of these")


def _of_path(path: Path, ports: Sequence[Port]) -> list[Run]:
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise UsageError(f"no .npz file in {path}", help="each .npz file in a folder is one run of the model")
        return [_whole(str(file), read_arrays(file), ports) for file in files]
    match path.suffix:
        case ".npz":
            return _split(str(path), read_arrays(path), ports)
        case ".npy":
            return _split(str(path), {_only(ports, str(path)).name: read_arrays(path)[""]}, ports)
        case ".csv":
            return _split(str(path), _read_csv(path, _only(ports, str(path))), ports)
    raise UsageError(f"cannot read data from {path}", help="a folder of .npz files, an .npz, .npy or .csv file")


def _only(ports: Sequence[Port], what: str) -> Port:
    if len(ports) != 1:
        raise UsageError(f"{what} is one array, the model has {len(ports)} inputs: {', '.join(p.name for p in ports)}",
                         help="give an .npz with an array for each")
    return ports[0]


def _read_csv(path: Path, port: Port) -> dict[str, Array]:
    """The columns; a header may name one `label`."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:   # spreadsheets mark it
            rows = [row for row in csv.reader(file) if row]
        head = rows[0] if rows else []
        names = head if head and not all(_is_number(cell) for cell in head) else None
        body = np.array([[float(cell) for cell in row] for row in (rows[1:] if names else rows)], np.float64)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}",
                         help="numbers in rows of one length; a header is allowed") from error
    if not body.size:
        raise UsageError(f"the data set is empty: {path} has no rows")
    label = next((i for i, n in enumerate(names or []) if n.strip().lower() in ("label", "labels")), None)
    if label is None:
        return {port.name: _cast(path, body, port)}
    return {port.name: _cast(path, np.delete(body, label, axis=1), port), LABELS: body[:, label]}


def _cast(path: Path, body: Array, port: Port) -> Array:
    """Raises UsageError where the input's type cannot hold the numbers."""
    try:
        with np.errstate(all="ignore"):
            array = body.astype(port.dtype)
            same = port.dtype.kind not in "biu" or np.array_equal(array.astype(np.float64), body)
    except (TypeError, ValueError):
        same = False
    if not same:
        raise UsageError(f"the numbers in {path} are no elements of {port}", help="give an .npz")
    return array


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _listed(name: str, run: Any, ports: Sequence[Port]) -> Run:
    if not isinstance(run, Mapping):
        raise UsageError(f"{name} is {type(run).__name__}", help="in a list, each run is a dict of arrays by input")
    return _whole(name, run, ports)


def _whole(name: str, arrays: Mapping[str, Any], ports: Sequence[Port]) -> Run:
    """An array `labels` is an input where the model has one of that name."""
    feeds = {key: np.asarray(value) for key, value in arrays.items()}
    labels = None if any(p.name == LABELS for p in ports) else feeds.pop(LABELS, None)
    return Run(name, feeds, labels)


def _split(name: str, arrays: Mapping[str, Any], ports: Sequence[Port]) -> list[Run]:
    """Samples to runs of the model's batch size, or of up to BATCH; what does not fill a fixed batch is left out."""
    whole = _whole(name, arrays, ports)
    given = whole.feeds if whole.labels is None else {**whole.feeds, LABELS: whole.labels}
    counts = {key: len(a) if a.ndim else -1 for key, a in given.items()}
    if len(set(counts.values())) > 1 or -1 in counts.values():
        raise UsageError(f"{name}: the arrays hold different numbers of samples: "
                         f"{', '.join(f'{k} {n}' if n >= 0 else f'{k} is one' for k, n in counts.items())}",
                         help="the first axis counts samples")
    total = next(iter(counts.values()), 0)
    fixed = [p.shape[0] for p in ports if p.shape and isinstance(p.shape[0], int)]
    size = fixed[0] if fixed else min(BATCH, max(1, total // RUNS))
    if total and total < size and fixed:
        raise UsageError(f"{name}: {total} samples do not fill the model's batch of {size}")
    ends = range(size, total + 1, size) if fixed else range(size, total + size, size)
    return [Run(f"{name}[{end - size}:{min(end, total)}]", {k: a[end - size:end] for k, a in whole.feeds.items()},
                None if whole.labels is None else whole.labels[end - size:end], min(end, total) - end + size)
            for end in ends]


def _check(run: Run, ports: Sequence[Port]) -> None:
    """Raises UsageError where a run does not fit the inputs."""
    names = [p.name for p in ports]
    if set(run.feeds) != set(names):
        raise UsageError(f"{run.name} has arrays {', '.join(map(str, run.feeds)) or 'none'}; the model's inputs are "
                         f"{', '.join(names)}")
    for port in ports:
        array = run.feeds[port.name]
        fits = array.ndim == len(port.shape) and all(
            not isinstance(d, int) or d == n for d, n in zip(port.shape, array.shape, strict=True))
        if array.dtype != port.dtype or not fits:
            raise UsageError(f"{run.name}: '{port.name}' is {array.dtype}{list(array.shape)}, the model takes {port}")
        if not array.size:
            raise UsageError(f"{run.name}: '{port.name}' is empty: {list(array.shape)}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UsageError(f"{run.name}: '{port.name}' has {'NaN' if np.isnan(array).any() else 'infinite'} elements",
                             help="calibration needs numbers: leave those samples out")
