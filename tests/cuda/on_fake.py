"""A pytest plugin: what would run on a GPU runs on the fake driver, for as long as the process does.

    python -m pytest -p tests.cuda.on_fake -p benchmarks.cuda.replay tests/codegen/test_lower_map.py -k x86-avx2
"""
from __future__ import annotations

import atexit
from contextlib import ExitStack

from tests.cuda.fakecuda import installed

kept = ExitStack()
kept.enter_context(installed())
atexit.register(kept.close)
