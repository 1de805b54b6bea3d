"""TfIdfVectorizer: how often each n-gram of a pool occurs, by comparing every place with every n-gram."""
from __future__ import annotations

import numpy as np

from lepton.frontends.onnx.bounds import larger
from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.tensor import Array
from lepton.ir.types import DType

F32 = DType.F32


@imports("TfIdfVectorizer", since=9)
def tf_idf_vectorizer(c: Call) -> Value:
    """Numbers or strings [C] or [N,C] -> f32 [L] or [N,L]: counts ("TF"), weights of what occurs ("IDF"), or their
    product."""
    x, mode = c.x(), c.s("mode", REQUIRED)
    indexes = np.asarray(c.ints("ngram_indexes", REQUIRED), np.int64)
    weights = np.asarray(c.floats("weights", (1.0,) * len(indexes)), np.float32)
    if mode not in ("TF", "IDF", "TFIDF") or x.tensor.rank not in (1, 2) or len(weights) != len(indexes):
        raise LeptonError(f"mode {mode!r}, {len(weights)} weights of {len(indexes)} n-grams for {x.tensor}",
                          where=c.where)
    if not len(indexes) or indexes.min() < 0 or indexes.max() > 1 << 24:
        raise LeptonError("ngram_indexes are empty, negative or too large", where=c.where)
    least, most, skips = (c.i(name, REQUIRED) for name in ("min_gram_length", "max_gram_length", "max_skip_count"))
    if not 1 <= least <= most or not 0 <= skips <= 64:
        raise LeptonError(f"n-grams of {least} to {most} elements, {skips} skipped", where=c.where)
    rows = c.reshape(x, (1, *x.tensor.shape)) if x.tensor.rank == 1 else x
    rows = rows if x.tensor.dtype is DType.STRING else c.cast(rows, DType.I64)
    counts = [_counts(c, rows, grams, skips if grams.shape[1] > 1 else 0, least <= grams.shape[1] <= most)
              for grams in _pools(c, len(indexes), x.tensor.dtype)]
    total = counts[0] if len(counts) == 1 else c(ops.concat, *counts, axis=1)
    if mode == "IDF":
        total = c.cast(c(ops.greater, total, c.const(0.0, F32)), F32)
    if mode != "TF":
        total = c(ops.mul, total, c.const(weights, F32))
    placed = _placed(c, total, indexes)
    return c.reshape(placed, placed.tensor.shape[1:]) if x.tensor.rank == 1 else placed


def _pools(c: Call, total: int, dtype: DType) -> list[Array]:
    """The n-grams of each length, [count, length] of i64 or strings; `ngram_counts` says where in the pool a length
    begins.

    Raises LeptonError where that does not fit."""
    texts = dtype is DType.STRING
    if c.has("pool_int64s" if texts else "pool_strings"):
        c.fail(f"a pool of {'numbers' if texts else 'strings'} for {dtype.value}")
    pool = np.array(c.strings("pool_strings", REQUIRED), object) if texts else \
        np.asarray(c.ints("pool_int64s", REQUIRED), np.int64)
    begins = c.ints("ngram_counts", REQUIRED)
    if any(b < 0 or b > e for b, e in zip(begins, (*begins[1:], len(pool)), strict=True)):
        raise LeptonError(f"ngram_counts {list(begins)} for a pool of {len(pool)}", where=c.where)
    pools, count = [], 0
    for length, (begin, end) in enumerate(zip(begins, (*begins[1:], len(pool)), strict=True), 1):
        if (end - begin) % length:
            raise LeptonError(f"{end - begin} elements are not n-grams of length {length}", where=c.where)
        if end > begin:
            pools.append(pool[begin:end].reshape(-1, length))
            count += (end - begin) // length
    if count != total or not pools:
        raise LeptonError(f"{count} n-grams with {total} indexes", where=c.where)
    return pools


def _counts(c: Call, rows: Value, grams: Array, skips: int, wanted: bool) -> Value:
    """f32[N, n-grams]: in how many places each n-gram stands, over all distances 1 … skips+1 of its elements."""
    number, size = rows.tensor.shape
    count, length = grams.shape
    total: Value | None = None
    for step in range(1, skips + 2 if wanted else 1):
        places = larger(size - (length - 1) * step, 0)
        if places == 0:
            break
        hit: Value | None = None
        for k in range(length):
            part = c(ops.slice_, rows, starts=(0, k * step), sizes=(number, places), steps=(1, 1))
            same = c(ops.equal, c.reshape(part, (number, places, 1)), c.const(grams[:, k]))
            hit = same if hit is None else c(ops.logical_and, hit, same)
        assert hit is not None
        found = c(ops.reduce_sum, c.cast(hit, F32), axes=(1,), keepdims=False)
        total = found if total is None else c(ops.add, total, found)
    return total if total is not None else c(ops.broadcast_to, c.const(0.0, F32), shape=(number, count))


def _placed(c: Call, total: Value, indexes: Array) -> Value:
    """[N,n-grams] -> [N,L]: each n-gram's number at its index, those with the same index added up."""
    number, count = total.tensor.shape[0], len(indexes)
    size = int(indexes.max()) + 1
    if np.array_equal(indexes, np.arange(count)):
        return total
    if size == count and len(np.unique(indexes)) == count:
        return c(ops.gather, total, c.const(np.argsort(indexes), DType.I64), axis=1)
    zeros = c(ops.broadcast_to, c.const(0.0, F32), shape=(number, size))
    where = c(ops.broadcast_to, c.const(indexes, DType.I64), shape=(number, count))
    return c(ops.scatter_elements, zeros, where, total, axis=1, reduction="add")
