"""Model files -> graphs. `load` picks the reader by suffix or content."""
from __future__ import annotations

if __name__ != "lepton.frontends":
    raise ImportError("import lepton.frontends")

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton.ir.core import Graph
from lepton.ir.diagnostics import LeptonError, UsageError
from lepton.ir.structure import Spec

if TYPE_CHECKING:
    import onnx


def load(
    source: str | Path | bytes | onnx.ModelProto | Graph, *, dims: Mapping[str, int] | None = None,
    values: Mapping[str, Any] | None = None, structure: Mapping[str, Spec] | None = None,
) -> Graph:
    """The graph of a model: an ONNX file, its bytes, a ModelProto, or a file of text IR (`.lir`).

    `dims` gives sizes to open dimensions of the inputs, by the model's name for them or by ours (`x_d2`); `values`
    gives inputs their contents, which takes them out of the signature (a sampling rate, axes, a shape). `structure`
    says what sequences and optionals among the inputs hold (`lepton.ir.structure`): `{"x": 3, "y": None}`.
    A Graph comes back as it is. Raises LeptonError for anything wrong with the model, UsageError with the call;
    DataDependent where the contents of certain inputs, as `values`, would let the model compile."""
    if isinstance(source, Graph):
        if dims or values or structure:
            raise UsageError("dimensions and inputs of a graph in memory cannot be pinned")
        return source
    if isinstance(source, str | Path) and Path(source).suffix == ".lir":
        return _text(Path(source), bool(dims or values or structure))
    from lepton.frontends.onnx.importer import import_model
    from lepton.frontends.onnx.model import read

    try:
        return import_model(read(source), dims, values, structure)
    except UnicodeDecodeError as error:
        raise LeptonError("the model holds text that is not UTF-8") from error


def load_for(
    source: str | Path | bytes | onnx.ModelProto, feeds: Mapping[str, Any], *, dims: Mapping[str, int] | None = None
) -> Graph:
    """`load`, with those inputs pinned to their `feeds` whose contents decide sizes, axes and the like; no others.

    For callers that have the inputs before the graph: what came out holds for these values only, and its inputs are
    those that are left. Raises what `load` raises."""
    from lepton.frontends.onnx.problems import DataDependent

    pinned: dict[str, Any] = {}
    while True:
        try:
            return load(source, dims=dims, values=pinned)
        except DataDependent as error:
            new = {name: feeds[name] for name in error.inputs if name in feeds and name not in pinned}
            if not new:
                raise
            pinned |= new


def _text(path: Path, pinned: bool) -> Graph:
    from lepton.ir.parser import parse
    from lepton.ir.sidecar import beside, load_constants

    if pinned:
        raise UsageError("dimensions and inputs of text IR cannot be pinned: write them in the file")
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read '{path}': {error}") from error
    return parse(text, str(path), constants=load_constants(beside(path)))
