"""Where the packages live, and the C runtime: as extension `lepton._rt`, as archive and as sources for link.py.

Everything else about the project stands in pyproject.toml.
"""
from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
RUNTIME = ROOT / "runtime_c"

# Import name -> folder. The symlinks in lepton/ show the same tree to tools that read the checkout.
HOME = {
    "lepton": "lepton",
    "lepton.ir": "lepton_ir",
    "lepton.frontends": "frontends",
    "lepton.passes": "passes",
    "lepton.codegen": "codegen",
}


def packages() -> list[str]:
    """Each of HOME and what lies below it; of `lepton` what is no link: those are listed on their own."""
    found = list(HOME)
    for name, folder in HOME.items():
        below = [p for p in find_packages(folder) if not (ROOT / folder / p.split(".")[0]).is_symlink()]
        found += [f"{name}.{package}" for package in below]
    return found


def build_archive(to: Path, build: Path) -> None:
    """liblepton_rt.a for this machine. Without a C compiler setup has failed before."""
    build.mkdir(parents=True, exist_ok=True)
    to.mkdir(parents=True, exist_ok=True)
    make = ["make", "-s", "-C", str(RUNTIME), f"BUILD={build.resolve()}", "archive"]
    subprocess.run(make, check=True)
    shutil.copy2(build / "liblepton_rt.a", to / "liblepton_rt.a")


class BuildExtension(build_ext):
    """Also builds the archive that compiled models are linked with."""

    def run(self) -> None:
        super().run()
        inplace = self.inplace or getattr(self, "editable_mode", False)
        package = ROOT / "lepton" if inplace else Path(self.build_lib) / "lepton"
        build_archive(package / "_runtime", Path(self.build_temp) / "runtime")


class BuildPython(build_py):
    """Also ships the runtime's sources, for targets other than this machine."""

    def run(self) -> None:
        super().run()
        if getattr(self, "editable_mode", False):
            return  # link.py finds runtime_c/ beside the packages
        for folder in ("include", "src"):
            to = Path(self.build_lib) / "lepton" / "_runtime" / folder
            to.mkdir(parents=True, exist_ok=True)
            for file in sorted((RUNTIME / folder).glob("*.[ch]")):
                shutil.copy2(file, to / file.name)


setup(
    packages=packages(),
    package_dir=HOME,
    package_data={"lepton": ["py.typed", "_rt.pyi"], "lepton.tuning": ["defaults.jsonl"],
                  "lepton.codegen.cuda": ["prelude/*"]},
    include_package_data=False,
    cffi_modules=["runtime_c/build_ffi.py:ffibuilder"],
    cmdclass={"build_ext": BuildExtension, "build_py": BuildPython},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
    zip_safe=False,
)
