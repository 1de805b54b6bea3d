"""`lepton run`: one run of a model on arrays from files."""
from __future__ import annotations

import argparse
import io
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton.commands.common import add_code, add_inputs, add_model, add_parser, add_threads, open_model
from lepton.ir.diagnostics import Exit, UsageError
from lepton.ir.files import check_destination, replacing
from lepton.terminal import count

if TYPE_CHECKING:
    from lepton.ports import Array

EXAMPLES = """\
  lepton run model.so -i x=@x.npy                     what comes out, in one line per output
  lepton run model.so -i x=@x.npy -i scale=3.5 -o y.npz
  lepton run model.so --random 0 --dim N=2 --print
  lepton run model.so -i @inputs.npz -o logits=@logits.npy
"""


def add(commands: Any) -> None:
    parser = add_parser(commands, "run", "run a model once", EXAMPLES)
    add_model(parser)
    add_inputs(parser)
    parser.add_argument("-o", "--output", action="append", default=[], metavar="OUT.npz|NAME=@FILE.npy",
                        help="where the outputs go: all to an .npz, or one to an .npy")
    parser.add_argument("--random", type=count, metavar="SEED", help="random values for the inputs that are not given")
    parser.add_argument("--print", action="store_true", help="print the outputs' elements")
    add_code(parser)
    add_threads(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> Exit:
    """Raises LeptonError."""
    opened = open_model(args)
    places = _places(args.output, [p.name for p in opened.model.outputs])
    feeds = opened.inputs(args.input, args.random)
    with opened.telling_sizes(args.input):
        outputs = opened.model.run_ports(feeds)
    for path, names in places.items():
        _save(path, {name: outputs[name] for name in names})
    for name, array in outputs.items():
        print(_full(name, array) if args.print else _line(name, array))
    return Exit.OK


def _places(words: Sequence[str], known: Sequence[str]) -> dict[Path, list[str]]:
    """Which outputs go to which file. Raises UsageError."""
    places: dict[Path, list[str]] = {}
    for word in words:
        name, one, file = word.partition("=@")
        path = Path(file if one else word)
        if one and name not in known:
            raise UsageError(f"-o {word}: the model has no output '{name}'", help=f"its outputs: {', '.join(known)}")
        if path.suffix != (".npy" if one else ".npz"):
            raise UsageError(f"-o {word}: expected FILE.npz for all outputs, or NAME=@FILE.npy for one")
        check_destination(path)
        places[path] = [name] if one else list(known)
    return places


def _save(path: Path, arrays: Mapping[str, Array]) -> None:
    """One array as .npy, or all as .npz; what was there is replaced only by a complete file. Raises UsageError."""
    import numpy as np

    with replacing(path) as partial:
        if path.suffix == ".npy":
            (array,) = arrays.values()
            np.save(partial, _plain(array), allow_pickle=False)
            return
        with zipfile.ZipFile(partial, "w") as file:  # np.savez cannot have an array called `file`
            for name, array in arrays.items():
                np.save(data := io.BytesIO(), _plain(array), allow_pickle=False)
                file.writestr(f"{name}.npy", data.getvalue())


def _plain(array: Array) -> Array:
    """What can be saved without pickling: strings as numpy's own, which lose zeros at their ends."""
    return array.astype(str) if array.dtype == object else array


def _line(name: str, array: Array) -> str:
    """`y: f32[2,3]  min 0  mean 0.5  max 1`."""
    import numpy as np

    from lepton.ports import type_words

    head = f"{name}: {type_words(array.dtype, array.shape)}"
    if array.dtype.kind not in "biufV" or not array.size:
        return head
    wide = array.astype(np.float64)
    return f"{head}  min {wide.min():.6g}  mean {wide.mean():.6g}  max {wide.max():.6g}"


def _full(name: str, array: Array) -> str:
    import numpy as np

    from lepton.ports import type_words

    return f"{name}: {type_words(array.dtype, array.shape)}\n{np.array2string(array, threshold=sys.maxsize)}"
