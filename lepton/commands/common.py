"""What the commands share: opening a model of any kind, and the options for its inputs."""
from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton.ir.diagnostics import UsageError
from lepton.terminal import count, parse_dims, parse_structure

if TYPE_CHECKING:
    from lepton.artifact import Model
    from lepton.ports import Array

ELF = b"\x7fELF"
SOURCES = (".onnx", ".lir")


def add_parser(commands: Any, name: str, help: str, examples: str) -> argparse.ArgumentParser:
    """A command's parser: one sentence, examples at the end."""
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=help[0].upper() + help[1:] + ".", epilog=f"examples:\n{examples}")
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


def add_code(parser: argparse.ArgumentParser) -> None:
    """How a .onnx or .lir is compiled on the way, and of a .so where it runs. None: not given."""
    parser.add_argument("--target", metavar="T", help="for a .onnx or .lir: what to compile it for (default: native)")
    parser.add_argument("-O", dest="level", type=int, choices=range(4), metavar="0..3",
                        help="for a .onnx or .lir: how much to optimise (default 2)")
    parser.add_argument("--math", choices=("strict", "default", "fast"), help="for a .onnx or .lir: as for leptonc")
    parser.add_argument("--precision", choices=("f32", "bf16", "fp16"), help="for a .onnx or .lir: as for leptonc")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), help="of a .so with code for both: where it runs "
                        "(default: what it was compiled for first; auto: on the GPU if there is one)")


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

    def telling_sizes(self, given: Sequence[str]) -> AbstractContextManager[None]:
        """Around a first run: its errors name the sizes that were made up."""
        from lepton.inputs import telling_sizes

        return telling_sizes(self.model.inputs, given, self.sizes, aliases(self.model))


def open_model(args: argparse.Namespace) -> Opened:
    """Load a .so; compile anything else in this process, as the command line says. Raises LeptonError."""
    sizes = parse_dims(args.dim)
    if is_artifact(args.model):
        return Opened(load_artifact(args.model, args), sizes)
    check_source(args)
    from lepton.driver import compile

    return Opened(compile(args.model, **code_options(args, sizes)), {})


def load_artifact(path: str, args: argparse.Namespace) -> Model:
    """A .so, on the device and with the threads that the command line names. Raises LeptonError, also for options that
    only mean something while compiling."""
    from lepton.library import load

    words = {"--target": args.target, "-O": args.level, "--math": args.math, "--precision": args.precision,
             "--structure": next(iter(args.structure), None)}
    if given := [f"{option} {value}" for option, value in words.items() if value is not None]:
        raise UsageError(f"{given[0]}: {path} is compiled, that is settled",
                         help="give the .onnx or .lir it came from, or compile it again")
    if args.plugins:  # they may bring functions that it calls
        from lepton.plugins import load as load_plugins

        load_plugins(args.plugins)
    return load(path, threads=args.threads, model=args.which, device=args.device)


def check_source(args: argparse.Namespace) -> None:
    """Raises UsageError for options that only a .so has a use for."""
    if args.which is not None:
        raise UsageError(f"--model {args.which}: {args.model} holds one model")
    if args.device is not None:
        raise UsageError(f"--device {args.device}: {args.model} is compiled here, for what --target says",
                         help="--device chooses among the targets of a .so")


def code_options(args: argparse.Namespace, dims: Mapping[str, Any]) -> dict[str, Any]:
    """What the command line says about compiling: keywords of `lepton.driver.Options`. Raises UsageError."""
    given = {name: getattr(args, name) for name in ("target", "level", "math", "precision")}
    return {**{name: value for name, value in given.items() if value is not None}, "dims": dict(dims),
            "threads": args.threads, "structure": parse_structure(args.structure), "plugins": tuple(args.plugins)}


def aliases(model: Model) -> dict[str, str]:
    """The source's own names of the open dimensions, by ours."""
    found: dict[str, str] = json.loads(model.metadata.get("model", {}).get("dims", "{}"))
    return found


def described(arrays: Mapping[str, Array]) -> dict[str, str]:
    """`{"x": "f32[1,3]"}`."""
    from lepton.ports import type_words

    return {name: type_words(a.dtype, a.shape) for name, a in arrays.items()}
