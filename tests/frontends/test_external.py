"""External data: read where it is allowed, refused wherever a location could lead elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lepton.frontends import load
from lepton.ir.diagnostics import LeptonError
from lepton.ir.evaluate import evaluate
from tests.frontends.build import external
from tests.frontends.test_reader import add_model

WEIGHT = np.arange(4, dtype=np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """model/ with weights, beside a file that must stay out of reach."""
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "model" / "w.bin").write_bytes(bytes(8) + WEIGHT.tobytes())
    (tmp_path / "model" / "sub" / "w.bin").write_bytes(WEIGHT.tobytes())
    return tmp_path / "model"


def model_with(folder: Path, location: str, **entries: object) -> Path:
    tensor = external(numpy_helper.from_array(WEIGHT, "w"), location, **entries)
    path = folder / "m.onnx"
    path.write_bytes(add_model(tensor).SerializeToString())
    return path


@pytest.mark.parametrize(("location", "entries"), [
    ("w.bin", {"offset": 8, "length": 16}), ("sub/w.bin", {}), ("./sub//w.bin", {"length": 16}),
    ("w.bin", {"offset": 8}),
])
def test_read(folder: Path, location: str, entries: dict[str, object]) -> None:
    graph = load(model_with(folder, location, **entries))
    assert evaluate(graph, np.ones(4, np.float32))[0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(("location", "entries", "message"), [
    ("../secret.bin", {}, "leaves the model's folder"),
    ("sub/../../secret.bin", {}, "leaves the model's folder"),
    ("sub/..", {}, "leaves the model's folder"),
    ("/etc/passwd", {}, "not a plain relative path"),
    ("C:\\w.bin", {}, "not a plain relative path"),
    ("w.bin\0.txt", {}, "not a plain relative path"),
    (".", {}, "leaves the model's folder"),
    ("", {}, "no location"),
    ("missing.bin", {}, "cannot be opened"),
    ("sub", {}, "not a regular file"),
    ("w.bin", {"offset": 12}, "which has 24"),
    ("w.bin", {"offset": 2**62}, "which has 24"),
    ("w.bin", {"offset": -8}, "is not a number of bytes"),
    ("w.bin", {"length": -1}, "is not a number of bytes"),
    ("w.bin", {"length": 10**15}, "but its type needs 16"),
    ("w.bin", {"length": 15}, "but its type needs 16"),
    ("w.bin", {"offset": "٨"}, "is not a number of bytes"),
    ("w.bin", {"__class__": "x"}, "unknown key"),
])
def test_refused(folder: Path, location: str, entries: dict[str, object], message: str) -> None:
    with pytest.raises(LeptonError) as caught:
        load(model_with(folder, location, **entries))
    assert message in str(caught.value)
    assert "'w'" in str(caught.value)


def test_links_are_refused(folder: Path) -> None:
    os.symlink(folder.parent / "secret.bin", folder / "soft.bin")
    os.symlink(folder.parent, folder / "up")
    os.link(folder.parent / "secret.bin", folder / "hard.bin")
    os.mkfifo(folder / "pipe.bin")
    os.symlink("sub", folder / "inside")
    for location in ("soft.bin", "up/secret.bin", "hard.bin", "pipe.bin", "inside/w.bin"):
        with pytest.raises(LeptonError, match=r"cannot be opened|hard links|not a regular file"):
            load(model_with(folder, location))


def test_a_model_in_memory_has_no_folder(folder: Path) -> None:
    path = model_with(folder, "w.bin", offset=8)
    with pytest.raises(LeptonError, match="has no folder"):
        load(path.read_bytes())
    with pytest.raises(LeptonError, match="has no folder"):
        load(onnx.load(path, load_external_data=False))


def test_sparse_tensors_obey_the_same_rules(folder: Path) -> None:
    values = external(numpy_helper.from_array(WEIGHT, "w"), "../secret.bin")
    model = add_model()
    del model.graph.initializer[:]
    indices = numpy_helper.from_array(np.arange(4), "i")
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [4]))
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(LeptonError, match="leaves the model's folder"):
        load(folder / "m.onnx")
