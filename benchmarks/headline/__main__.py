"""An image classifier as small and fast as it gets within 1 % of its accuracy: `python -m benchmarks.headline`.

A residual network is trained on Fashion-MNIST in PyTorch, loses channels in rounds (`lepton.compress.prune_model`) with
training on between them, is quantised to 8 bits and compiled; each step is measured beside PyTorch, ONNX Runtime and,
where installed, OpenVINO. Needs `pip install -e '.[compress]' torch onnxscript onnxruntime` and, for the data, apt
(Debian's dataset-fashion-mnist). What is made stays in --folder: a second call takes up where the first one ended."""
from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import onnx
import torch

import lepton
from benchmarks.headline import measure
from benchmarks.headline.data import Data, load
from benchmarks.headline.network import Network, Widths
from benchmarks.headline.rebuild import export, rebuilt
from benchmarks.headline.training import Course, accuracy, fit
from lepton.frontends.onnx.export import to_onnx

ROUNDS = (0.5, 0.5)      # of the channels that each round takes
LONGER = 4               # times as many epochs after each round as after the one before: they take about as long
SEEN = 512               # images that pruning and calibration look at


def trained(file: Path, data: Data, epochs: float) -> Network:
    """The whole network, from the file if it was trained before."""
    network = Network()
    if file.exists():
        network.load_state_dict(torch.load(file, weights_only=True))
        network.eval()
        return network
    torch.manual_seed(0)
    network = Network()
    fit(network, data.train, Course(epochs, 0.1))
    torch.save(network.state_dict(), file)
    return network


def pruned(folder: Path, index: int, network: Network, teacher: Network, data: Data, epochs: float) -> Network:
    """A round of pruning and training on, from the file if it was done before."""
    file = folder / f"round{index}.pt"
    if file.exists():
        known = torch.load(file, weights_only=True)
        small = Network(Widths(known["stem"], tuple(known["trunks"]), tuple((a, b) for a, b in known["inner"])))
        small.load_state_dict(known["weights"])
        small.eval()
        return small
    seen = data.validation.images[:SEEN]
    graph = lepton.compress.prune_model(export(network, None), ROUNDS[index], "channels", criterion="obs", data=seen,
                                        multiple=16)
    small = rebuilt(graph, seen)
    before = accuracy(small, data.validation)
    fit(small, data.train, Course(epochs, 0.05, seed=index + 1), teacher)
    print(f"round {index + 1}: {small.widths}; on validation data {before:.4f} pruned, "
          f"{accuracy(small, data.validation):.4f} trained on", file=sys.stderr, flush=True)
    torch.save({**asdict(small.widths), "weights": small.state_dict()}, file)
    return small


def quantised(folder: Path, model: onnx.ModelProto, data: Data) -> onnx.ModelProto:
    graph = lepton.compress.quantize_model(model, calibration=data.validation.images[:SEEN])
    lepton.compile_to(graph, folder / "small.int8.so")
    return to_onnx(graph)


def entries(folder: Path, whole: Network, small: Network, data: Data) -> list[measure.Entry]:
    """The steps of the recipe, then the others with the same models."""
    models = {"whole": export(whole), "small": export(small)}
    for name, model in models.items():
        onnx.save(model, folder / f"{name}.onnx")
        lepton.compile_to(model, folder / f"{name}.so")
    int8 = quantised(folder, models["small"], data)
    onnx.save(int8, folder / "small.int8.onnx")
    found = [measure.eager("PyTorch eager, f32", whole, folder),
             measure.compiled("1. compiled by Lepton, f32", folder / "whole.so"),
             measure.compiled("2. and pruned", folder / "small.so"),
             measure.compiled("3. and in int8", folder / "small.int8.so"),
             measure.eager("PyTorch eager, pruned", small, folder)]
    for name, engine in (("ONNX Runtime", measure.onnxruntime), ("OpenVINO", measure.openvino)):
        made = (engine(f"{name}, f32", models["whole"]), engine(f"{name}, pruned", models["small"]),
                engine(f"{name}, pruned, int8", int8))
        found += [entry for entry in made if entry is not None]
    return found


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
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    data = load(options.folder)
    whole = trained(options.folder / "whole.pt", data, options.epochs)
    small = whole
    for index in range(len(ROUNDS)):
        small = pruned(options.folder, index, small, whole, data, options.tuning * LONGER**index)
    if options.train_only:
        return 0
    found = measure.rows(entries(options.folder, whole, small, data), data.test, options.seconds)
    (options.folder / "rows.json").write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n")
    print(measure.table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
