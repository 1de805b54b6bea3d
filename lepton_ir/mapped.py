"""Files that are read as memory: the weights of models, which would not all fit twice."""
from __future__ import annotations

import mmap
import weakref

_MAPPED: weakref.WeakValueDictionary[int, mmap.mmap] = weakref.WeakValueDictionary()   # by id


def mapped(fd: int, size: int) -> memoryview:
    """The bytes of an open file, read when they are looked at; mapped for as long as anybody has a part of them."""
    if not size:
        return memoryview(b"")
    made = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
    _MAPPED[id(made)] = made
    return memoryview(made)


def forget_pages() -> None:
    """Take what was looked at of mapped files out of this process's memory. It comes back, from the system's cache of
    files, where it is looked at again."""
    for reference in _MAPPED.valuerefs():  # a list made at once: another thread may be mapping a file
        if (made := reference()) is not None:
            made.madvise(mmap.MADV_DONTNEED)
