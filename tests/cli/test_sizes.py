"""Sizes nobody has memory for, and sizes nobody can have meant: told in words, wherever they are found."""
from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

import lepton
from lepton.ir.diagnostics import ResourceError, UsageError
from tests.cli import models
from tests.cli.models import Invoke


def pool(folder: Path, op: str, size: int, **attributes: Any) -> Path:
    node = helper.make_node(op, ["x"], ["y"], name="p", kernel_shape=[5, 5], **attributes)
    made = models.model([node], {"x": [1, 3, size, 8]}, {"y": [1, 3, max(0, size - 4), 4]})
    return models.save(made, folder / "pool.onnx")


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_a_pool_that_gives_nothing_is_told(tmp_path: Path, op: str) -> None:
    with pytest.warns(UserWarning, match=r"windows of \[5, 5\] do not fit into f32\[1,3,4,8\](.|\n)*node 'p'"):
        model = lepton.compile(pool(tmp_path, op, 4))
    assert model(np.zeros((1, 3, 4, 8), np.float32)).shape == (1, 3, 0, 4)


def test_other_pools_say_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lepton.compile(pool(tmp_path, "MaxPool", 5))
        lepton.compile(pool(tmp_path, "MaxPool", 0, pads=[2, 0, 2, 0]))  # nothing of nothing


def test_the_tools_tell_it_in_a_line(folder: Path, leptonc: Invoke, lepton_tool: Invoke) -> None:
    pool(folder, "MaxPool", 4)
    code, _, err = leptonc("pool.onnx", "--emit", "graph", "-o", "g.lir")
    assert (code, err.splitlines()[0].startswith("leptonc: warning: windows of [5, 5] do not fit")) == (0, True), err
    assert leptonc("pool.onnx", "--emit", "graph", "-o", "g.lir", "-q") == (0, "", "")
    code, _, err = lepton_tool("run", "pool.onnx", "--random", "0")
    assert (code, err.startswith("lepton: warning: windows of [5, 5] do not fit")) == (0, True), err


@pytest.mark.parametrize("size", [4, "N"])
def test_a_result_without_memory(folder: Path, lepton_tool: Invoke, size: int | str) -> None:
    """A terabyte and more in one output: what this machine has, only a run can tell."""
    made = models.model([helper.make_node("Pad", ["x", "amounts"], ["y"])], {"x": [size]}, {"y": ["M"]},
                        {"amounts": np.array([2**44, 0], np.int64)})
    path = models.save(made, folder / "pad.onnx")
    model = lepton.compile(path)
    with pytest.raises(ResourceError, match=r"output 'y': no memory for f32\[17592186044420\]"):
        model(np.zeros(4, np.float32))
    code, _, err = lepton_tool("run", "pad.onnx", "-i", "x=[1,2,3,4]")
    assert (code, "output 'y': no memory for f32[17592186044420]" in err) == (5, True), err


def test_where_nothing_can_be_written_is_told_first(folder: Path) -> None:
    """Before the compile: not even the model is read."""
    for out, words in (("no/such/m.so", "there is no folder no/such"), (".", "it is a folder")):
        with pytest.raises(UsageError, match=words):
            lepton.compile_to("gone.onnx", out)
        with pytest.raises(UsageError, match=words):
            lepton.compile_to({"a": "gone.onnx"}, out)
