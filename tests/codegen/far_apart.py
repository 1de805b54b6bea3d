"""Links an object where the address space is full but for small holes 3 GiB apart; a process of its own.

A linker that puts each section into the highest hole that holds it, as MCJIT does, finds it out of a displacement's
reach of the next; LLVM aborts."""
from __future__ import annotations

import ctypes
import mmap

from lepton.codegen.llvm.machine import Linked, compile_module, initialize
from lepton.codegen.target import TARGETS

HOLES = (64, 16, 4, 1) * 8     # in pages: the 8 KB of constants fit into 4, the 40 KB of code do not
FAR = 3 << 30

# get(i) = table[i] + other
TEXT = """
@table = private constant [2048 x i32] [{values}]
@other = private global i32 7
define i32 @get(i64 %i) {{
  {padding}
  %at = getelementptr i32, ptr @table, i64 %i
  %value = load i32, ptr %at
  %more = load volatile i32, ptr @other
  %sum = add i32 %value, %more
  ret i32 %sum
}}
""".format(values=", ".join(f"i32 {i * i}" for i in range(2048)),
           padding="\n  ".join("store volatile i32 7, ptr @other" for _ in range(4000)))

_libc = ctypes.CDLL(None)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def reserve(size: int) -> int:
    """Addresses without memory behind them."""
    no_reserve = 0x4000
    address: int = _libc.mmap(None, size, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve, -1, 0)
    assert address != ctypes.c_void_p(-1).value
    return address


def scatter() -> None:
    """Fill what is free, then punch holes far apart."""
    space = reserve(len(HOLES) * FAR)
    for size in (1 << n for n in range(20, 11, -1)):      # of 2 MiB or more would be aligned, with gaps between
        while reserve(size) > space:
            pass
    for i, pages in enumerate(HOLES):
        _libc.munmap(space + i * FAR + FAR // 2, pages * mmap.PAGESIZE)


def main() -> None:
    initialize()
    target = TARGETS["x86-sse4"]
    data = compile_module(TEXT, target)
    scatter()
    linked = Linked([data], target.triple, ["get"])
    get = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64)(linked["get"])
    assert [get(i) for i in (0, 3, 2047)] == [7, 16, 2047 ** 2 + 7]


if __name__ == "__main__":
    main()
