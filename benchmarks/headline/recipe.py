"""The recipe's steps: train, prune and train on, quantise, compile, measure."""
from __future__ import annotations

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


def follow(folder: Path, epochs: float, tuning: float, longer: int, seconds: float | None) -> None:
    """All of it, what is made left in `folder`; `seconds`: how long is measured, None: not at all. `longer`: how many
    times as many epochs each round's training on takes as the one before: they take about as long."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    data = load(folder)
    whole = trained(folder / "whole.pt", data, epochs)
    small = whole
    for index in range(len(ROUNDS)):
        small = pruned(folder, index, small, whole, data, tuning * longer**index)
    if seconds is None:
        return
    found = measure.rows(entries(folder, whole, small, data), data.test, seconds)
    (folder / "rows.json").write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n")
    print(measure.table(found))
