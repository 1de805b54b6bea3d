"""Fashion-MNIST: 70,000 photographs of clothes, 28x28 grey pixels, ten kinds; from Debian's package (MIT licence)."""
from __future__ import annotations

import gzip
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
VALIDATION = 5000    # of the 60,000 images to train on: they choose and calibrate; the 10,000 test images only judge
MEAN, DEVIATION = 0.2860, 0.3530

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Part:
    """Images [N,1,28,28] f32 with the data set's mean 0 and deviation 1, labels [N] i64."""

    images: Array
    labels: Array


@dataclass(frozen=True, eq=False)
class Data:
    train: Part
    validation: Part
    test: Part


def load(folder: Path) -> Data:
    """All of it. The package's files are taken from where it is installed, or from `folder`, where they are put once.

    Raises OSError, subprocess.CalledProcessError where the package cannot be had."""
    where = INSTALLED if INSTALLED.is_dir() else folder / INSTALLED.relative_to("/")
    if not where.is_dir():
        unpack(folder)
    images, labels = read(where, "train")
    tests = Part(*read(where, "t10k"))
    return Data(Part(images[VALIDATION:], labels[VALIDATION:]), Part(images[:VALIDATION], labels[:VALIDATION]), tests)


def unpack(folder: Path) -> None:
    """Download the package by apt and unpack it below `folder`; nothing is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["apt-get", "download", PACKAGE], cwd=scratch, check=True, capture_output=True)
        (package,) = Path(scratch).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)


def read(folder: Path, part: str) -> tuple[Array, Array]:
    """Images and labels from files of the IDX format: a header of big-endian numbers, then bytes."""
    pixels = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    kinds = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    grey = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 1, 28, 28).astype(np.float32) / 255
    return (grey - np.float32(MEAN)) / np.float32(DEVIATION), np.frombuffer(kinds, np.uint8, offset=8).astype(np.int64)
