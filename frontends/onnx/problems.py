"""What could not be imported, reported together: one paragraph per operator and reason."""
from __future__ import annotations

from collections.abc import Iterable

import onnx

from lepton.frontends.onnx.check import location
from lepton.ir.diagnostics import UnsupportedError

_SHOWN = 5


class DataDependent(UnsupportedError):
    """Sizes, axes or the like depend on what some inputs hold: known, the model compiles. `inputs` are their names,
    none where they come of computed data."""

    def __init__(self, message: str, inputs: Iterable[str], *, where: object = None, help: str = "") -> None:
        self.inputs = tuple(inputs)
        super().__init__(message, where=where, help=help)


class Problems:
    """Nodes that could not be imported, grouped by operator and reason."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], list[tuple[str, UnsupportedError]]] = {}

    def add(self, node: onnx.NodeProto, where: object, error: UnsupportedError) -> None:
        self._groups.setdefault((location(node).op, error.message), []).append((str(where), error))

    def snapshot(self) -> dict[tuple[str, str], list[tuple[str, UnsupportedError]]]:
        """What is reported so far, for `restore` when an attempt is given up."""
        return {key: list(found) for key, found in self._groups.items()}

    def data_dependent_since(self, before: dict[tuple[str, str], list[tuple[str, UnsupportedError]]]) -> bool:
        """Whether all that was reported since would be settled by knowing data."""
        found = [e for key, group in self._groups.items() for _, e in group[len(before.get(key, ())):]]
        return bool(found) and all(isinstance(e, DataDependent) for e in found)

    def restore(self, before: dict[tuple[str, str], list[tuple[str, UnsupportedError]]]) -> None:
        self._groups = before

    def check(self, file: str) -> None:
        """Raises UnsupportedError if anything was reported."""
        if not self._groups:
            return
        count = sum(map(len, self._groups.values()))
        lines = [f"{file or 'the model'} has {count} node{'s' * (count > 1)} that cannot be compiled"]
        helps: dict[str, None] = {}
        for (op, message), found in self._groups.items():
            lines.append(f"  {len(found)} x {op}: {message}")
            lines += [f"    --> {where}" for where, _ in found[:_SHOWN]]
            if len(found) > _SHOWN:
                lines.append(f"    --> and {len(found) - _SHOWN} more")
            helps.update({error.help: None for _, error in found if error.help})
        errors = [error for found in self._groups.values() for _, error in found]
        if all(isinstance(error, DataDependent) for error in errors):
            inputs = [name for error in errors if isinstance(error, DataDependent) for name in error.inputs]
            raise DataDependent("\n".join(lines), dict.fromkeys(inputs), help="; ".join(helps))
        raise UnsupportedError("\n".join(lines), help="; ".join(helps))
