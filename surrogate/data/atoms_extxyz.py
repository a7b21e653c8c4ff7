"""Extended XYZ: a count, a line of ``key=value``, a line an atom, and again.

Read here and not by ASE, which renames keys, moves known ones into a calculator, drops what it does not know and takes
a count of atoms that the file cannot hold for a reason to wait. The format: https://github.com/libAtoms/extxyz
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import os
from pathlib import Path
import re
from typing import Any, BinaryIO

import numpy as np

from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_labels import Labels, Native, Raw, assemble, missing
from surrogate.data.elements import atomic_numbers

# key, then =, then a value in quotes, braces or brackets, or up to the next blank; a key alone is a flag.
_PAIR = re.compile(
    r"""\s*(?P<key>"[^"]*"|[^\s="]+)
        (?:\s*=\s*(?:"(?P<quoted>(?:\\.|[^"\\])*)"|'(?P<single>[^']*)'|\{(?P<braces>[^}]*)\}|(?P<list>\[[^\n]*?\](?=\s|$))|(?P<bare>\S+)))?""",
    re.VERBOSE,
)
_WORDS = {"lattice": "Lattice", "pbc": "pbc", "properties": "Properties"}
_KINDS = {"R": float, "I": int, "S": str, "L": str}


@dataclass
class XyzFrame:
    """One frame as written: the keys of its line, and its columns by name, each (atoms, columns)."""

    place: str
    info: dict[str, str]
    columns: dict[str, list[list[str]]]
    num_atoms: int


def read_extxyz(path: str | os.PathLike[str], labels: Labels | None = None) -> Frames:
    """All frames of a file.

    Args:
        labels: energy and properties are keys of the second line, forces is a column of three, stress is a key
            of 6 or 9 numbers.

    Raises:
        UserError: naming file and frame, for what is no extended XYZ, is cut short, lacks a key that was named, or is
            refused by the checks.
    """
    labels = labels or Labels()
    rows: list[int] = []
    parts: dict[str, list[Any]] = {k: [] for k in ("positions", "species", "cell", "pbc", "energy", "forces", "stress")}
    properties: dict[str, list[float]] = {name: [] for name in labels.properties}
    for frame in iterate_extxyz(path):
        rows.append(frame.num_atoms)
        parts["species"].append(_species(frame))
        parts["positions"].append(_column(frame, "pos" if "pos" in frame.columns else "positions", 3, "positions"))
        cell, pbc = _cell(frame)
        parts["cell"].append(cell)
        parts["pbc"].append(pbc)
        if labels.energy is not None:
            parts["energy"].append(_number(frame, labels.energy, "energy"))
        if labels.forces is not None:
            parts["forces"].append(_column(frame, labels.forces, 3, "forces"))
        if labels.stress is not None:
            parts["stress"].append(_stress(frame, labels.stress, any(pbc)))
        for name in labels.properties:
            properties[name].append(_number(frame, name, "properties"))
    if not rows:
        raise UserError(f"{path}: holds no frame")
    stress = _stack(parts["stress"], path) if labels.stress is not None else None
    raw = Raw(
        np.concatenate(parts["positions"]), np.concatenate(parts["species"]), np.array(parts["cell"]),
        np.array(parts["pbc"]), np.array(rows), np.array(parts["energy"]) if labels.energy else None,
        np.concatenate(parts["forces"]) if labels.forces else None, stress,
        {k: np.array(v) for k, v in properties.items()},
        {k: getattr(labels, k) for k in ("energy", "forces", "stress") if getattr(labels, k)}, (str(path),),
    )  # fmt: skip
    return assemble(raw, labels, Native())


def iterate_extxyz(path: str | os.PathLike[str]) -> Iterator[XyzFrame]:
    """Frames of a file one at a time, as text.

    Raises:
        UserError: for a file that cannot be read, is cut short or is no extended XYZ.
    """
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            number = 0
            while line := file.readline():
                if not line.strip():
                    continue
                yield _frame(file, line, size, f"{path} frame {number}")
                number += 1
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _frame(file: BinaryIO, first: bytes, size: int, place: str) -> XyzFrame:
    try:
        count = int(first)
    except ValueError:
        shown = first[:40].decode("utf-8", "replace").strip()
        raise UserError(f"{place}: a count of atoms was expected, got {shown!r}") from None
    left = size - file.tell()
    # The shortest line of an atom is "H 0 0 0" and its end. Checked before anything is read for so many atoms.
    if count < 1 or count * 8 - 1 > left:
        raise UserError(f"{place}: claims {count} atoms, and {left} bytes are left in the file")
    try:
        header = file.readline().decode("utf-8")
        lines = [file.readline().decode("ascii").split() for _ in range(count)]
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: is not text ({error.reason})") from None
    info = _header(header, place)
    names = _properties(info.pop("Properties", "species:S:1:pos:R:3"), place)
    width = sum(columns for _, columns in names)
    for i, words in enumerate(lines):
        if len(words) != width:
            ending = "the file ends there" if not words and not file.read(1) else f"got {' '.join(words)[:60]!r}"
            raise UserError(f"{place}: atom {i} should have {width} columns, {ending}")
    columns: dict[str, list[list[str]]] = {}
    start = 0
    table = list(zip(*lines, strict=True))
    for name, number in names:
        if name in columns:
            raise UserError(f"{place}: the column {name!r} stands twice in Properties")
        columns[name] = [list(c) for c in table[start : start + number]]
        start += number
    return XyzFrame(place, info, columns, count)


def _header(text: str, place: str) -> dict[str, str]:
    info: dict[str, str] = {}
    for match in _PAIR.finditer(text.strip()):
        key = match["key"].strip('"')
        values = [match[k] for k in ("quoted", "single", "braces", "list", "bare") if match[k] is not None]
        if not values:
            continue  # a flag, or a plain comment
        if key in info and info[key] != values[0]:
            raise UserError(f"{place}: the key {key!r} stands twice, as {info[key]!r} and as {values[0]!r}")
        info[key] = values[0]
        meant = _WORDS.get(key.lower(), key)
        if key != meant:
            # Read as a key like any other, it would silently make a molecule of a crystal.
            raise UserError(f"{place}: the key {key!r} must be spelt {meant!r}")
    return info


def _properties(text: str, place: str) -> list[tuple[str, int]]:
    words = text.split(":")
    triples = list(zip(words[::3], words[1::3], words[2::3], strict=False))
    if len(words) % 3 or any(kind not in _KINDS or not count.isdigit() or count == "0" for _, kind, count in triples):
        raise UserError(
            f"{place}: Properties={text!r} is not name:type:columns, repeated, with the types R, I, S and L"
        )
    return [(name, int(count)) for name, _, count in triples]


def _species(frame: XyzFrame) -> np.ndarray:
    for name in ("species", "element", "symbols"):
        if name in frame.columns:
            return atomic_numbers(frame.columns[name][0], frame.place)
    for name in ("Z", "numbers"):
        if name in frame.columns:
            return _numbers(frame, frame.columns[name][0], "atomic number").astype(np.int32)
    raise UserError(f"{frame.place}: no column 'species'; it has {', '.join(frame.columns)}")


def _column(frame: XyzFrame, name: str, width: int, kind: str) -> np.ndarray:
    """(atoms, width) float64."""
    if name not in frame.columns:
        raise missing(frame.place, kind, name, (n for n, c in frame.columns.items() if len(c) == width))
    found = frame.columns[name]
    if len(found) != width:
        raise UserError(f"{frame.place}: {name!r} has {len(found)} columns, {kind} needs {width}")
    return np.stack([_numbers(frame, column, name) for column in found], axis=-1)


def _numbers(frame: XyzFrame, words: list[str], name: str) -> np.ndarray:
    try:
        return np.array(words, np.float64)
    except ValueError:
        for i, word in enumerate(words):
            try:
                float(word)
            except ValueError:
                raise UserError(f"{frame.place}: {name} {i} is {word!r}, not a number") from None
        raise


def _values(frame: XyzFrame, name: str, text: str) -> np.ndarray:
    return _numbers(frame, re.sub(r"[\[\]{},]", " ", text).split(), name)


def _number(frame: XyzFrame, name: str, kind: str) -> float:
    if name not in frame.info:
        raise missing(frame.place, kind, name, frame.info)
    values = _values(frame, name, frame.info[name])
    if values.shape != (1,):
        raise UserError(f"{frame.place}: {name}={frame.info[name]!r} is not one number")
    return float(values[0])


def _stress(frame: XyzFrame, name: str, periodic: bool) -> np.ndarray | None:
    if name not in frame.info:
        if not periodic:
            return None  # a molecule in a set with crystals
        raise missing(
            frame.place,
            "stress",
            name,
            (k for k, v in frame.info.items() if k != "Lattice" and len(v.split()) in (6, 9)),
        )
    values = _values(frame, name, frame.info[name])
    if len(values) not in (6, 9):
        raise UserError(f"{frame.place}: {name!r} has {len(values)} numbers, a stress has 6 or 9")
    return values


def _stack(parts: list[np.ndarray | None], path: Any) -> np.ndarray:
    sizes = {len(p) for p in parts if p is not None}
    if len(sizes) > 1:
        raise UserError(f"{path}: some frames have a stress of 6 numbers and some of 9")
    width = sizes.pop() if sizes else 9
    return np.stack([np.full(width, np.nan) if p is None else p for p in parts])


def _cell(frame: XyzFrame) -> tuple[np.ndarray, list[bool]]:
    """Lattice (rows are vectors) and pbc; by the format's rule a Lattice without ``pbc`` repeats everywhere."""
    cell = np.zeros((3, 3))
    if "Lattice" in frame.info:
        values = _values(frame, "Lattice", frame.info["Lattice"])
        if values.shape != (9,):
            raise UserError(f"{frame.place}: Lattice has {len(values)} numbers, it needs 9")
        cell = values.reshape(3, 3)
    if "pbc" not in frame.info:
        return cell, ["Lattice" in frame.info] * 3
    words = re.sub(r"[\[\]{},]", " ", frame.info["pbc"]).split()
    truth = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}
    if len(words) != 3 or any(w.lower() not in truth for w in words):
        raise UserError(f"{frame.place}: pbc={frame.info['pbc']!r} is not three of T and F")
    return cell, [truth[w.lower()] for w in words]


def species_of_xyz(path: str | Path) -> np.ndarray:
    """Atomic numbers of a file's first frame."""
    for frame in iterate_extxyz(path):
        return _species(frame)
    raise UserError(f"{path}: holds no frame")
