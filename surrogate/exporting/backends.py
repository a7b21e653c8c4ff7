"""Which backends a Bundle has programs for, and which of them serves unless its caller says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surrogate.core.types import UserError
from surrogate.exporting import onnx
from surrogate.exporting.function import Function
from surrogate.exporting.plugins import Plugin, find_runtime

BACKENDS = ("pjrt", "onnx")
# How much faster ONNX Runtime must be to serve by default: PJRT runs everything, and on every platform.
ADVANTAGE = 0.8


@dataclass
class Backends:
    """What is to be exported.

    Attributes:
        pjrt: whether StableHLO programs are written.
        runtime: ONNX Runtime, by which ONNX programs are checked; None: there are none.
        demanded: whether they were asked for by name, so that failing to make them is an error.
        absent: why there are none although nobody declined them.
    """

    pjrt: bool
    runtime: Plugin | None
    demanded: bool = False
    absent: str = ""

    @classmethod
    def choose(
        cls, named: Sequence[str] | None, platforms: Sequence[str], unverified: Sequence[str], runtime: str
    ) -> Backends:
        """Raises UserError for a backend that does not exist, or that is named and not possible here."""
        for name in named or ():
            if name not in BACKENDS:
                raise UserError(f"backend {name!r} is not one of {', '.join(BACKENDS)}")
        if named is not None and not named:
            raise UserError("backends=[] leaves nothing to export")
        pjrt = named is None or "pjrt" in named
        if not pjrt and set(platforms) != {"cpu"}:
            raise UserError(f"backends={list(named or ())} serve the cpu alone, not platforms={list(platforms)}")
        if named is not None and "onnx" not in named:
            return cls(pjrt, None)
        why = ""
        found = find_runtime(runtime)
        if missing := onnx.missing():
            why = f"{missing[0]} is not installed (pip install 'surrogate[onnx]')"
        elif found is None:
            why = "onnxruntime is not installed (pip install 'surrogate[onnx]'), and runtime= names none"
        elif "cpu" not in platforms or "cpu" in unverified:
            why = "it is for the cpu, which is not verified here"
        if why and named is not None:
            raise UserError(f"target onnx: {why}")
        return cls(pjrt, None if why else found, named is not None, why)

    def convert(
        self,
        functions: Sequence[Function],
        entries: Sequence[dict[str, Any]],
        files: dict[str, bytes],
        table: Sequence[Mapping[str, Any]],
        batches: Sequence[int],
        say: Callable[[str], None],
    ) -> None:
        """Add ONNX programs to ``files`` and to the functions' ``entries``: of all functions, or of none.

        Raises:
            UserError: naming function and operation, where ONNX was asked for by name.
        """
        if self.runtime is None:
            if self.absent:
                say(f"no programs for onnx: {self.absent}")
            return
        made: dict[str, bytes] = {}
        programs: list[list[dict[str, Any]]] = []
        try:
            for function in functions:
                say(f"converting {function.name} for onnx, batches {', '.join(map(str, sorted(batches)))}")
                programs.append([])
                for batch in sorted(batches):
                    name = f"{function.name}.cpu.{batch}.onnx"
                    made[name], used = onnx.convert(function, batch, table)
                    programs[-1].append({
                        "platform": "cpu", "batch": batch, "backend": "onnx", "file": name, "parameters": used,
                    })  # fmt: skip
        except UserError as error:
            if self.demanded:
                raise UserError(f"target onnx: {error}") from error
            say(f"no programs for onnx: {error}")
            self.runtime = None
            return
        files.update(made)
        for entry, added in zip(entries, programs, strict=True):
            entry["programs"] += added

    def withdraw(
        self, entries: Sequence[dict[str, Any]], files: dict[str, bytes], error: UserError, say: Callable[[str], None]
    ) -> None:
        """Take the ONNX programs out again, since ``error`` was found when they were checked.

        Raises:
            UserError: ``error``, where ONNX was asked for by name.
        """
        if self.demanded:
            raise error
        say(f"no programs for onnx, which cannot be published: {error}")
        for entry in entries:
            for program in [p for p in entry["programs"] if p["backend"] == "onnx"]:
                entry["programs"].remove(program)
                del files[program["file"]]


def faster(plugin: Mapping[str, Any] | None, runtime: Mapping[str, Any]) -> str:
    """The backend that serves by default: ``onnx`` where it is clearly faster, by the geometric mean over programs."""
    if plugin is None:
        return "onnx"
    shared = plugin["microseconds"].keys() & runtime["microseconds"].keys()
    ratios = [runtime["microseconds"][k] / plugin["microseconds"][k] for k in sorted(shared)]
    return "onnx" if ratios and float(np.exp(np.mean(np.log(ratios)))) < ADVANTAGE else "pjrt"
