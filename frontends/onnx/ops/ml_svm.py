"""SVMClassifier and SVMRegressor (ai.onnx.ml): kernels and decisions as matrix products.

A decision of two classes is a weighted sum over their support vectors, so that all decisions of all pairs are one
product of the kernel's values [N,S] with a matrix [S,pairs] that holds each pair's weights and zeros.
"""
from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.ml_scores import Labels, class_labels, picked, post_transform, transformed
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.tensor import Array
from lepton.ir.types import DType

_ML = "ai.onnx.ml"


@imports("SVMRegressor", domain=_ML)
def svm_regressor(c: Call) -> Value:
    """x [N,F] -> f32[N,1]; with one_class 1 or -1, on which side of the border a row lies."""
    coefficients, supports = _floats(c, "coefficients"), c.i("n_supports", 0)
    if supports:
        if len(coefficients) != supports:
            raise LeptonError(f"{len(coefficients)} coefficients for {supports} support vectors", where=c.where)
        total = _decisions(c, _vectors(c, supports), coefficients.reshape(-1, 1))
    else:
        c.ignore("kernel_type", "kernel_params", "support_vectors")
        total = c(ops.matmul, _x(c, len(coefficients)), c.const(coefficients.reshape(-1, 1)))
    total = c(ops.add, c.cast(total, DType.F64), c.const(c.floats("rho", (0.0,))[:1], DType.F64))
    total = c.cast(total, DType.F32)
    if not c.i("one_class", 0):
        return transformed(c, total)
    return c(ops.where, c(ops.greater, total, c.like(0, total)), c.like(1, total), c.like(-1, total))


@imports("SVMClassifier", domain=_ML)
def svm_classifier(c: Call) -> list[Value]:
    """x [N,F] -> (labels [N], scores): probabilities [N,classes] where the model has prob_a and prob_b, else the
    decisions of the pairs [N,pairs], for two classes both signs of the one there is."""
    labels, counts = class_labels(c, "classlabels_ints"), c.ints("vectors_per_class", ())
    if not counts:
        return _linear(c, labels)
    if len(counts) != len(labels) or len(labels) < 2 or min(counts) < 0:
        raise LeptonError(f"vectors_per_class {list(counts)} for {len(labels)} classes", where=c.where)
    pairs = list(combinations(range(len(labels)), 2))
    rho = c.floats("rho", REQUIRED)
    if len(rho) != len(pairs):
        raise LeptonError(f"{len(rho)} rho for {len(pairs)} pairs of classes", where=c.where)
    total = _decisions(c, _vectors(c, sum(counts)), _pair_matrix(c, counts, pairs))
    total = c(ops.add, total, c.const(rho, DType.F64))
    label = picked(c, labels, _voted(c, total, pairs, len(labels)))
    prob_a, prob_b = c.floats("prob_a", ()), c.floats("prob_b", ())
    if prob_a:
        if not len(prob_a) == len(prob_b) == len(pairs):
            raise LeptonError(f"{len(prob_a)} prob_a and {len(prob_b)} prob_b for {len(pairs)} pairs", where=c.where)
        return [label, transformed(c, _probabilities(c, total, (prob_a, prob_b), pairs, len(labels)))]
    total = c.cast(total, DType.F32)
    if len(pairs) > 1:
        return [label, transformed(c, total)]
    return [label, _both(c, total)]


def _both(c: Call, total: Value) -> Value:
    """The scores of two classes from the one decision [N,1]."""
    kind = c.s("post_transform", "NONE")
    if kind == "PROBIT":
        return post_transform(c, kind, total)
    return post_transform(c, kind, c(ops.concat, c(ops.neg, total), total, axis=1))


def _linear(c: Call, labels: Labels) -> list[Value]:
    """Without support vectors: a row of coefficients per class."""
    coefficients, rho = _floats(c, "coefficients"), c.floats("rho", (0.0,))
    c.ignore("kernel_type", "kernel_params", "support_vectors", "prob_a", "prob_b")
    if len(coefficients) % len(labels) or len(labels) < 2:
        raise LeptonError(f"{len(coefficients)} coefficients for {len(labels)} classes", where=c.where)
    matrix = np.ascontiguousarray(coefficients.reshape(len(labels), -1).T)
    total = c(ops.add, c(ops.matmul, _x(c, len(matrix)), c.const(matrix)), c.const(rho[:1], DType.F32))
    return [picked(c, labels, c(ops.arg_max, total, axis=1)), transformed(c, total)]


# --- kernels ----------------------------------------------------------------------------------------


def _floats(c: Call, name: str) -> Array:
    return np.array(c.floats(name, REQUIRED), np.float32)


def _x(c: Call, width: int) -> Value:
    x = c.ranked(0, 2)
    if x.tensor.shape[1] != width:
        raise LeptonError(f"vectors of {width} features for {x.tensor}", where=c.where)
    return c.cast(x, DType.F32)


def _vectors(c: Call, count: int) -> Array:
    """The support vectors [count, features]."""
    given = _floats(c, "support_vectors")
    if count < 1 or not len(given) or len(given) % count:
        raise LeptonError(f"{len(given)} numbers for {count} support vectors", where=c.where)
    return given.reshape(count, -1)


def _decisions(c: Call, vectors: Array, matrix: Array) -> Value:
    """The kernel's values times `matrix` [S,D], f64[N,D]: what a thousand vectors say all but cancels. The vectors of a
    linear kernel are summed beforehand."""
    if c.s("kernel_type", "LINEAR") == "LINEAR":
        c.ignore("kernel_params")
        summed = vectors.T.astype(np.float64) @ matrix
        return c(ops.matmul, c.cast(_x(c, len(summed)), DType.F64), c.const(summed))
    return c(ops.matmul, c.cast(_kernel(c, vectors), DType.F64), c.const(matrix, DType.F64))


def _kernel(c: Call, vectors: Array) -> Value:
    """The kernel of every row of x with every support vector, [N,S], where it is not linear. A polynomial multiplies
    what its product lost by its degree, so that is made in f64."""
    gamma, coef0, degree = (*c.floats("kernel_params", ()), 0.0, 0.0, 0.0)[:3]
    x, kind = _x(c, vectors.shape[1]), c.s("kernel_type", "LINEAR")
    if kind == "RBF":
        return c(ops.exp, c(ops.mul, _squares(c, x, vectors), c.const(-gamma, DType.F32)))
    x = c.cast(x, DType.F64 if kind == "POLY" else DType.F32)
    dot = c(ops.matmul, x, c.const(np.ascontiguousarray(vectors.T), x.tensor.dtype))
    if kind not in ("POLY", "SIGMOID"):
        raise LeptonError(f"kernel_type {kind!r}", where=c.where)
    inner = c(ops.add, c(ops.mul, dot, c.like(gamma, dot)), c.like(coef0, dot))
    if kind == "SIGMOID":
        return c(ops.tanh, inner)
    if 0 <= degree <= 64 and degree.is_integer():
        return _power(c, inner, int(degree))
    return c(ops.pow_, inner, c.like(degree, inner))


def _power(c: Call, x: Value, degree: int) -> Value:
    """x**degree for whole degrees, by squaring."""
    result: Value | None = None
    while degree:
        if degree & 1:
            result = x if result is None else c(ops.mul, result, x)
        degree >>= 1
        x = c(ops.mul, x, x) if degree else x
    return result if result is not None else c(ops.broadcast_to, c.like(1, x), shape=x.tensor.shape)


def _squares(c: Call, x: Value, vectors: Array) -> Value:
    """|x - s|^2 as |x|^2 + |s|^2 - 2 x s, both moved to the middle of the support vectors: the terms cancel, and what
    lies far from 0 would lose its digits."""
    middle = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    moved = (vectors.astype(np.float64) - middle).astype(np.float32)
    x = c(ops.sub, x, c.const(middle))
    own = c(ops.reduce_sum, c(ops.mul, x, x), axes=(1,), keepdims=True)
    lengths = np.square(moved, dtype=np.float64).sum(axis=1).astype(np.float32)
    dot = c(ops.matmul, x, c.const(np.ascontiguousarray(-2 * moved.T)))
    total = c(ops.add, c(ops.add, dot, c.const(lengths)), own)
    return c(ops.maximum, total, c.like(0, total))


# --- one against one --------------------------------------------------------------------------------


def _pair_matrix(c: Call, counts: Sequence[int], pairs: Sequence[tuple[int, int]]) -> Array:
    """[S, pairs]: what each support vector weighs in each pair's decision, from coefficients [classes-1, S]."""
    total, start = sum(counts), np.cumsum([0, *counts])
    given = _floats(c, "coefficients")
    if len(given) != total * (len(counts) - 1):
        raise LeptonError(f"{len(given)} coefficients for {total} vectors of {len(counts)} classes", where=c.where)
    coefficients, matrix = given.reshape(len(counts) - 1, total), np.zeros((total, len(pairs)), np.float32)
    for column, (i, j) in enumerate(pairs):
        for own, row in ((i, j - 1), (j, i)):
            mine = slice(start[own], start[own + 1])
            matrix[mine, column] = coefficients[row, mine]
    return matrix


def _voted(c: Call, total: Value, pairs: Sequence[tuple[int, int]], classes: int) -> Value:
    """The first class of those that win most pairs: i64[N]. A decision above 0 is for the first of its pair."""
    turns = np.zeros((len(pairs), classes), np.float32)   # what a vote for the first takes from the second
    for row, (i, j) in enumerate(pairs):
        turns[row, i], turns[row, j] = 1, -1
    won = c.cast(c(ops.greater, total, c.like(0, total)), DType.F32)
    second = np.arange(classes, dtype=np.float32)         # class j is the second of j pairs
    votes = c(ops.add, c(ops.matmul, won, c.const(turns)), c.const(second))
    return c(ops.arg_max, votes, axis=1)


def _probabilities(c: Call, total: Value, prob: tuple[Sequence[float], Sequence[float]],
                   pairs: Sequence[tuple[int, int]], classes: int) -> Value:
    """Platt's probability of the first of each pair, by its decision in f64, and what they together say of each class:
    f32[N,classes]."""
    inner = c(ops.add, c(ops.mul, total, c.const(prob[0], DType.F64)), c.const(prob[1], DType.F64))
    first = c(ops.sigmoid, c(ops.neg, inner))
    first = c(ops.clip, first, c.like(1e-7, first), c.like(1 - 1e-7, first))
    second = c(ops.sub, c.like(1, first), first)
    place = np.zeros((classes, classes), np.int64)        # of entry (i, j) among [first | second]
    for column, (i, j) in enumerate(pairs):
        place[i, j], place[j, i] = column, len(pairs) + column
    table = c(ops.gather, c(ops.concat, first, second, axis=1), c.const(place), axis=1)
    return c.cast(c(ops.couple_pairs, table), DType.F32)
