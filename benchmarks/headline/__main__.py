"""An image classifier as small and fast as it gets within 1 % of its accuracy: `python -m benchmarks.headline`.

A residual network is trained on Fashion-MNIST in PyTorch, loses channels in rounds (`lepton.compress.prune_model`) with
training on between them, is quantised to 8 bits and compiled; each step is measured beside PyTorch, ONNX Runtime and,
where installed, OpenVINO. Needs `pip install -e '.[compress]' torch onnxscript onnxruntime` and, for the data, apt
(Debian's dataset-fashion-mnist). What is made stays in --folder: a second call takes up where the first one ended."""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

LONGER = 4      # times as many epochs after each round as after the one before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("headline"), help="what is made (default: ./headline)")
    parser.add_argument("--epochs", type=float, default=3, help="of training the whole network (default 3)")
    parser.add_argument("--tuning", type=float, default=1,
                        help=f"epochs of training on after the first round (default 1), {LONGER} times as many after "
                             "each other one")
    parser.add_argument("--seconds", type=float, default=20, help="to measure (default 20)")
    parser.add_argument("--train-only", action="store_true", help="measure nothing")
    options = parser.parse_args()
    from benchmarks.headline.recipe import follow  # torch and all: not for --help

    follow(options.folder, options.epochs, options.tuning, LONGER, None if options.train_only else options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
