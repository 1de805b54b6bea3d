"""Wheels fetched with pip and kept. Standard library only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def wheel(requirement: str, folder: Path) -> Path:
    """The wheel of `NAME==VERSION` in `folder`, downloaded without its dependencies if it is not there yet.

    Raises subprocess.CalledProcessError when pip fails (it has said why), FileNotFoundError when it left no such file.
    """
    package, version = requirement.split("==")
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if not sorted(folder.glob(pattern)):
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary=:all:"]
        subprocess.run([*pip, "--dest", str(folder), requirement], check=True)
    found = sorted(folder.glob(pattern))
    if not found:
        raise FileNotFoundError(f"{folder}: no {pattern} after pip download {requirement}")
    return found[-1]
