"""`--emit`: the forms a model takes on its way, as text or objects."""
from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lepton.driver import Compiled, Options, Progress, Source, compile_objects, lower


@dataclass(frozen=True)
class Form:
    """One file's worth: `suffix` tells several apart (the target's name)."""

    suffix: str
    content: str | bytes


def graphs(source: Source, options: Options, progress: Progress) -> list[Form]:
    """Text IR after all passes, one for each target."""
    from lepton.ir.printer import show

    done = lower(source, options, progress)
    return [Form(t.name, show(g)) for g, (_, t) in zip(done.graphs, done.programs, strict=True)]


def loops(source: Source, options: Options, progress: Progress) -> list[Form]:
    """The program's steps, then each distinct kernel body: loop kernels as loop IR, templates by their parameters."""
    from lepton.codegen.llvm.spell import LoopBody
    from lepton.codegen.loops_text import print_kernel

    done = lower(source, options, progress)
    forms = []
    for program, target in done.programs:
        bodies = dict.fromkeys(k.body for k in program.kernels)
        text = [str(program), ""]
        text += [f"// body {i}\n{print_kernel(b.kernel) if isinstance(b, LoopBody) else b!r}\n"
                 for i, b in enumerate(bodies)]
        forms.append(Form(target.name, "\n".join(text)))
    return forms


def modules(source: Source, options: Options, progress: Progress) -> list[Form]:
    """LLVM IR: one module for each target, and the tables."""
    done = compile_objects(source, options, linked=True, progress=progress)
    assert done.objects is not None
    return [Form(name, text) for name, text in zip(_names(done), done.objects.llvm, strict=True)]


def assembly(source: Source, options: Options, progress: Progress) -> list[Form]:
    """What LLVM makes of the modules, as assembly."""
    from lepton.codegen.llvm.machine import compile_module

    done = compile_objects(source, options, linked=True, progress=progress)
    assert done.objects is not None
    targets = [t for _, t in done.programs] + [done.programs[0][1]]
    return [Form(name, compile_module(text, target, asm=True))
            for name, text, target in zip(_names(done), done.objects.llvm, targets, strict=True)]


def objects(source: Source, options: Options, progress: Progress) -> list[Form]:
    """Relocatable objects; the weights are the symbol lpt_weights that the linker brings."""
    done = compile_objects(source, options, linked=True, progress=progress)
    assert done.objects is not None
    return [Form(name, data) for name, data in zip(_names(done), done.objects.objects, strict=True)]


def _names(done: Compiled) -> list[str]:
    return [t.name for _, t in done.programs] + ["tables"]


FORMS: dict[str, Callable[[Source, Options, Progress], list[Form]]] = {
    "graph": graphs, "loops": loops, "llvm": modules, "asm": assembly, "obj": objects,
}


def write(forms: Sequence[Form], out: str) -> None:
    """One form goes to `out`; of several, each to `out` with its suffix before the extension ("-": all, in turn)."""
    if out == "-":
        for form in forms:
            assert isinstance(form.content, str)
            sys.stdout.write(form.content)
        return
    path = Path(out)
    for form in forms:
        name = path if len(forms) == 1 else path.with_name(f"{path.stem}.{form.suffix}{path.suffix}")
        partial = name.with_name(name.name + ".partial")
        data = form.content.encode() if isinstance(form.content, str) else form.content
        partial.write_bytes(data)
        os.replace(partial, name)
