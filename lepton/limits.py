"""Limits on what a compile may use."""
from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from lepton.ir.diagnostics import ResourceError


@contextmanager
def limited(seconds: int = 0, megabytes: int = 0) -> Iterator[None]:
    """Raise ResourceError in here after `seconds`, and where more than `megabytes` of address space are asked for
    (0: no limit). For a main thread only: the clock is a signal."""

    def give_up(*_: object) -> NoReturn:
        raise ResourceError(f"not done after {seconds} s", help="--timeout sets the limit")

    old_memory = resource.getrlimit(resource.RLIMIT_AS)
    old_handler = signal.signal(signal.SIGALRM, give_up) if seconds else None
    try:
        if seconds:
            signal.alarm(seconds)
        if megabytes:
            resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, old_memory[1]))
        yield
    except MemoryError as error:
        raise ResourceError("out of memory" + (f" at {megabytes} MB" if megabytes else ""),
                            help="--max-memory sets the limit") from error
    finally:
        if seconds:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, old_handler)
        if megabytes:
            resource.setrlimit(resource.RLIMIT_AS, old_memory)
