"""Limits on what a command may use, kept by a parent process: memory and time that LLVM or a linker take, or a crash
for want of memory in their C++, are beyond what Python could catch in its own process."""
from __future__ import annotations

import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from lepton.ir.diagnostics import Exit, ResourceError

GRACE = 5.0  # seconds between asking the child to clean up and ending it


def limited(body: Callable[[], int], seconds: int, megabytes: int, grace: float = GRACE) -> int:
    """`body()` in a child process that gives up after `seconds` and never has more than `megabytes` of address space
    (0: no limit); its exit code. Without limits, just `body()`. Raises ResourceError where the child cannot say so."""
    if not seconds and not megabytes:
        return body()
    sys.stdout.flush()
    sys.stderr.flush()
    done, mark = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(done)
        _be_child(body, mark, seconds, megabytes)
    os.close(mark)
    try:
        late = _wait(done, child, seconds, grace)
        orderly = bool(os.read(done, 1))
        _, status = os.waitpid(child, 0)
    except KeyboardInterrupt:
        return _interrupt(done, child, grace)
    finally:
        os.close(done)
    if orderly:
        return os.waitstatus_to_exitcode(status)
    if late:
        raise ResourceError(_late(seconds), help="--timeout sets the limit")
    if megabytes:
        raise ResourceError(f"out of memory at {megabytes} MB", help="--max-memory sets the limit")
    raise RuntimeError(f"the compiler died with status {os.waitstatus_to_exitcode(status)}")


def _interrupt(done: int, child: int, grace: float) -> int:
    """End the child, which says so itself where it can."""
    os.kill(child, signal.SIGINT)  # a terminal has told it already, `kill` has not
    if not select.select([done], [], [], grace)[0]:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return int(Exit.INTERRUPTED)


def _late(seconds: int) -> str:
    return f"not done after {seconds} s"


def _wait(done: int, child: int, seconds: float, grace: float) -> bool:
    """Wait until the child ends; whether it had to be asked (and, after `grace`, ended)."""
    if not seconds:
        select.select([done], [], [])
        return False
    if select.select([done], [], [], seconds)[0]:
        return False
    os.kill(child, signal.SIGTERM)
    if not select.select([done], [], [], grace)[0]:
        os.kill(child, signal.SIGKILL)
    return True


def _be_child(body: Callable[[], int], mark: int, seconds: int, megabytes: int) -> NoReturn:
    """Run `body` under the limits and leave without returning to the parent's code."""

    def give_up(*_: object) -> NoReturn:
        raise ResourceError(_late(seconds), help="--timeout sets the limit")

    code = int(Exit.INTERNAL)
    try:
        signal.signal(signal.SIGTERM, give_up)
        if megabytes:
            import lepton.driver  # libraries that do not find the room to load die in too many ways
            import lepton.frontends.onnx.importer  # noqa: F401

            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, hard))
        code = body()
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(mark, b".")
    finally:
        os._exit(code)
