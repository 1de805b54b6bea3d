"""`lepton inspect`: what a compiled model, an ONNX file or text IR holds."""
from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from typing import Any

from lepton.commands.common import add_parser, add_plugins, is_artifact
from lepton.ir.diagnostics import Exit, UsageError
from lepton.ir.structure import Structure, words
from lepton.summary import coded, count, space, variants, work
from lepton.terminal import human, parse_dims, parse_structure

JSON_VERSION = 1
MADE = ("lepton", "llvm", "onnx", "level", "math", "precision", "threads", "dims")  # how an artifact was made
EXAMPLES = """\
  lepton inspect model.so                             ports, targets, memory, how it was made
  lepton inspect model.so --verify                    and whether a byte of it has changed
  lepton inspect model.onnx --dim N=1 --json
  lepton inspect graph.lir --dot | dot -Tsvg > graph.svg
"""


def add(commands: Any) -> None:
    parser = add_parser(commands, "inspect", "show what a model holds", EXAMPLES)
    parser.add_argument("model", help="model.so, model.onnx or graph.lir")
    parser.add_argument("--dim", action="append", default=[], metavar="N=1", help="for a .onnx: pin an open dimension")
    parser.add_argument("--structure", action="append", default=[], metavar="NAME=N",
                        help="for a .onnx: what a sequence or optional among the inputs holds, as for leptonc")
    parser.add_argument("--verify", action="store_true",
                        help="for a .so: also see that its weights are as they were written (code always is seen to)")
    add_plugins(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--dot", action="store_true", help="print the graph for Graphviz (.onnx and .lir)")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> Exit:
    """Raises LeptonError."""
    if is_artifact(args.model):
        from lepton.library import models, verify

        if args.dot or args.dim or args.structure:
            raise UsageError(f"{args.model} is compiled: it holds no graph",
                             help="inspect the .onnx or .lir it came from")
        if args.verify:
            verify(args.model)
        seen = {"verified": True} if args.verify else {}
        records = [artifact_record(args.model, name) | seen for name in models(args.model) or (None,)]
    else:
        from lepton import frontends
        from lepton.plugins import load as load_plugins

        if args.verify:
            raise UsageError(f"{args.model} is not compiled: nothing says how it was written")
        load_plugins(args.plugins)
        graph = frontends.load(args.model, dims=parse_dims(args.dim), structure=parse_structure(args.structure))
        if args.dot:
            from lepton.ir.export import to_dot

            print(to_dot(graph), end="")
            return Exit.OK
        records = [graph_record(args.model, graph)]
    print(json.dumps(records[0] if len(records) == 1 else records) if args.json else "\n".join(map(text, records)))
    return Exit.OK


def artifact_record(path: str, name: str | None = None) -> dict[str, Any]:
    """What the file says of itself, also where this machine cannot run it."""
    from lepton.library import load

    model = load(path, runnable=False, model=name)
    facts = model.metadata
    statistics, targets = facts.get("statistics", {}), facts.get("targets", [])
    on_cpu = model.target
    if on_cpu is None and any(t.startswith("cuda") for t in targets) and not all(t.startswith("cuda") for t in targets):
        on_cpu = load(path, runnable=False, model=name, device="cpu").target
    return {
        "version": JSON_VERSION, "model": path, "kind": "artifact", "bytes": os.path.getsize(path),
        **({} if name is None else {"name": name}), "inputs": _ports(model.inputs), "outputs": _ports(model.outputs),
        "runs_here": model.target is not None, "runs_on_cpu": on_cpu is not None and not on_cpu.startswith("cuda"),
        "target": facts.get("target"), "targets": targets,
        "ops": statistics.get("ops", {}), "cuda": statistics.get("cuda", {}),
        "statistics": {k: v for k, v in statistics.items() if k not in ("ops", "cuda")},
        "made": {k: facts[k] for k in MADE if k in facts},
        "functions": list(model.functions), "metadata": facts.get("model", {}),
    }


def _ports(ports: Any) -> list[dict[str, Any]]:
    from lepton.ports import type_words

    return [{"name": p.name, "dtype": type_words(p.dtype, ())[:-2], "shape": list(p.shape)} for p in ports]


def graph_record(path: str, graph: Any) -> dict[str, Any]:
    """What the graph holds before any pass."""
    from lepton.driver import count_ops
    from lepton.ir.op import Trait

    def port(name: str, type: Any) -> dict[str, Any]:
        shape = [d if isinstance(d, int) else str(d) for d in type.shape]
        return {"name": name, "dtype": type.dtype.value, "shape": shape}

    constants = [n.attrs["value"] for n in graph.walk() if n.op.has(Trait.CONSTANT) and "value" in n.attrs]
    return {
        "version": JSON_VERSION, "model": path, "kind": "graph", "bytes": os.path.getsize(path),
        "inputs": [port(v.name or f"input{i}", v.tensor) for i, v in enumerate(graph.inputs)],
        "outputs": [port(n, v.tensor) for n, v in zip(graph.output_names, graph.outputs, strict=True)],
        "ops": count_ops(graph),
        "statistics": {"constants": len(constants), "weights": sum(t.nbytes for t in constants)},
        "metadata": dict(graph.metadata),
    }


def text(record: Mapping[str, Any]) -> str:
    """The record for people."""
    def shown(port: Mapping[str, Any]) -> str:
        return f"{port['name']}: {port['dtype']}[{','.join(map(str, port['shape']))}]"

    ops = {op: n for op, n in record["ops"].items() if op != "fusion"}
    kind = "graph" if record["kind"] == "graph" else "compiled model"
    kind += f" '{record['name']}'" if "name" in record else ""
    lines = [f"{record['model']}: {kind}, "
             f"{human(record['bytes'], 'B')}{', every byte as it was written' if record.get('verified') else ''}"]
    lines += [f"  input   {shown(p)}" for p in record["inputs"]]
    lines += [f"  output  {shown(p)}" for p in record["outputs"]]
    lines += _structure_lines(record["metadata"])
    lines += _artifact_lines(record) if record["kind"] == "artifact" else _graph_lines(record)
    lines.append(f"  ops     {sum(ops.values())}: " + ", ".join(f"{op} {n}" for op, n in ops.items()))
    compressed = _compression_lines(record["metadata"])
    shown_apart = ("output_names", "structure", *(("compression",) if compressed else ()))
    lines += [f"  model   {key}: {value}" for key, value in record["metadata"].items() if key not in shown_apart]
    return "\n".join(lines + compressed)


def _compression_lines(metadata: Mapping[str, str]) -> list[str]:
    """What `lepton compress` left of its search; nothing where a model calls something else so."""
    from lepton.compressed import brief

    try:
        lines = brief(json.loads(metadata["compression"]))
    except (KeyError, ValueError, TypeError):
        return []
    return [f"  {'' if i else 'small':<7} {line}" for i, line in enumerate(lines)]


def _structure_lines(metadata: Mapping[str, str]) -> list[str]:
    """What makes up each sequence and optional."""
    trees = Structure.of(metadata)
    if trees is None:
        return []
    return [f"  {kind}  {name} is {'an' if 'optional' in tree else 'a'} {words(tree)}"
            for kind, found in (("input ", trees.inputs), ("output", trees.outputs))
            for name, tree in found.items() if not isinstance(tree, str)]


def _artifact_lines(record: Mapping[str, Any]) -> list[str]:
    sizes, made = record["statistics"], record["made"]
    here = "chosen here" if record["runs_here"] else "no target of it runs on this machine"
    if record["runs_on_cpu"] and not record["runs_here"]:
        here = "needs a GPU, which is not here; --device cpu runs it"
    lines = [f"  target  {record['target']} ({here}), of {', '.join(record['targets'])}"]
    if sizes:
        lines.append(f"  memory  weights {human(sizes['weights'], 'B')}{coded(sizes)}, "
                     f"workspace {space(sizes['workspace'])}")
        lines.append(f"  code    {count(sizes['kernels'], 'kernel')} ({sizes['bodies']} distinct), "
                     f"{count(sizes['fusions'], 'fused group')}, {work(sizes['flops'])}")
    lines += [f"  for     {usual}: {words}" for usual, words in variants(sizes)]
    lines += _device_lines(record["cuda"])
    if record["functions"]:
        lines.append(f"  calls   {', '.join(record['functions'])}: to be registered by the program that runs it")
    if made:
        others = f" --precision {made['precision']}" if made["precision"] != "f32" else ""
        others += f" --threads-default {made['threads']}" if made.get("threads") else ""
        pins = "".join(f" --dim {name}={size if isinstance(size, int) else '..'.join(map(str, size))}"
                       for name, size in made["dims"].items())
        lines.append(f"  made by Lepton {made['lepton']} (LLVM {made['llvm']}, onnx {made['onnx']}), "
                     f"-O{made['level']} --math {made['math']}{others}{pins}")
    return lines


def _device_lines(cuda: Mapping[str, Any]) -> list[str]:
    """Images, and the resources of each kernel on the GPU."""
    lines = [f"  image   {i['arch'] // 10}.{i['arch'] % 10} ({i['kind']}), {human(i['bytes'], 'B')}"
             for i in cuda.get("images", ())]
    for k in cuda.get("kernels", ()):
        facts = [f"{k['threads']} threads", f"{human(k['shared'], 'B')} shared"]
        facts += [f"{k[name]} {word}" for name, word in (
            ("registers", "registers"), ("stack", "bytes of stack"), ("spills", "bytes spilled")) if k.get(name)]
        lines.append(f"  kernel  {k['name']}: {', '.join(facts)}")
    return lines


def _graph_lines(record: Mapping[str, Any]) -> list[str]:
    sizes = record["statistics"]
    return [f"  memory  {count(sizes['constants'], 'constant')}, {human(sizes['weights'], 'B')}"]
