"""Sizes, starts, amounts and counts that are inputs: one compiled model takes all contents, as ONNX Runtime does; and
the interpreter agrees. Sizes that differ are broadcast where one of them turns out to be 1."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

import lepton
from lepton.ir.diagnostics import LeptonError
from lepton.ir.evaluate import evaluate
from tests.frontends.build import floats, imported, ints, runtime, single, text_model

Feeds = Mapping[str, np.ndarray]


def check(model: object, runs: Sequence[Feeds], level: int = 2) -> None:
    """One artifact for all runs; each twice, so that what an earlier one left behind does not matter."""
    graph = imported(model)  # type: ignore[arg-type]
    compiled = lepton.compile(model, level=level).session(2)
    for feeds in (*runs, *reversed(runs)):
        want = runtime(model, feeds)  # type: ignore[arg-type]
        meant = evaluate(graph, *(feeds[v.name or ""] for v in graph.inputs))
        got = list(compiled.run(dict(feeds)).values())
        for g, m, w in zip(got, meant, want, strict=True):
            assert g.shape == m.shape == w.shape
            assert g.dtype == m.dtype == w.dtype
            np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(g, m, rtol=1e-5, atol=1e-6)


def one(op: str, runs: Sequence[Sequence[np.ndarray | None]], **attributes: object) -> None:
    """A model of one operator; open dimensions, and the same element types in each run."""
    named = [{f"x{i}": x for i, x in enumerate(run)} for run in runs]
    model = single(op, named[0], open_dims=True, outputs=attributes.pop("outputs", 1),  # type: ignore[arg-type]
                   **attributes)  # type: ignore[arg-type]
    # How many numbers an operand holds is part of the model; their values are not.
    for info in model.graph.input:
        x = named[0][info.name]
        if x is not None and x.dtype == np.int64 and x.ndim == 1:
            info.type.tensor_type.shape.dim[0].dim_value = len(x)
    check(model, [{k: v for k, v in feeds.items() if v is not None} for feeds in named])


X = floats(6, 7)


def test_slice() -> None:
    far = 2**63 - 1
    one("Slice", [(X, ints(*a), ints(*b))
                  for a, b in (((0, 0), (6, 7)), ((1, -3), (4, -1)), ((-100, 5), (100, 2)), ((2, 7), (far, far)))])


@pytest.mark.parametrize("steps", [(1, -1), (-2, 3)])
def test_slice_with_steps(steps: tuple[int, int]) -> None:
    model = single("Slice", {"x": X, "a": ints(0, 0), "b": ints(0, 0)},
                   constants={"axes": ints(1, 0), "steps": ints(*steps)}, open_dims=False)
    ends = [((5, -1), (-1, -7)), ((0, 0), (7, 6)), ((6, 5), (0, -100)), ((-1, 100), (-100, 0))]
    check(model, [{"x": X, "a": ints(*a), "b": ints(*b)} for a, b in ends])


def test_reshape() -> None:
    one("Reshape", [(X, ints(*s)) for s in ((7, 6), (-1, 7), (0, 7), (42, 1), (2, -1), (0, -1))])


def test_reshape_of_nothing_or_to_what_does_not_fit() -> None:
    model = single("Reshape", {"x": X, "s": ints(7, 6)})
    run = lepton.compile(model).session(1).run
    for bad in ((5, 5), (-1, 5), (-2, -21), (-1, -1), (2**40, 2**40)):
        with pytest.raises(LeptonError):
            run({"x": X, "s": ints(*bad)})
    assert next(iter(run({"x": X, "s": ints(3, 14)}).values())).shape == (3, 14)


def test_reshape_with_known_parts() -> None:
    model = text_model("""
    <ir_version: 10, opset_import: ["" : 17]>
    g (float[N, 4] x, int64[1] heads) => (float[a, b, c] y) {
      minus = Constant <value = int64[1] {-1}> ()
      four = Constant <value = int64[1] {2}> ()
      shape = Concat <axis = 0> (minus, heads, four)
      r = Reshape (x, shape)
      y = Neg (r)
    }""")
    check(model, [{"x": floats(n, 4), "heads": ints(h)} for n, h in ((6, 2), (6, 4), (1, 1), (0, 2))])


def test_expand_and_constant_of_shape() -> None:
    one("Expand", [(floats(3, 1), ints(*s)) for s in ((3, 4), (1, 5), (3, 1), (3, 0))])
    one("Expand", [(floats(1, 1), ints(*s)) for s in ((2, 3, 4), (1, 1, 1), (5, 0, 2))])
    one("ConstantOfShape", [(ints(*s),) for s in ((2, 3), (0, 4), (1, 1))])


def test_tile_and_pad() -> None:
    one("Tile", [(X, ints(*r)) for r in ((2, 3), (1, 1), (0, 2))])
    one("Pad", [(X, ints(*p)) for p in ((1, 2, 3, 4), (0, 0, 0, 0), (-1, -2, 0, 3), (0, -7, 0, 0))])
    for mode in ("reflect", "edge", "wrap"):
        one("Pad", [(X, ints(*p)) for p in ((1, 2, 3, 4), (0, 0, 0, 0), (2, 0, 0, 5))], mode=mode)


def test_top_k() -> None:
    one("TopK", [(X, ints(k)) for k in (1, 3, 7)], outputs=2)
    model = single("TopK", {"x": X, "k": ints(1)}, outputs=2)
    with pytest.raises(LeptonError, match="must equal"):
        lepton.compile(model).run({"x": X, "k": ints(8)})


def test_one_hot_and_trilu() -> None:
    one("OneHot", [(ints(0, 2, -1), np.array(d, np.int64), np.array([2.0, 5.0], np.float32)) for d in (3, 1, 6)])
    for upper in (0, 1):
        one("Trilu", [(X, np.array(k, np.int64)) for k in (0, 2, -3, 100)], upper=upper)


def test_split() -> None:
    one("Split", [(X, ints(*s)) for s in ((2, 4), (6, 0), (1, 5))], outputs=2)
    model = single("Split", {"x": X, "s": ints(2, 4)}, outputs=2)
    with pytest.raises(LeptonError, match="must equal"):
        lepton.compile(model).run({"x": X, "s": ints(3, 4)})


def test_range() -> None:
    one("Range", [tuple(np.array(v, np.int64) for v in ends) for ends in ((0, 5, 1), (9, 0, -2), (3, 3, 1))])


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_to_sizes(mode: str) -> None:
    image = floats(1, 2, 5, 6)
    model = single("Resize", {"x": image, "roi": None, "scales": None, "sizes": ints(1, 2, 5, 6)}, mode=mode)
    check(model, [{"x": image, "sizes": ints(1, 2, h, w)} for h, w in ((5, 6), (10, 3), (1, 1), (7, 13))])


def test_chains_of_found_sizes() -> None:
    """Mask -> compress -> top-k of half of what is left -> rows of a table that long."""
    model = text_model("""
    <ir_version: 10, opset_import: ["" : 17]>
    g (float[N] x, float[M, 3] table) => (float[a] most, float[b, 3] rows, float[c] ends) {
      zero = Constant <value = float {0.0}> ()
      two = Constant <value = int64[1] {2}> ()
      one = Constant <value = int64[1] {1}> ()
      positive = Greater (x, zero)
      kept = Compress <axis = 0> (x, positive)
      count = Shape (kept)
      most_of = Add (count, one)
      half = Div (most_of, two)
      most, places = TopK <axis = 0> (kept, half)
      first = Constant <value = int64[1] {0}> ()
      rows = Slice (table, first, half, first)
      found = NonZero (positive)
      last = ReduceMax <keepdims = 0> (found)
      flat = Constant <value = int64[1] {-1}> ()
      end = Reshape (last, flat)
      ends = Slice (x, end, count)
    }""")
    feeds = []
    for n in (8, 3, 40):
        x = floats(n, seed=n)
        x[0] = 1
        feeds.append({"x": x, "table": floats(50, 3)})
    check(model, feeds)


# --- broadcasting of open sizes -------------------------------------------------------------------


def binary(op: str, kind: str = "float") -> object:
    return text_model(f"""
    <ir_version: 10, opset_import: ["" : 17]>
    g ({kind}[A, B] x, {kind}[C, D] y, {kind}[E] z) => ({kind}[p, q] out, {kind}[r, s] more) {{
      both = {op} (x, y)
      out = {op} (both, z)
      more = {op} (out, x)
    }}""")


SHAPES = [((4, 5), (4, 5), (5,)), ((4, 5), (1, 5), (1,)), ((1, 1), (3, 4), (4,)), ((3, 1), (1, 4), (1,)),
          ((1, 7), (6, 1), (7,)), ((0, 3), (1, 3), (1,)), ((1, 1), (1, 1), (1,))]


@pytest.mark.parametrize("level", [0, 2])
def test_sizes_that_may_be_one(level: int) -> None:
    runs = [{"x": floats(*a), "y": floats(*b), "z": floats(*c)} for a, b, c in SHAPES]
    check(binary("Add"), runs, level)


def test_sizes_that_are_neither_equal_nor_one() -> None:
    run = lepton.compile(binary("Mul")).session(1).run
    for a, b, c in (((4, 5), (3, 5), (5,)), ((4, 5), (4, 5), (2,)), ((2, 2), (1, 1), (3,))):
        with pytest.raises(LeptonError, match="must equal"):
            run({"x": floats(*a), "y": floats(*b), "z": floats(*c)})


def test_matmul_of_open_batches() -> None:
    model = text_model("""
    <ir_version: 10, opset_import: ["" : 17]>
    g (float[A, 3, 4] x, float[B, 4, 5] y) => (float[p, 3, 5] out) { out = MatMul (x, y) }""")
    check(model, [{"x": floats(a, 3, 4), "y": floats(b, 4, 5)} for a, b in ((2, 2), (1, 3), (3, 1), (1, 1))])


def test_where_and_expand_of_open_sizes() -> None:
    model = text_model("""
    <ir_version: 10, opset_import: ["" : 17]>
    g (bool[A, 1] c, float[B, C] x, float[D] y) => (float[p, q] out, float[r, s] wide) {
      out = Where (c, x, y)
      shape = Shape (x)
      wide = Expand (y, shape)
    }""")
    rng = np.random.default_rng(1)
    runs = [{"c": rng.integers(0, 2, (a, 1)).astype(bool), "x": floats(b, n), "y": floats(d)}
            for a, b, n, d in ((3, 3, 4, 4), (1, 3, 4, 1), (3, 1, 5, 5), (2, 1, 5, 1))]
    check(model, runs)


def test_nothing_found() -> None:
    """A size that comes of data may be 0: no branch is decided, no slice simplified, as if it were not."""
    model = text_model("""
    <ir_version: 10, opset_import: ["" : 17]>
    g (float[N] x) => (int64 largest, float[a] most, float[b] last) {
      found = NonZero (x)
      sizes = Shape (found)
      one = Constant <value = int64 {1}> ()
      many = Gather (sizes, one)
      zero = Constant <value = int64 {0}> ()
      some = Greater (many, zero)
      largest = If (some) <
        then_branch = t () => (int64 l) { l = ReduceMax <keepdims = 0> (found) },
        else_branch = e () => (int64 m) { m = Constant <value = int64 {-1}> () }
      >
      mask = Cast <to = 9> (x)
      kept = Compress <axis = 0> (x, mask)
      start = Constant <value = int64[1] {0}> ()
      minus = Constant <value = int64[1] {-1}> ()
      end = Constant <value = int64[1] {9223372036854775807}> ()
      most = Slice (kept, start, minus)
      last = Slice (kept, minus, end)
    }""")
    check(model, [{"x": x} for x in (np.zeros(4, np.float32), np.array([0, 3, 0, 7, 5], np.float32),
                                     np.array([2], np.float32))])
