"""Several models in one file: they share the runtime, and every constant that two of them hold.

    lepton.compile_to({"find": "find.onnx", "read": "read.onnx"}, "page.so")
    find = lepton.load("page.so", model="find")

Constants that are nearly equal become equal first by `lepton.compress.share_weights(find, read)`.
"""
from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lepton.ir.diagnostics import LeptonError, UsageError

if TYPE_CHECKING:
    from lepton.driver import Compiled, Options, Progress, Report, Source

MOST = 16  # MOST_MODELS of runtime_c/src/entry.c
NAME = re.compile(r"[A-Za-z_][\w.-]*")
T = TypeVar("T")


def check_names(names: list[str]) -> None:
    """Raises UsageError."""
    if not names or len(names) > MOST:
        raise UsageError(f"{len(names)} models for one file; there can be 1 to {MOST}")
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise UsageError(f"several models are called {', '.join(map(repr, twice))}",
                         help="name them: leptonc first=a/model.onnx second=b/model.onnx -o both.so")
    if bad := [n for n in names if not NAME.fullmatch(n)]:
        raise UsageError(f"a model cannot be called {bad[0]!r}", help="name it: leptonc name=model.onnx …; letters, "
                         "digits, '_', '-' and '.', no digit first")


def named(words: list[str]) -> dict[str, str]:
    """Files by the models' names, from `name=file.onnx` or `file.onnx`, which is called `file`. Raises UsageError."""
    pairs = []
    for word in words:
        name, given, file = word.partition("=")
        plain = not given or not NAME.fullmatch(name) or Path(word).exists()
        pairs.append((Path(word).stem, word) if plain else (name, file))
    check_names([name for name, _ in pairs])
    return dict(pairs)


def options_for(model: str, models: list[str], options: Options) -> Options:
    """The options of one model: what is said of all, and what `model:` begins; what is said of others is left out."""
    def own(given: Mapping[str, T]) -> dict[str, T]:
        found = {}
        for key, value in given.items():
            whose, colon, name = key.partition(":")
            if not colon or whose not in models:
                found[key] = value
            elif whose == model:
                found[name] = value
        return found

    return replace(options, dims=own(options.dims), values=own(options.values), structure=own(options.structure),
                   tune=options.tune / len(models))  # the time is for all of them


def lower_all(sources: Mapping[str, Source], options: Options, progress: Progress | None = None) -> list[Compiled]:
    """Every model's programs, with what their metadata says of their place in the file. Raises LeptonError, which names
    the model."""
    from lepton.driver import lower

    names, done = list(sources), []
    check_names(names)
    for name, source in sources.items():
        own = options_for(name, names, options)
        try:
            done.append(lower(source, own, _prefixed(name, progress)))
        except LeptonError as error:
            raise type(error)(f"{name}: {error.message}", where=error.where, help=_helped(error, own, names),
                              exit=error.exit) from error
        done[-1].shelf = {"name": name, "models": names, "dims": dict(sorted(own.dims.items())),
                          "values": sorted(own.values)}
    return done


def _helped(error: LeptonError, own: Options, models: list[str]) -> str:
    """An error's help; where it is about a name that begins like a model's, which models there are."""
    meant = next((k for k in (*own.dims, *own.values, *own.structure) if ":" in k and f"'{k}'" in error.message), None)
    if meant is None:
        return error.help
    return f"{error.help}; no model is called '{meant.partition(':')[0]}', there are {', '.join(models)}"


def _prefixed(name: str, progress: Progress | None) -> Progress | None:
    return None if progress is None else lambda stage: progress(f"{name}: {stage}")


def compile_models(sources: Mapping[str, Source], out: str | os.PathLike[str], options: Options,
                   progress: Progress | None = None) -> Report:
    """models -> `out`. The report's `models` tell of each. Raises LeptonError."""
    from lepton.driver import Compiled, Report, link_to, spell

    parts = lower_all(sources, options, progress)
    report = Report(models={name: part.report for name, part in zip(sources, parts, strict=True)})
    for part in parts:
        for stage, seconds in part.report.seconds.items():
            report.seconds[stage] = report.seconds.get(stage, 0.0) + seconds
    whole = Compiled(parts[0].original, [g for p in parts for g in p.graphs], [x for p in parts for x in p.programs],
                     report, parts=parts)
    return link_to(spell(whole, options, linked=True, progress=progress), Path(out), progress)
