"""Lepton: a trained model in, the fastest small program that computes it out.

    model = lepton.compile("model.onnx")           # in this process
    lepton.compile_to("model.onnx", "model.so")    # a self-contained library
    model = lepton.load("model.so")                # imports neither onnx nor llvmlite
    y = model(x)
"""
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton.artifact import Model, Session
    from lepton.driver import compile, compile_to
    from lepton.functions import register
    from lepton.ir.diagnostics import LeptonError
    from lepton.library import load, models
    from lepton.session import InferenceSession, SessionOptions

__version__ = "0.1.0"
__all__ = ["InferenceSession", "LeptonError", "Model", "Session", "SessionOptions", "__version__", "compile",
           "compile_to", "load", "models", "register"]

# Loading an artifact must not import the compiler, nor onnx and LLVM behind it: names arrive when asked for.
_HOMES = {
    "compile": "lepton.driver", "compile_to": "lepton.driver", "load": "lepton.library", "models": "lepton.library",
    "Model": "lepton.artifact", "Session": "lepton.artifact",
    "InferenceSession": "lepton.session", "SessionOptions": "lepton.session",
    "LeptonError": "lepton.ir.diagnostics", "register": "lepton.functions",
}


def __getattr__(name: str) -> Any:
    if name != "compress" and name not in _HOMES:
        raise AttributeError(f"module 'lepton' has no attribute {name!r}")
    try:
        if name == "compress":
            return import_module("lepton.compress")
        found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        from lepton.terminal import not_installed

        if (told := not_installed(error)) is None:
            raise
        raise told from None    # which of the compiler's files came upon it first says nothing to the user
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "compress"})
