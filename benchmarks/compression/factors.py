"""How much work each form of trained filters saves: `python -m benchmarks.compression.factors [MODEL ...]`.

For the convolutions with taps of a model, and each share of a layer's squared weights that may be lost: what
`factorize` makes of them in each form, as a share of the work that the layers are (a layer that a form would not make
cheaper stays as it is). `best` is the form of that name: for every layer the least of svd, tucker and depthwise; the
last column lets it choose cp too, which takes long to fit."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from math import prod

import numpy as np
import onnx

from lepton.compress.prepare import prepare
from lepton.ir.tensor import Array
from lepton.passes.compress.cp import cp
from lepton.passes.compress.factors import Factors, Limits, depthwise, lost, svd, tucker
from lepton.passes.compress.layers import layers
from tests.models.networks import BY_NAME

MODELS = ("ppocr_det", "ppocr_rec", "silero_sequence")
ERRORS = (0.01, 0.05, 0.1)
FORMS: dict[str, Callable[[Array, Limits, tuple[int, ...]], Factors]] = {
    "svd": lambda w, limits, _: svd(w, limits), "tucker": tucker,
    "depthwise": lambda w, limits, _: depthwise(w, limits), "cp": cp}


def filters(name: str) -> Iterator[tuple[Array, tuple[int, ...]]]:
    """[O,C,k...] and the strides of the convolutions that could be factorised."""
    for layer in layers(prepare(onnx.load(BY_NAME[name].path()))):
        if layer.is_conv and layer.w is not None and layer.groups == 1 and prod(layer.weight.shape[2:]) > 1:
            yield layer.weight.astype(np.float64), layer.node.attrs["strides"]


def work(form: str, weight: Array, strides: tuple[int, ...], error: float) -> float:
    """Of the layer in a form, or as it is where that is less."""
    made = FORMS[form](weight, Limits(error), strides)
    return min(made.work, weight.size) if lost(weight, made) <= error * (1 + 1e-6) else weight.size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, help=f"of {', '.join(BY_NAME)}")
    options = parser.parse_args()
    print(f"| model | may lose | layers | {' | '.join(FORMS)} | best | best, or cp |\n"
          f"|---|--:|--:|{'--:|' * (len(FORMS) + 2)}")
    for name in options.models:
        found = list(filters(name))
        whole = sum(weight.size for weight, _ in found)
        for error in ERRORS:
            each = np.array([[work(form, *layer, error) for form in FORMS] for layer in found])
            shares = [*each.sum(axis=0), each[:, :3].min(axis=1).sum(), each.min(axis=1).sum()]
            print(f"| {name} | {error:.0%} | {len(found)} | {' | '.join(f'{s / whole:.0%}' for s in shares)} |",
                  flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
