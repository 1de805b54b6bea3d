"""Tables that are looked up and multiplied by: in the file once, packed; read where the product has them."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton
from lepton.codegen.group import LowerOptions, group_of
from lepton.codegen.kernel import Access, dense_strides
from lepton.codegen.program import Program, Storage
from lepton.codegen.target import TARGETS, Target
from lepton.codegen.templates.gemm import pack_constant, panels_of
from lepton.codegen.templates.tiles import Tile
from lepton.driver import Options, lower
from lepton.ir import ops
from lepton.ir.core import Graph, User, Value
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType
from tests.codegen.harness import HERE, Placed, dense, run_kernel, value
from tests.codegen.harness import lower as lower_group

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
ROWS, WIDTH, COUNT = 1003, 300, 5     # 1003 is no multiple of any vector


def table() -> Array:
    made: Array = RNG.standard_normal((ROWS, WIDTH)).astype(np.float32)
    return made


def constant(array: Array) -> Value:
    return ops.constant(value=Tensor.of(array))


def words(graph: Graph, target: str = "x86-avx2", **options: Any) -> tuple[Program, int]:
    """The program and the bytes of its constants."""
    ((program, _),) = lower(graph, Options.of({"target": target, **options})).programs
    return program, sum(b.size for b in program.buffers if b.storage is Storage.CONSTANT and isinstance(b.size, int))


def tied(array: Array, *, rows: int = COUNT, later: bool = False, factor: Array | None = None) -> Graph:
    """tanh(table[i]) @ table.T; `later`: table[i] is read after another product by the table."""
    i, x = value((rows,), DType.I64, "i"), value((rows, WIDTH), name="x")
    by = ops.transpose(constant(array if factor is None else factor), perm=(1, 0))
    if later:
        y = ops.matmul(x, by)
        none = ops.mul(ops.reduce_max(y, axes=(1,), keepdims=False), constant(np.zeros((), np.float32)))
        at = ops.add(i, ops.cast(none, to=DType.I64))
        return Graph("later", (i, x), User((y, ops.gather(constant(array), at, axis=0))))
    return Graph("tied", (i,), User((ops.matmul(ops.tanh(ops.gather(constant(array), i, axis=0)), by),)))


@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("columns", [64, 70, 96, 5])
def test_every_element_is_found_and_nothing_beside(target: Target, columns: int, turned: bool) -> None:
    """Panels between guard pages, of one width or with a narrow one at the end; wild indices too."""
    matrix = RNG.standard_normal((7, columns)).astype(np.float32)
    tile = Tile(4, 2)
    panels = panels_of(7, columns, target, tile, DType.F32)
    packed = Placed(np.empty(panels.size, np.float32), dense)
    packed.view[...] = pack_constant(matrix, target, tile, DType.F32)
    known = matrix.T if turned else matrix
    indices = np.array([*range(-len(known), len(known)), 2**62, -2**63], np.int64)
    x, i = value(known.shape), value(indices.shape, DType.I64)
    node = ops.gather.node(x, i, axis=0)
    places = {x: packed, i: Placed(indices, dense), node.result: Placed(np.empty((len(indices), known.shape[1]),
                                                                                np.float32), dense)}
    places[i].view[...] = indices
    accesses = {v: Access(v.tensor, dense_strides(v.tensor.shape)) for v in (i, node.result)}
    accesses[x] = Access(x.tensor, dense_strides(x.tensor.shape), panels, turned)
    run_kernel(lower_group(group_of(node, accesses.__getitem__), LowerOptions(target)), places, target, {})
    expected = known[np.concatenate([indices[:-2], [len(known) - 1, 0]])]
    np.testing.assert_array_equal(places[node.result].view, expected)


@pytest.mark.parametrize("target", [t.name for t in HERE])
@pytest.mark.parametrize("rows", [1, COUNT, 40])
@pytest.mark.parametrize("later", [False, True])
def test_the_table_is_kept_once(target: str, rows: int, later: bool) -> None:
    array = table()
    graph = tied(array, rows=rows, later=later)
    _, size = words(graph, target)
    assert size < 1.1 * array.nbytes
    indices = RNG.integers(-ROWS, ROWS, rows)
    indices[0] = ROWS - 1
    feeds: dict[str, Array] = {"i": indices}
    if later:
        feeds["x"] = RNG.standard_normal((rows, WIDTH)).astype(np.float32)
    results = list(lepton.compile(graph, target=target).run(feeds).values())
    left = feeds["x"] if later else np.tanh(array[indices])
    np.testing.assert_allclose(results[0], left @ array.T, rtol=1e-4, atol=1e-3)
    if later:
        np.testing.assert_array_equal(results[1], array[indices])


def test_tables_as_the_product_has_them() -> None:
    """x @ table beside table[i] and table[:, i]."""
    array = table()
    x, i = value((20, ROWS), name="x"), value((COUNT,), DType.I64, "i")
    outputs = [ops.matmul(x, constant(array)), *(ops.gather(constant(array), i, axis=axis) for axis in (0, 1))]
    graph = Graph("g", (x, i), User(tuple(outputs)))
    assert words(graph)[1] < 1.1 * array.nbytes
    feeds: dict[str, Array] = {"x": np.ones((20, ROWS), np.float32), "i": RNG.integers(0, WIDTH, COUNT)}
    y, rows, columns = lepton.compile(graph).run(feeds).values()
    np.testing.assert_allclose(y, feeds["x"] @ array, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(rows, array[feeds["i"]])
    np.testing.assert_array_equal(columns, np.take(array, feeds["i"], axis=1))


def test_open_sizes() -> None:
    from lepton.ir.dims import sym

    array = table()
    i = value((sym("N"),), DType.I64, "i")
    by = ops.transpose(constant(array), perm=(1, 0))
    graph = Graph("open", (i,), User((ops.matmul(ops.gather(constant(array), i, axis=0), by),)))
    assert words(graph)[1] < 1.1 * array.nbytes
    model = lepton.compile(graph)
    for n in (0, 1, 17):
        indices = RNG.integers(0, ROWS, n)
        (got,) = model.run({"i": indices}).values()
        np.testing.assert_allclose(got, array[indices] @ array.T, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("change", ["other", "zero's sign", "small", "read as rows"])
def test_what_is_kept_twice(change: str) -> None:
    """Where the panels do not hold the table bit for bit, where it is small, or where somebody wants its rows."""
    array = table() if change != "small" else table()[:200]
    array[5, 5] = 0.0
    factor = array.copy()
    if change == "other":
        factor[-1, -1] += 1
    if change == "zero's sign":
        factor[5, 5] = -0.0
    graph = tied(array, factor=factor)
    if change == "read as rows":
        x = value(array.shape, name="x")
        graph = Graph("g", (*graph.inputs, x), User((*graph.outputs, ops.add(x, constant(array)))))
    assert words(graph)[1] > 1.9 * array.nbytes


@pytest.mark.parametrize("level", [1, 3])
def test_rows_beside_elements_of_one_kernel(level: int) -> None:
    """table[i] + table: who looks rows up reads the table as it is, too."""
    array = table()
    i, x, c = value((ROWS,), DType.I64, "i"), value((2, WIDTH), name="x"), constant(array)
    both = ops.tanh(ops.add(ops.gather(c, i, axis=0), c))
    graph = Graph("both", (i, x), User((both, ops.matmul(x, ops.transpose(c, perm=(1, 0))))))
    indices, ones = RNG.integers(-ROWS, ROWS, ROWS), np.ones((2, WIDTH), np.float32)
    y, product = lepton.compile(graph, level=level).run({"i": indices, "x": ones}).values()
    np.testing.assert_allclose(y, np.tanh(array[indices] + array), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(product, ones @ array.T, rtol=1e-4, atol=1e-3)


def test_narrow_weights_stay_as_they_are() -> None:
    """bf16 products pack halves; nobody reads f32 rows from them."""
    array = table()
    graph = tied(array, rows=40)
    _, size = words(graph, "x86-avx512", precision="bf16")
    assert size >= 1.4 * array.nbytes
    indices = RNG.integers(0, ROWS, 40)
    if TARGETS["x86-avx512"] in HERE:
        (got,) = lepton.compile(graph, target="x86-avx512", precision="bf16").run({"i": indices}).values()
        np.testing.assert_allclose(got, np.tanh(array[indices]) @ array.T, rtol=0.1, atol=1)
