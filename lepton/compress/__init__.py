"""Compression: models made smaller and faster at a known price.

    graph = lepton.compress.quantize_model("model.onnx", calibration="samples.npz")
    lepton.compile_to(graph, "model.so")
"""
from lepton.compress.factorize import factorize
from lepton.compress.prune import masks, prune_model, remask, save_masks
from lepton.compress.quantize import Calibration, Recipe, quantize_model
from lepton.compress.searching import Plan, search
from lepton.compress.share import share_weights

__all__ = [
    "Calibration", "Plan", "Recipe", "factorize", "masks", "prune_model", "quantize_model", "remask", "save_masks",
    "search", "share_weights",
]
