"""The table of operators: which ONNX operators are taken, in which versions, and what becomes of them.

Everything is read off the tables that do the work: the importers, the op records, the lowerings, onnx's schemas."""
from __future__ import annotations

import dis
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import unified_diff
from functools import cache
from importlib import import_module
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import onnx
from onnx import defs

from lepton.codegen import lower as _lowerings  # noqa: F401  (fills LOWERINGS)
from lepton.codegen.group import LOWERINGS
from lepton.codegen.host import HOST_CALLS
from lepton.codegen.plan import CONTROL
from lepton.frontends.onnx import ops as _importers  # noqa: F401  (fills IMPORTERS)
from lepton.frontends.onnx.registry import IMPORTERS, find
from lepton.ir import ops
from lepton.ir.op import OPS, Op, Trait

MICROSOFT = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Row:
    """One ONNX operator."""

    domain: str
    name: str
    versions: tuple[int, ...]      # those of the operator's versions that are taken; () in domains onnx does not know
    types: str                     # of the first operand, as the newest version allows them
    how: str
    ops: tuple[Op, ...]            # of the graph IR that its importer uses
    tests: str


def rows(root: Path | None = None) -> list[Row]:
    """All operators that are taken, by domain and name. `root`: a checkout, whose tests are counted."""
    found: list[Row] = []
    tested = _tests(root) if root is not None else {}
    for domain, name in sorted({*IMPORTERS, *_with_bodies()}):
        schemas = _schemas().get((domain, name), [])
        importers = [rule for _, rule in IMPORTERS.get((domain, name), [])]
        used = tuple(sorted({op for rule in importers for op in ops_of(rule)}, key=lambda op: op.name))
        taken = tuple(s.since_version for s in schemas if find(domain, name, s.since_version) or _has_body(s))
        if importers or taken:
            types = _types(schemas[-1]) if schemas else ""
            how = _how(used) if importers else "the body that its definition gives"
            found.append(Row(domain, name, taken, types, how, used, tested.get((domain, name), "")))
    return found


def refused() -> list[str]:
    """Operators of ONNX's own domains that have neither importer nor body."""
    known = {*IMPORTERS, *_with_bodies()}
    return sorted(f"{domain}.{name}" if domain else name for (domain, name), schemas in _schemas().items()
                  if (domain, name) not in known and not schemas[-1].deprecated)


@cache
def _schemas() -> dict[tuple[str, str], list[Any]]:
    """All versions of ONNX's own operators, oldest first."""
    found: dict[tuple[str, str], list[Any]] = {}
    for schema in defs.get_all_schemas_with_history():
        found.setdefault((schema.domain, schema.name), []).append(schema)
    return {key: sorted(each, key=lambda s: s.since_version) for key, each in found.items()}


def _has_body(schema: Any) -> bool:
    return bool(schema.has_function or schema.has_context_dependent_function)


def _with_bodies() -> set[tuple[str, str]]:
    return {key for key, schemas in _schemas().items() if _has_body(schemas[-1])}


# --- what an importer uses ------------------------------------------------------------------------


def ops_of(rule: Callable[..., Any]) -> set[Op]:
    """The ops of the graph IR that a function names, itself or through functions beside it, closures and tables."""
    found: set[Op] = set()
    seen: set[int] = set()
    todo: list[Any] = [rule]
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Op):
            found.add(item)
        elif isinstance(item, FunctionType):
            todo += [cell.cell_contents for cell in item.__closure__ or ()]
            todo += list(_named(item))
        elif isinstance(item, dict):
            todo += item.values()
        elif isinstance(item, tuple | list | set | frozenset) and len(item) < 64:
            todo += item
    return found - {ops.constant}


def _named(function: FunctionType) -> Iterator[Any]:
    """The ops, and the functions and tables of the frontend, that a function's code names."""
    for of_ops, name in set(_names(function.__code__)):
        if of_ops:
            yield getattr(ops, name, None)
            continue
        value = function.__globals__.get(name)
        ours = isinstance(value, FunctionType) and value.__module__.startswith("lepton.frontends.onnx.ops")
        if ours or isinstance(value, Op | dict | tuple):
            yield value


def _names(code: CodeType) -> Iterator[tuple[bool, str]]:
    """Globals that the code reads, and (True, name) for what it reads off `ops`."""
    before = None
    for step in dis.get_instructions(code):
        if before == "ops" and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            yield True, step.argval
        elif step.opname == "LOAD_GLOBAL":
            yield False, step.argval
        before = step.argval if step.opname == "LOAD_GLOBAL" else None
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


# --- how ops are compiled -------------------------------------------------------------------------

RANK = ("template", "host call", "loop kernel", "fused", "control flow", "no code", "not compiled")


@cache
def kind_of(op: Op) -> str:
    """What becomes of an op: one of RANK."""
    if op in LOWERINGS:
        return "template" if _writes_code(LOWERINGS[op].__module__) else "loop kernel"
    if op in HOST_CALLS:
        return "host call"
    if op in CONTROL:
        return "control flow"
    if op.has(Trait.ELEMENTWISE) or op is ops.fusion:
        return "fused"
    return "no code" if op.has(Trait.VIEW) or op in (ops.concat, ops.constant) else "not compiled"


def _writes_code(module: str) -> bool:
    """Whether lowerings of a module use templates that write LLVM text: kernel bodies of lepton.codegen.templates."""
    values = vars(import_module(module)).values()
    return any(isinstance(v, type) and v.__module__.startswith("lepton.codegen.templates") and hasattr(v, "emit")
               for v in values)


def _how(used: tuple[Op, ...]) -> str:
    """In one or two words, by the costliest of the ops."""
    if not used:
        return "its values, when importing"
    kinds = [kind_of(op) for op in used]
    word = min(kinds, key=RANK.index)
    return word if len(used) == 1 else f"{word} and others" if len(set(kinds)) > 1 else word


# --- element types and tests ----------------------------------------------------------------------

_FLOATS, _INTS = {"float16", "float", "double"}, {"int8", "int16", "int32", "int64"}
_WORDS = (("floats", _FLOATS), ("signed integers", _INTS), ("unsigned integers", {f"u{n}" for n in _INTS}),
          ("float8", {"float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz"}),
          ("int4, uint4", {"int4", "uint4"}), ("int2, uint2", {"int2", "uint2"}))


def _types(schema: Any) -> str:
    """The element types of the first operand (or result), in words."""
    ports = schema.inputs or schema.outputs
    if not ports:
        return ""
    texts = {re.sub(r"^(seq|optional)\((.*)\)$", r"\2", t) for t in ports[0].types}
    names = {m[1] for t in texts if (m := re.match(r"tensor\((\w+)\)", t))}
    words = []
    for word, group in _WORDS:
        if group <= names:
            words.append(word)
            names -= group
    return ", ".join([*words, *sorted(n for n in names if not n.startswith("complex"))])


def _tests(root: Path) -> dict[tuple[str, str], str]:
    """For each operator the backend tests that pass, and the test files that name it."""
    passed = [line.split("/")[1] for line in (root / "tests/conformance/record.txt").read_text().splitlines()
              if line.startswith("PASS node/")]
    keys = {name.lower(): (domain, name) for domain, name in {*IMPORTERS, *_with_bodies()} if domain != MICROSOFT}
    counts: dict[tuple[str, str], int] = {}
    for test in passed:
        flat = re.sub(r"^(ai_onnx_ml_|basic_|training_)", "", test.removeprefix("test_")).replace("_", "")
        if match := max((k for k in keys if flat.startswith(k)), key=len, default=""):
            counts[keys[match]] = counts.get(keys[match], 0) + 1
    texts = {f.relative_to(root / "tests"): f.read_text() for f in sorted((root / "tests").glob("*/test_*.py"))}
    found = {}
    for domain, name in {*IMPORTERS, *_with_bodies()}:
        files = [str(file) for file, text in texts.items() if re.search(rf'["\' (]{name}["\'( ]', text)][:2]
        number = counts.get((domain, name), 0)
        found[domain, name] = ", ".join([*([f"{number} of ONNX's"] if number else []), *files])
    return found


# --- the document ---------------------------------------------------------------------------------

HEAD = """\
# Operators

Written by `lepton ops --markdown docs/operators.md` from the importers, the op records and the lowerings; a test keeps
it current.

"""

KINDS = """\
**How** an operator is compiled, by the costliest op it becomes:

| | |
|---|---|
| template | a kernel written for it (products, convolutions, attention, recurrent layers), with what follows fused |
| loop kernel | a nest of loops in the loop IR, spelled with vectors; what stands around it is fused |
| fused | element by element, in one kernel with its neighbours |
| host call | a C function of the runtime, or one that the host registers |
| control flow | jumps in the artifact's program |
| no code | a view, or a place in the consumer's memory |
| its values, when importing | only shapes, or contents known when compiling; otherwise refused |
| the body that its definition gives | expanded into other operators, as the ONNX standard defines it |

What depends on constants alone is folded when compiling. `N of ONNX's` counts ONNX's backend tests that pass on
compiled code.
"""


def stale(text: str) -> list[str]:
    """What of the page `text` is not so any more, as a few lines of a difference; tests are left out of it."""
    def without_tests(page: str) -> list[str]:
        return [line.rsplit(" | ", 1)[0] if line.count(" | ") == 5 else line for line in page.splitlines()]

    return list(unified_diff(without_tests(text), without_tests(markdown()), "written", "now", lineterm="", n=0))[:40]


def markdown(root: Path | None = None) -> str:
    """docs/operators.md. `root`: a checkout, whose tests are counted."""
    from lepton.commands.ops import first_sentence

    parts, table = [HEAD, KINDS], rows(root)
    for domain in sorted({row.domain for row in table}):
        parts.append(f"\n## {domain or 'ai.onnx'}\n\n| operator | versions | element types | how | ops | tests |\n"
                     "|---|---|---|---|---|---|\n")
        for row in table:
            if row.domain == domain:
                named = ", ".join(f"`{op.name}`" for op in row.ops[:6]) + (" …" if len(row.ops) > 6 else "")
                versions = ", ".join(map(str, row.versions))
                parts.append(f"| {row.name} | {versions} | {row.types} | {row.how} | {named} | {row.tests} |\n")
    parts.append(f"\n## Not taken\n\nOf the operators that onnx {onnx.__version__} defines: {', '.join(refused())}.\n")
    parts.append("\n## Ops of the graph IR\n\n| op | what it computes | how |\n|---|---|---|\n")
    for name, op in sorted(OPS.items()):
        doc = first_sentence(op.doc).replace("|", "\\|")
        parts.append(f"| `{name}` | {doc} | {kind_of(op)} |\n")
    return "".join(parts)
