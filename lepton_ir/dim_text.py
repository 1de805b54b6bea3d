"""Reading dimensions from text."""
from __future__ import annotations

import ast
from collections.abc import Callable
from operator import add, mul, sub

from lepton.ir.dims import OPERATIONS, Dim, floordiv, mod, sym


def parse_dim(text: str) -> Dim:
    """The inverse of `str`: integers, names, + - * // %, min(…), max(…), stretch(…). Raises ValueError."""
    try:
        return _build(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, KeyError, RecursionError, MemoryError) as error:
        raise ValueError(f"not a dimension: {text!r}") from error


_ARITHMETIC: dict[type[ast.operator], Callable[[Dim, Dim], Dim]] = {
    ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.FloorDiv: floordiv, ast.Mod: mod}


def _build(node: ast.expr) -> Dim:
    match node:
        case ast.Constant(int() as value) if not isinstance(value, bool):
            return value
        case ast.Name(name):
            return sym(name)
        case ast.UnaryOp(ast.USub(), operand):
            return -_build(operand)
        case ast.BinOp(left, op, right):
            return _ARITHMETIC[type(op)](_build(left), _build(right))
        case ast.Call(ast.Name("min" | "max" | "stretch" as name), [left, right]):
            return OPERATIONS[name](_build(left), _build(right))
    raise KeyError(ast.dump(node))
