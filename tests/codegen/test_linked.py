"""Linking in memory."""
from __future__ import annotations

import subprocess
import sys


def test_sections_stay_within_reach_of_each_other() -> None:
    command = [sys.executable, "-m", "tests.codegen.far_apart"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
