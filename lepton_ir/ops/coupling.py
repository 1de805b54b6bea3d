"""Probabilities of classes from probabilities of pairs."""
from __future__ import annotations

import numpy as np

from lepton.ir.op import op
from lepton.ir.ops.rules import fail, same_dim, tensor
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType, Type

MOST_CLASSES = 1024
NEAR = 0.005      # divided by the number of classes: how near to its optimum a row's iteration ends
LEAST_TURNS = 100


def _couple_type(r: Type) -> TensorType:
    t = tensor(r, lambda d: d is DType.F64, rank=3)
    classes = same_dim(t.shape[1], t.shape[2], "sides of the pairs", r)
    if not isinstance(classes, int) or not 1 <= classes <= MOST_CLASSES:
        raise fail(f"pairs of {classes} classes; from 1 to {MOST_CLASSES} are supported", r)
    return t.with_shape((t.shape[0], classes))


@op(_couple_type)
def couple_pairs(r: Array) -> Array:
    """f64[n,k,k], r[a,i,j] the probability of class i among i and j -> the probabilities of the classes, f64[n,k].

    The second method of Wu, Lin and Weng (JMLR 5, 2004), as libsvm iterates it: coordinate after coordinate until no
    |(Qp)_i - pQp| is 0.005/k or more, at most max(100, k) times. Entries on the diagonal are not read."""
    n, k = r.shape[:2]
    r = np.where(np.eye(k, dtype=bool), 0, r)
    q = -r.swapaxes(1, 2) * r
    q[:, range(k), range(k)] = np.square(r).sum(axis=1)
    p = np.full((n, k), 1 / k)
    going = np.ones(n, bool)
    for _ in range(max(LEAST_TURNS, k)):
        qp = (q @ p[..., None])[..., 0]
        pqp = (p * qp).sum(axis=1)
        going &= ~(np.abs(qp - pqp[:, None]).max(axis=1) < NEAR / k)
        if not going.any():
            break
        new = p.copy()
        for t in range(k):
            step = (pqp - qp[:, t]) / q[:, t, t]
            new[:, t] += step
            pqp = (pqp + step * (step * q[:, t, t] + 2 * qp[:, t])) / (1 + step) ** 2
            qp = (qp + step[:, None] * q[:, t]) / (1 + step)[:, None]
            new /= (1 + step)[:, None]
        p = np.where(going[:, None], new, p)
    return p
