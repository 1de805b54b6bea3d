"""Scan of opset 8: batches, lengths, directions, captures; against ONNX Runtime, imported and compiled."""
from __future__ import annotations

import numpy as np
import onnx
import pytest

import lepton
from lepton.ir.diagnostics import LeptonError
from lepton.ir.evaluate import evaluate
from tests.frontends.build import floats, imported, runtime, same, text_model


def model(lengths: bool, directions: tuple[int, int], batch: str = "B", rounds: str = "T") -> onnx.ModelProto:
    """Two states (one counts rounds), two sequences, a captured factor, two collected values, one of them integer."""
    given = f"int64[{batch}] n, " if lengths else ""
    return text_model(f"""<ir_version: 8, opset_import: ["": 8]>
        g ({given}float[{batch},2] s, float[{batch}] k, float[{batch},{rounds},2] x, float[{batch},{rounds},3] w,
           float[2] factor) => (float[{batch},2] s_end, float[{batch}] k_end, float[{batch},{rounds},2] a,
                                int32[{batch},{rounds}] b)
        {{
            one = Constant <value = float {{1.0}}> ()
            s_end, k_end, a, b = Scan <num_scan_inputs = 2, directions = [{directions[0]}, {directions[1]}],
                body = step (float[2] s_in, float k_in, float[2] x_in, float[3] w_in)
                    => (float[2] s_out, float k_out, float[2] a_out, int32 b_out) {{
                total = ReduceSum <axes = [0], keepdims = 0> (w_in)
                scaled = Mul (x_in, factor)
                moved = Add (s_in, scaled)
                s_out = Mul (moved, total)
                k_out = Add (k_in, one)
                a_out = Sub (s_out, x_in)
                b_out = Cast <to = 6> (k_out)
            }}> ({'n' if lengths else ''}, s, k, x, w)
        }}""".replace("> (, s", '> ("", s'))


def feeds(batch: int, rounds: int) -> dict[str, np.ndarray]:
    return {"s": floats(batch, 2), "k": floats(batch, seed=1), "x": floats(batch, rounds, 2, seed=2),
            "w": floats(batch, rounds, 3, seed=3), "factor": floats(2, seed=4)}


@pytest.mark.parametrize("directions", [(0, 0), (1, 0), (1, 1)])
@pytest.mark.parametrize("lengths", [None, [4, 1, 3]])
def test_scan(lengths: list[int] | None, directions: tuple[int, int]) -> None:
    given = feeds(3, 4)
    if lengths is not None:
        given = {"n": np.array(lengths), **given}
    proto = model(lengths is not None, directions)
    want = runtime(proto, given)
    graph = imported(proto)
    same(evaluate(graph, *(given[v.name or ""] for v in graph.inputs)), want, rtol=1e-5, atol=1e-5)
    for level in (0, 2):
        same(list(lepton.compile(proto, level=level).run(given).values()), want, rtol=1e-5, atol=1e-5)


def test_one_of_each() -> None:
    given = feeds(1, 1)
    same(list(lepton.compile(model(False, (0, 1), "1", "1")).run(given).values()),
         runtime(model(False, (0, 1)), given), rtol=1e-5, atol=1e-5)


def test_refusals() -> None:
    with pytest.raises(LeptonError, match=r"directions \[0, 7\]"):
        imported(model(False, (0, 7)))
