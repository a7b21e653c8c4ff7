"""From the settings of atomic data to frames for training, validation and test."""

from __future__ import annotations

from dataclasses import replace
import glob
import logging
from pathlib import Path
import re
from typing import Any

import numpy as np

from surrogate.config import build
from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_checks import check_copied_stress
from surrogate.data.atoms_consistency import check_consistency
from surrogate.data.atoms_labels import Labels
from surrogate.data.atoms_settings import AtomsDataConfig
from surrogate.data.netcdf import fingerprint

__all__ = ["AtomsDataConfig", "open_atoms", "provenance", "read_atoms"]

log = logging.getLogger(__name__)

_SUFFIXES = {
    ".xyz": "extxyz", ".extxyz": "extxyz",
    ".db": "ase", ".json": "ase", ".traj": "ase",
    ".npz": "npz",
    ".nc": "netcdf", ".ncdf": "netcdf", ".nc4": "netcdf", ".netcdf": "netcdf", ".cdf": "netcdf", ".h5": "netcdf",
}  # fmt: skip


def open_atoms(config: AtomsDataConfig) -> dict[str, Frames]:
    """Read everything that ``config`` names.

    Returns:
        ``train``, and ``valid`` and ``test`` where there are frames for them. No frame is in two of them.

    Raises:
        UserError: for files that are absent or refused, and for labels that differ between files.
    """
    if config.source == "simulate":
        config = _simulated(config)
    splits = _open_store(config) if _is_store(config) else _open_files(config)
    if config.train_frames is not None:
        train = splits["train"]
        if config.train_frames > len(train):
            raise UserError(f"data.train_frames={config.train_frames}, but there are {len(train)} training frames")
        chosen = np.random.default_rng([config.seed, 2]).permutation(len(train))[: config.train_frames]
        splits["train"] = train[np.sort(chosen)]
    _check_together(config, splits)
    return splits


def read_atoms(path: str, labels: Labels | None = None, source: str = "auto") -> Frames:
    """Frames of one file or DeePMD directory, checked.

    Raises:
        UserError: for an ending that is not known, and whatever its reader refuses.
    """
    labels = labels or Labels()
    kind = _kind(path) if source == "auto" else source
    if kind == "extxyz":
        from surrogate.data.atoms_extxyz import read_extxyz

        return read_extxyz(path, labels)
    if kind == "netcdf":
        from surrogate.data.atoms_netcdf import read_netcdf

        return read_netcdf(path, labels)
    if kind == "deepmd":
        from surrogate.data.atoms_deepmd import read_deepmd

        return read_deepmd(path, labels)
    if kind == "ase":
        from surrogate.data.atoms_ase import read_ase

        return read_ase(path, labels)
    if kind == "npz":
        from surrogate.data.atoms_npz import read_npz

        return read_npz(path, labels)
    raise UserError(
        f"data.source={source} is not a format; there are {', '.join(sorted(set(_SUFFIXES.values())))}, deepmd"
    )


def provenance(config: AtomsDataConfig) -> list[dict[str, Any]]:
    """``path``, ``bytes`` and ``sha256`` of every file that :func:`open_atoms` reads (a DeePMD system counts as one)."""
    if config.source == "simulate":
        config = _simulated(config)
    entries = (*config.paths, *config.valid_paths, *config.test_paths)
    files = dict.fromkeys(path for entry in entries for path in _resolve(_slice(entry)[0], config))
    return [fingerprint(path) for path in files]


# -- files ---------------------------------------------------------------------------------------


def _kind(path: str) -> str:
    if Path(path).is_dir():
        return "deepmd"
    kind = _SUFFIXES.get(Path(path).suffix.lower())
    if kind is None:
        raise UserError(
            f"{path}: the ending {Path(path).suffix!r} is none of {', '.join(_SUFFIXES)}; name the format in data.source"
        )
    return kind


def _simulated(config: AtomsDataConfig) -> AtomsDataConfig:
    from surrogate.data.simulate_atoms import AlloyConfig, simulate_alloy
    from surrogate.data.waiting import bar_for

    if config.paths:
        raise UserError(
            f"data.source=simulate makes its own data, yet data.paths names {config.paths[0]}; set data.source=auto"
        )
    settings = build(AlloyConfig, config.simulate, "data.simulate")
    with bar_for("simulating the alloy", "frames") as progress:
        path = simulate_alloy(settings, progress=progress)
    return replace(config, source="store", root="", paths=(str(path),))


def _is_store(config: AtomsDataConfig) -> bool:
    """Whether the data bring their own splits: as the settings say, or as one prepared file says of itself."""
    from surrogate.data.atoms_ragged import has_splits

    if config.source != "auto":
        return config.source == "store"
    files = [p for entry in config.paths for p in _resolve(_slice(entry)[0], config)]
    stores = [p for p in files if not Path(p).is_dir() and _kind(p) == "netcdf" and has_splits(p)]
    if not stores:
        return False
    if len(files) > 1 or config.valid_paths or config.test_paths:
        raise UserError(
            f"{stores[0]}: is a store with splits of its own, so it is read alone; data.source=netcdf mixes its frames, "
            "those of its test among them, with other files"
        )
    return True


def _open_store(config: AtomsDataConfig) -> dict[str, Frames]:
    from surrogate.data.atoms_ragged import read_splits

    if len(config.paths) != 1:
        raise UserError("data.source=store needs exactly one entry: data.paths=[STORE.nc]")
    path = _resolve(config.paths[0], config)[0]
    # A store has names and units of its own: what is asked for by any name is asked for by that.
    asked: dict[str, Any] = {kind: kind if getattr(config, kind) else None for kind in ("energy", "forces", "stress")}
    splits = read_splits(path, Labels(**asked, properties=config.properties))
    if "train" not in splits:
        raise UserError(f"{path}: holds no training frames")
    return splits


def _open_files(config: AtomsDataConfig) -> dict[str, Frames]:
    if not config.paths:
        raise UserError("data.paths is empty; give files, globs or directories of atoms: data.paths=[train.extxyz]")
    config = replace(config, species=_species(config))
    seen: list[tuple[str, str, set[int]]] = []
    parts: dict[str, list[Frames]] = {}
    for setting in ("paths", "valid_paths", "test_paths"):
        for entry in getattr(config, setting):
            name, part = _slice(entry)
            for path in _resolve(name, config):
                frames = read_atoms(path, config, config.source)
                chosen = np.arange(len(frames))[part]
                if not len(chosen):
                    raise UserError(f"data.{setting}: {entry} selects none of the {len(frames)} frames of {path}")
                real = str(Path(path).resolve())
                for other, earlier, used in seen:
                    if other == real and used & set(chosen.tolist()):
                        raise UserError(f"data.{setting}: {entry} is already in data.{earlier}")
                seen.append((real, setting, set(chosen.tolist())))
                parts.setdefault(setting, []).append(frames[chosen])
    Frames.concat([p for part in parts.values() for p in part])  # labels must agree between all of them
    train = Frames.concat(parts["paths"])
    splits = {"valid": parts.get("valid_paths"), "test": parts.get("test_paths")}
    result = {name: Frames.concat(found) for name, found in splits.items() if found}
    wanted = {
        name: getattr(config, f"{name}_fraction") for name in ("test", "valid")
        if name not in result and getattr(config, f"{name}_fraction")
    }  # fmt: skip
    if wanted:
        taken = _take(train, wanted, config)
        result |= {name: train[taken == name] for name in wanted}
        train = train[taken == "train"]
    return {"train": train, **{name: result[name] for name in ("valid", "test") if name in result}}


def _slice(entry: str) -> tuple[str, slice]:
    """``"qm9.npz@0:8000"`` → the file, and which of its frames; Python's rule for slices."""
    match = re.fullmatch(r"(.+)@(-?\d*):(-?\d*)(?::([1-9]\d*))?", entry)
    if not match:
        return entry, slice(None)
    start, stop, step = (int(v) if v else None for v in match.groups()[1:])
    return match[1], slice(start, stop, step)


def _species(config: AtomsDataConfig) -> str | None:
    """``data.species`` where it is a file: below ``root`` like all files."""
    species = config.species
    if species is None or not config.root or not (Path(config.root).expanduser() / species).is_file():
        return species
    return str(Path(config.root).expanduser() / species)


def _resolve(entry: str, config: AtomsDataConfig) -> list[str]:
    """Files and DeePMD directories of an entry, in the order of their names."""
    path = Path(entry).expanduser()
    if config.root and not path.is_absolute():
        path = Path(config.root).expanduser() / path
    if path.is_file() or (path / "type.raw").is_file():
        return [str(path)]
    if path.is_dir():
        found = sorted(str(p.parent) for p in path.rglob("type.raw"))
        found += sorted(str(p) for p in path.iterdir() if p.suffix.lower() in _SUFFIXES and not p.name.startswith("."))
        if not found:
            raise UserError(f"{path}: the directory holds no atoms ({', '.join(_SUFFIXES)}, or a DeePMD system)")
        return found
    found = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(str(path)) else []
    if not found:
        raise UserError(f"{path}: no such file or directory{'; ' + config.fetch if config.fetch else ''}")
    return found


# -- splits --------------------------------------------------------------------------------------


def _take(frames: Frames, fractions: dict[str, float], config: AtomsDataConfig) -> np.ndarray:
    """(n,) name of the split of each frame: a function of the files, the fractions and the seed alone."""
    taken = np.full(len(frames), "train", dtype="<U5")
    rng = np.random.default_rng([config.seed, 1])
    if config.split_by == "time":
        for group in np.unique(frames.group):
            left = np.flatnonzero(frames.group == group)
            for name, fraction in fractions.items():  # the test is the very end
                count = round(fraction * (frames.group == group).sum())
                taken[left[len(left) - count :]] = name
                left = left[: len(left) - count]
    elif config.split_by == "group":
        groups = rng.permutation(np.unique(frames.group))
        start = 0
        for name, fraction in fractions.items():
            goal = fraction * len(frames)
            while start < len(groups) and (taken == name).sum() < goal:
                taken[frames.group == groups[start]] = name
                start += 1
    else:
        order = rng.permutation(len(frames))
        start = 0
        for name, fraction in fractions.items():
            count = max(1, round(fraction * len(frames)))
            taken[order[start : start + count]] = name
            start += count
    for name in ("train", *fractions):
        if not (taken == name).any():
            raise UserError(
                f"data.paths has {len(frames)} frames in {len(np.unique(frames.group))} files or trajectories, too few for "
                f"{', '.join(f'{n}_fraction={f:g}' for n, f in fractions.items())} by {config.split_by}: {name} is left empty"
            )
    return taken


def _check_together(config: AtomsDataConfig, splits: dict[str, Frames]) -> None:
    """What only shows when all frames are seen at once."""
    together = Frames.concat(list(splits.values()))
    check_copied_stress(together)
    if config.check_consistency:
        for group in splits.values():
            check_consistency(group)
    known = {_identity(splits["train"], i) for i in range(len(splits["train"]))}
    for name in ("valid", "test"):
        if name in splits:
            frames = splits[name]
            same = [i for i in range(len(frames)) if _identity(frames, i) in known]
            if same:
                log.warning(
                    "%d of the %d frames of %s are in the training data too (the first is %s): scores on them say little",
                    len(same), len(frames), name, frames.place(same[0]),
                )  # fmt: skip


def _identity(frames: Frames, i: int) -> bytes:
    rows = slice(int(frames.offsets[i]), int(frames.offsets[i + 1]))
    return frames.positions[rows].tobytes() + frames.species[rows].tobytes() + frames.cell[i].tobytes()
