"""Data sets: every form, and what is wrong with them."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton.compress.data import Run, read
from lepton.ir.diagnostics import UsageError
from lepton.ir.parser import parse

ONE = parse("graph @one(%x: f32[N,3]) { %0 = relu(%x)\n return %0 }")
FIXED = parse("graph @fixed(%x: f32[4,3]) { %0 = relu(%x)\n return %0 }")
TWO = parse("graph @two(%x: f32[N,3], %y: f32[N,1]) { %0 = add(%x, %y)\n return %0 }")
X = np.arange(120, dtype=np.float32).reshape(40, 3)


def shapes(runs: list[Run]) -> list[tuple[int, ...]]:
    return [r.feeds["x"].shape for r in runs]


def test_arrays_are_cut_into_batches() -> None:
    many = np.zeros((600, 3), np.float32)
    assert shapes(read(many, ONE)) == [(16, 3)] * 37 + [(8, 3)]
    assert shapes(read({"x": X[:10]}, FIXED)) == [(4, 3), (4, 3)]
    runs = read({"x": X, "labels": np.arange(40)}, ONE)
    assert [len(r.labels) for r in runs if r.labels is not None] == [2] * 20
    assert sum(r.samples for r in runs) == 40
    np.testing.assert_array_equal(np.concatenate([r.feeds["x"] for r in runs]), X)


@pytest.mark.parametrize(("samples", "runs"), [(1, 1), (2, 2), (15, 15), (31, 31), (33, 17), (40, 20), (255, 17)])
def test_few_samples_make_small_runs(samples: int, runs: int) -> None:
    """So that there is something to search by, and something else to certify by."""
    assert len(read(np.zeros((samples, 3), np.float32), ONE)) == runs


def test_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", x=X, y=X[:, :1])
    assert shapes(read(tmp_path / "x.npy", ONE)) == shapes(read(str(tmp_path / "x.npz"), TWO))
    folder = tmp_path / "runs"
    folder.mkdir()
    for i in range(3):
        np.savez(folder / f"{i}.npz", x=X[:i + 1])
    assert shapes(read(folder, ONE)) == [(1, 3), (2, 3), (3, 3)]


def test_csv(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("a,label,b,c\n1,0,2,3\n4,1,5,6\n")
    runs = read(file, ONE)
    np.testing.assert_array_equal(np.concatenate([r.feeds["x"] for r in runs]), [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(np.concatenate([r.labels for r in runs if r.labels is not None]), [0, 1])
    file.write_text("label,a,b,c\n1,2,3,4\n", encoding="utf-8-sig")
    np.testing.assert_array_equal(read(file, ONE)[0].labels, [1])
    file.write_text("1,2,3\n")
    assert read(file, ONE)[0].labels is None


def test_labels_may_be_an_input() -> None:
    runs = read({"labels": X}, parse("graph @one(%labels: f32[N,3]) { %0 = relu(%labels)\n return %0 }"))
    assert runs[0].labels is None
    np.testing.assert_array_equal(runs[0].feeds["labels"], X[:len(runs[0].feeds["labels"])])


def test_numbers_that_the_input_cannot_hold(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2\n3,256\n")
    with pytest.raises(UsageError, match="no elements of x"):
        read(tmp_path / "x.csv", parse("graph @one(%x: u8[N,2]) { %0 = add(%x, %x)\n return %0 }"))


@pytest.mark.parametrize(("source", "said"), [
    (X[:0], "empty"), ([], "empty"), (X.astype(np.float64), "float64"), (X[:, :2], r"\[2, 2\]"),
    (np.full((2, 3), np.nan, np.float32), "NaN"), (np.full((2, 3), np.inf, np.float32), "infinite"),
    ({"z": X}, "arrays z; the model's inputs are x"), ({"x": X, "labels": np.zeros(3)}, "different numbers"),
    (5, "cannot take data from int"), ({"x": np.float32(1)}, "different numbers"),
    ({"x": X, "labels": np.array(3)}, "x 40, labels is one"), ([X], "run 0 is ndarray"), (b"x", "run 0 is int"),
    ({3: X}, "arrays 3; the model's inputs are x"),
])
def test_wrong_data(source: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read(source, ONE)


def test_wrong_files(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"not an array")
    (tmp_path / "x.csv").write_text("1,2,3\n4,5,six\n")
    (tmp_path / "no.csv").write_text("")
    (tmp_path / "x.txt").write_text("1")
    for name in ("x.npy", "x.csv", "no.csv", "x.txt", "none.npz", "."):
        with pytest.raises(UsageError, match=r"cannot read|empty|no .npz"):
            read(tmp_path / name, ONE)
    with pytest.raises(UsageError, match="2 inputs"):
        read(X, TWO)
    with pytest.raises(UsageError, match="do not fill"):
        read(X[:3], FIXED)
