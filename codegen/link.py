"""Objects + weights + the C runtime -> one shared library that exports one symbol.

The same input gives the same bytes wherever it is built: the linker works in a folder of its own with relative
names, symbols are stripped, and no build id is made.
"""
from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from lepton.codegen.weights_segment import Piece, append_weights
from lepton.ir.diagnostics import LeptonError, NotInstalledError, ResourceError, UsageError
from lepton.ir.files import check_destination, replacing

COMPILE_FLAGS = ("-std=c11", "-O2", "-g0", "-fPIC", "-fvisibility=hidden")
# Out-of-line atomics would need a constructor, and a compiled model runs nothing when it is loaded.
ARCH_FLAGS = {"aarch64": ("-mno-outline-atomics",)}
LINK_FLAGS = (
    "-shared", "-nostartfiles", "-s", "-Wl,--version-script=exports.map", "-Wl,--build-id=none",
    "-Wl,-T,layout.ld", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack", "-Wl,-z,defs", "-Wl,--as-needed",
)
LIBRARIES = ("-lm", "-lpthread", "-ldl")
# Behind everything else: code and tables reach each other by 32-bit distances, which weights of gigabytes would break.
LAYOUT = """\
SECTIONS { .lepton.weights : ALIGN(CONSTANT(MAXPAGESIZE)) { KEEP(*(.lepton.weights)) } } INSERT AFTER .bss;
"""
EXPORTS = "{ global: lepton_query; local: *; };\n"

# The place of the weights, which `weights_segment` fills: page-aligned and read-only, so that processes share the pages
# and none is read before it is used.
PLACEHOLDER = """\
    .section .lepton.weights,"a",%progbits
    .balign 4096
    .globl lpt_weights
    .hidden lpt_weights
lpt_weights:
    .zero 64
    .section .note.GNU-stack,"",%progbits
"""


def link(objects: Sequence[bytes], weights: Iterable[Piece], out: str | os.PathLike[str], triple: str,
         cc: str | None = None, steering: int = 0) -> None:
    """Write the shared library `out`.

    `objects` are ELF relocatables of `triple` that define `lpt_artifact`; `weights` is the blob in pieces, of which the
    first `steering` bytes say where to read. `out` is written beside and renamed, so a failure leaves what was there.
    Raises LeptonError: no compiler, destination missing or unwritable, disk full, the linker's refusal.
    """
    out = Path(out)
    check_destination(out)
    command = find_compiler(triple, cc)
    with replacing(out) as partial, tempfile.TemporaryDirectory(dir=partial.parent) as name:
        folder = Path(name)
        inputs = [*_write_objects(folder, objects), "weights.s"]
        (folder / "weights.s").write_text(PLACEHOLDER)
        (folder / "exports.map").write_text(EXPORTS)
        (folder / "layout.ld").write_text(LAYOUT)
        archive = _runtime_archive(folder, command, triple)
        _run([*command, *LINK_FLAGS, "-o", "linked.so", *inputs, *archive, *LIBRARIES], folder)
        append_weights(folder / "linked.so", weights, partial, steering)


# ---- the compiler ----

def is_host(triple: str) -> bool:
    """Whether code for `triple` runs on this machine's kind of processor."""
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine(), platform.machine())
    return triple.split("-")[0] == machine


def find_compiler(triple: str, cc: str | None = None) -> list[str]:
    """The C compiler to call for `triple`, as a command line. Raises NotInstalledError that says how to get one."""
    arch = triple.split("-")[0]
    variable = "LEPTON_CC" if is_host(triple) else f"LEPTON_CC_{arch.upper()}"
    for source, asked in (("the option cc", cc), (variable, os.environ.get(variable))):
        if not asked:
            continue
        command = shlex.split(asked)
        if not command or shutil.which(command[0]) is None:
            raise UsageError(f"{source} names the compiler {asked!r}, which is not installed")
        return command
    names = ("cc", "gcc", "clang") if is_host(triple) else (f"{arch}-linux-gnu-gcc",)
    for name in names:
        if found := shutil.which(name):
            return [found]
    if zig := _zig(arch):
        return zig
    package = "gcc" if is_host(triple) else f"gcc-{arch}-linux-gnu"
    raise NotInstalledError(
        f"no C compiler for {triple}: tried {', '.join(names)} and the ziglang package",
        help=f"install one (Debian: apt install {package}; anywhere: pip install ziglang), or set {variable}")


def _zig(arch: str) -> list[str] | None:
    from importlib.util import find_spec

    if find_spec("ziglang") is None:
        return None
    return [sys.executable, "-m", "ziglang", "cc", "-target", f"{arch}-linux-gnu"]


def _run(command: Sequence[str], folder: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "SOURCE_DATE_EPOCH": "0"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return
    words = (done.stderr or done.stdout).strip()
    if "No space left on device" in words or "Disk quota exceeded" in words:
        raise ResourceError(f"cannot link: no space left in {folder.parent.parent}")
    said = "\n".join(words.splitlines()[:12]) or f"exit status {done.returncode}"
    raise LeptonError(f"the linker failed: {shlex.join(command[:1])} said:\n{said}")


# ---- what is linked ----

def _write_objects(folder: Path, objects: Sequence[bytes]) -> list[str]:
    names = [f"object{i}.o" for i in range(len(objects))]
    for name, data in zip(names, objects, strict=True):
        (folder / name).write_bytes(data)
    return names


def runtime_folder() -> Path:
    """Where the runtime's include/ and src/ lie: runtime_c/ in a checkout, lepton/_runtime/ when installed."""
    here = Path(__file__).resolve().parent.parent
    for folder in (here / "runtime_c", here / "_runtime"):
        if (folder / "src" / "entry.c").is_file():
            return folder
    raise LeptonError(f"Lepton's C runtime is missing from {here}", help="install lepton-compiler again")


def prebuilt_archive() -> Path | None:
    """liblepton_rt.a for this machine as setup.py built it, unless a source is newer."""
    runtime = runtime_folder()
    package = runtime.parent / "lepton" if runtime.name == "runtime_c" else runtime.parent
    archive = package / "_runtime" / "liblepton_rt.a"
    if not archive.is_file():
        return None
    newest = max(f.stat().st_mtime for part in ("src", "include") for f in (runtime / part).iterdir())
    fresh = runtime.name == "_runtime" or archive.stat().st_mtime >= newest
    return archive if fresh else None


def _runtime_archive(folder: Path, command: Sequence[str], triple: str) -> list[str]:
    """The runtime as linker inputs: the prebuilt archive where it fits, else compiled here from its sources.

    All of it, in the same order either way, so that the bytes do not depend on which way was taken.
    """
    prebuilt = prebuilt_archive() if is_host(triple) else None
    if prebuilt is not None:
        return ["-Wl,--whole-archive", str(prebuilt), "-Wl,--no-whole-archive"]
    runtime = runtime_folder()
    sources = sorted((runtime / "src").glob("*.c"))
    flags = [*COMPILE_FLAGS, *ARCH_FLAGS.get(triple.split("-")[0], ()),
             *(f"-I{runtime / part}" for part in ("include", "src"))]
    for source in sources:  # one at a time: `zig cc -c` writes one object file
        _run([*command, *flags, "-c", str(source), "-o", f"{source.stem}.o"], folder)
    return [f"{source.stem}.o" for source in sources]
