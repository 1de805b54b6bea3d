"""After `os.fork` the child has its parent's memory and one thread: what the other threads had locked stays locked.

Who holds locks is remembered here, weakly, and told in every child before anything else runs there.
"""
from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    def after_fork(self) -> None:
        """Called in the child: give up what a thread that does not exist here holds. Must not wait."""


_KNOWN: weakref.WeakSet[Forked] = weakref.WeakSet()
remember = _KNOWN.add


def _in_child() -> None:
    for known in list(_KNOWN):
        known.after_fork()


os.register_at_fork(after_in_child=_in_child)
