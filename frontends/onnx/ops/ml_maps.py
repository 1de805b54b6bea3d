"""Maps of ai.onnx.ml: ZipMap, DictVectorizer, CastMap. In the graph a map is a tensor whose keys the importer knows.

At the model's border a map, or a sequence of them, is one port, and the artifact's metadata has the keys
(lepton.ir.structure): in Python dicts go in and come out, in C the values in the order of the keys.
"""
from __future__ import annotations

import numpy as np

from lepton.frontends.onnx.bundles import Maps, mapped
from lepton.frontends.onnx.call import Call
from lepton.frontends.onnx.ops.ml_scores import class_labels
from lepton.frontends.onnx.ops.strings import converted
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.types import DType, MapType

_ML = "ai.onnx.ml"
_CASTS = {"TO_FLOAT": DType.F32, "TO_INT64": DType.I64, "TO_STRING": DType.STRING}


@imports("ZipMap", domain=_ML)
def zip_map(c: Call) -> Value:
    """Scores [N,C], or [C] of one row -> N maps of the classes to a row's scores."""
    labels, x = class_labels(c), c.x()
    x = c.reshape(x, (1, *x.tensor.shape)) if x.tensor.rank == 1 else x
    if x.tensor.rank != 2 or x.tensor.shape[1] != len(labels):
        raise LeptonError(f"{len(labels)} classes for {x.tensor}", where=c.where)
    if len(set(labels)) != len(labels):
        raise LeptonError("a class stands twice among the labels", where=c.where)
    return mapped(x, labels)


def _map(c: Call) -> Maps:
    value = c.opt(0)
    if not isinstance(value, Maps) or not isinstance(value.type, MapType):
        got = "missing" if value is None else str(value.type)
        raise LeptonError(f"input 0 is {got}, expected a map", where=c.where)
    return value


@imports("DictVectorizer", domain=_ML)
def dict_vectorizer(c: Call) -> Value:
    """A map -> [1, vocabulary]: the value of each word, 0 (or an empty text) where the map lacks it."""
    given = _map(c)
    words, numbers = c.strings("string_vocabulary", ()), c.ints("int64_vocabulary", ())
    vocabulary: tuple[int | str, ...] = words or numbers
    if bool(words) == bool(numbers) or type(vocabulary[0]) is not type(given.keys[0]):
        raise LeptonError(f"one vocabulary must fit the keys of {given.type}", where=c.where)
    (table,) = given.items
    return _at(c, table, {key: place for place, key in enumerate(given.keys)}, vocabulary)


def _at(c: Call, table: Value, places: dict[int | str, int], wanted: tuple[int | str, ...]) -> Value:
    """The values of `wanted` keys as [1, wanted]; an element behind the table stands for what is not there."""
    if any(key not in places for key in wanted):
        none = "" if table.tensor.dtype is DType.STRING else 0
        table = c(ops.concat, table, c.const(np.array([none], table.tensor.dtype.numpy)), axis=0)
    order = [places.get(key, len(places)) for key in wanted]
    if order != list(range(len(places))):
        table = c(ops.gather, table, c.const(order, DType.I64), axis=0)
    return c.reshape(table, (1, len(wanted)))


@imports("CastMap", domain=_ML)
def cast_map(c: Call) -> Value:
    """A map of integers -> [1, keys] in ascending order of the keys; SPARSE: [1, max_map], values at their keys."""
    given, to, form = _map(c), c.s("cast_to", "TO_FLOAT"), c.s("map_form", "DENSE")
    most = c.i("max_map", 1)
    if to not in _CASTS or form not in ("DENSE", "SPARSE") or (form == "SPARSE" and most < 1):
        raise LeptonError(f"cast_to {to!r}, map_form {form!r}, max_map {most}", where=c.where)
    keys = [key for key in given.keys if isinstance(key, int)]
    if len(keys) != len(given.keys):
        raise LeptonError(f"{given.type}: the keys must be integers", where=c.where)
    wanted = tuple(sorted(keys)) if form == "DENSE" else tuple(range(most))
    if any(not 0 <= key < most for key in keys) and form == "SPARSE":
        raise LeptonError(f"keys {sorted(keys)} for max_map {most}", where=c.where)
    row = _at(c, given.items[0], {key: place for place, key in enumerate(given.keys)}, wanted)
    text = DType.STRING in (row.tensor.dtype, _CASTS[to]) and row.tensor.dtype is not _CASTS[to]
    return converted(c, row, _CASTS[to]) if text else c.cast(row, _CASTS[to])
