"""Test cases of the ops on text."""
from __future__ import annotations

from typing import Any

import numpy as np

from lepton.ir.tensor import Array
from lepton.ir.types import DType
from tests.ir.ops_cases import Case, case
from tests.ir.ops_oracle import Onnx

WORDS = ["", "a", "Ab c", "  two  words ", "ÄÖÜß", "ǅ\U0001f600 x", "x,y,,z", ",", "line\none", "tail\0end"]


def text(*words: str, shape: tuple[int, ...] | None = None) -> Array:
    return np.array(words, object).reshape(shape or (len(words),))


def node(op: str, outputs: int = 1, **attrs: Any) -> Onnx:
    return Onnx(op, attrs, outputs=outputs, opset=20)


def moved() -> list[Case]:
    words = text(*WORDS)
    counted = text("a b", "", "a,b,c", ",", shape=(2, 2))
    pieces = text("a b", "", "", "", "", "", "a", "b", "c", "", "", "", shape=(2, 2, 3))
    limited = text("a b", "", "", "", "a", "b,c", "", "", shape=(2, 2, 2))
    twice = np.array([[1, 1], [2, 2]])
    return [
        case("string_concat", words, words[::-1].copy(), onnx=node("StringConcat")),
        case("string_concat", text(shape=(0, 3)), text(shape=(0, 3)), expected=text(shape=(0, 3))),
        case("string_split", counted, delimiter=",", symbol="n", expected=(pieces, np.array([[1, 1], [3, 2]]))),
        case("string_split", counted, delimiter=",", most=1, symbol="n", expected=(limited, twice)),
        case("string_split", words, delimiter="", symbol="n", onnx=Onnx("StringSplit", outputs=2, opset=20,
                                                                       by="reference")),
        case("string_split", text(), delimiter="", symbol="n", expected=(text(shape=(0, 0)), np.zeros(0, np.int64))),
        case("string_rank", text("b", "ä", "", "b", "a", "az"), expected=np.array([3, 4, 0, 3, 1, 2])),
        case("string_rank", text(shape=(2, 0)), expected=np.zeros((2, 0), np.int64)),
    ]


def looked_at() -> list[Case]:
    patterns = [r"\w+", r"[^,]*,.*", r"(?s).*\n.*", r"(?i)äöüSS?ß?", r".{1,3}"]
    return [
        *(case("regex_full_match", text(*WORDS[:-1]), pattern=p, onnx=node("RegexFullMatch", pattern=p))
          for p in patterns),
        case("string_case", text("AbÄß", "İi", "ΣΑΣ", ""), to="lower", expected=text("abäß", "i̇i", "σασ", "")),
        case("string_case", text("abß", "ǆ", "i"), to="upper", expected=text("ABSS", "Ǆ", "I")),
        case("string_case", text("Iİıi"), to="lower", dotless=True, expected=text("ıiıi")),
        case("string_case", text("Iİıi"), to="upper", dotless=True, expected=text("IİIİ")),
    ]


def numbers() -> list[Case]:
    hard = np.array([0.0, -0.0, 1, -1.5, 0.1, 1e-5, 1e-4, 1e15, 1e16, 123456789, np.nan, np.inf, -np.inf, 5e-324])
    singles = np.array([0.1, 1 / 3, 2.0**89, 3.4e38, 1e-45], np.float32)
    halves = np.array([0.1, 1 / 3, 65504, 6e-8], np.float16)
    read = text("1", " 2.5\n", "1e3", "-INF", "nAn", ".5", "5.")
    singles_read = np.array([1, 2.5, 1000, -np.inf, np.nan, 0.5, 5], np.float32)
    return [
        case("number_to_string", hard, expected=text(*map(repr, hard.tolist()))),
        case("number_to_string", singles, expected=text("0.1", "0.33333334", "6.1897002e+26", "3.4e+38", "1e-45")),
        case("number_to_string", halves, expected=text("0.1", "0.3333", "65500.0", "6e-08")),
        case("number_to_string", np.array([-2**63, 7]), expected=text(str(-2**63), "7")),
        case("number_to_string", np.array([True, False]), expected=text("True", "False")),
        case("string_to_number", read, to=DType.F32, expected=singles_read),
        case("string_to_number", text("-7", "3.99", "1e3", str(2**63 - 1)), to=DType.I64,
             expected=np.array([-7, 3, 1000, 2**63 - 1])),
        case("string_to_number", text("true", "FALSE", "0", "0.5"), to=DType.BOOL,
             expected=np.array([True, False, False, True])),
        case("string_to_number", text(str(2**64 - 1)), to=DType.U64, expected=np.array([2**64 - 1], np.uint64)),
    ]


CASES = [*moved(), *looked_at(), *numbers()]
