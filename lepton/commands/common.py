"""What the commands share: opening a model of any kind, and the options for its inputs."""
from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton.ir.diagnostics import UsageError
from lepton.terminal import count, parse_structure

if TYPE_CHECKING:
    from lepton.artifact import Model
    from lepton.ports import Array

ELF = b"\x7fELF"
SOURCES = (".onnx", ".lir")


def add_parser(commands: Any, name: str, help: str, examples: str) -> argparse.ArgumentParser:
    """A command's parser: one sentence, examples at the end."""
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=help[0].upper() + help[1:] + ".", epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    return made


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """--load-plugin."""
    parser.add_argument("--load-plugin", dest="plugins", action="append", default=[], metavar="FILE.py",
                        help="operators, passes and functions of your own, as for leptonc")


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """-i, --dim, --structure and --load-plugin."""
    add_plugins(parser)
    parser.add_argument("-i", "--input", action="append", default=[], metavar="NAME=@FILE.npy",
                        help="an input: from a .npy file, a number or list (x=3.5), or all from an .npz (@all.npz)")
    parser.add_argument("--dim", action="append", default=[], metavar="N=1",
                        help="size of an open dimension; in a .onnx or .lir it is compiled in")
    parser.add_argument("--structure", action="append", default=[], metavar="NAME=N",
                        help="for a .onnx: what a sequence or optional among the inputs holds, as for leptonc")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model, and which one of a file that holds several."""
    parser.add_argument("model", help="model.so; or model.onnx, graph.lir, compiled on the way")
    parser.add_argument("--model", dest="which", metavar="NAME", help="of a .so that holds several: which one")


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=count, default=0, metavar="N",
                        help="threads of a run (0: the model's default, or all cores)")


def is_artifact(path: str) -> bool:
    """Whether the file is a compiled model rather than a source of one. Raises UsageError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == ELF or not path.endswith(SOURCES)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


@dataclass(frozen=True)
class Opened:
    """A model ready to run, and the sizes that its inputs still need."""

    model: Model
    sizes: Mapping[str, int]

    def inputs(self, given: Sequence[str], seed: int | None) -> dict[str, Array]:
        """Raises UsageError."""
        from lepton.inputs import make_inputs

        return make_inputs(self.model.inputs, given, self.sizes, seed, aliases(self.model))


def open_model(path: str, sizes: Mapping[str, int], threads: int = 0, target: str = "native",
               structure: Sequence[str] = (), plugins: Sequence[str] = (), level: int = 2,
               which: str | None = None) -> Opened:
    """Load a .so; compile anything else in this process, with `sizes` and `structure` compiled in. Raises
    LeptonError."""
    if is_artifact(path):
        if plugins:  # they may bring functions that it calls
            from lepton.plugins import load as load_plugins

            load_plugins(plugins)
        if structure:
            raise UsageError(f"--structure {structure[0]}: {path} is compiled, what it takes is settled")
        from lepton.library import load

        return Opened(load(path, threads=threads, model=which), sizes)
    if which is not None:
        raise UsageError(f"--model {which}: {path} holds one model")
    from lepton.driver import compile

    return Opened(compile(path, target=target, level=level, dims=dict(sizes), threads=threads,
                          structure=parse_structure(structure), plugins=tuple(plugins)), {})


def aliases(model: Model) -> dict[str, str]:
    """The source's own names of the open dimensions, by ours."""
    found: dict[str, str] = json.loads(model.metadata.get("model", {}).get("dims", "{}"))
    return found


def described(arrays: Mapping[str, Array]) -> dict[str, str]:
    """`{"x": "f32[1,3]"}`."""
    from lepton.ports import type_words

    return {name: type_words(a.dtype, a.shape) for name, a in arrays.items()}


def check_folder(path: Path) -> None:
    """Raises UsageError where no file can be written at `path`."""
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}", help=f"mkdir -p {path.parent}")
