"""Settings of atomic data: which files, what is read of them, and which frames are for what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from surrogate.data.atoms_labels import Labels

Source = Literal["auto", "simulate", "store", "netcdf", "extxyz", "ase", "deepmd", "npz"]


@dataclass(frozen=True)
class AtomsDataConfig(Labels):
    """Atomic data of one study, with the names, units and signs of :class:`Labels`.

    Attributes:
        source: ``auto`` (by the file's ending), ``simulate`` (molecular dynamics of an alloy, made here once),
            ``store`` (what ``surrogate.prepare`` wrote, with its splits), or a format: ``netcdf`` (ragged NetCDF, ABINIT's
            ``*_HIST.nc`` and ``*_GSR.nc``, AMBER's trajectories), ``extxyz``, ``ase`` (``.db``, ``.json``, ``.traj``),
            ``deepmd`` (directories), ``npz`` (padded arrays).
        root: relative entries are below it.
        fetch: what to tell a person whose files are absent.
        paths: files, globs or directories to train on; ``FILE@START:STOP:STEP`` takes some of a file's frames.
        valid_paths: the same for validation; without them ``valid_fraction`` of ``paths`` is taken.
        test_paths: the same for the test; without them ``test_fraction`` of ``paths`` is taken.
        split_by: what the fractions are taken by: ``frame`` (at random; right for independent configurations),
            ``group`` (whole files or trajectories) or ``time`` (the end of each file or trajectory; right where
            neighbours are alike, as in molecular dynamics).
        seed: of the random choice; the same files and seed give the same splits.
        train_frames: keep so many of the training frames, chosen at random (a learning curve).
        cutoff: Å; atoms closer than this are neighbors. Empty: where those of the training data have 75 on average, and 5 Å
            for molecules (:mod:`surrogate.domains.atoms_cutoff`).
        reference_energies: eV an atom of each element (``{Cu: -3.7}``), such as those of isolated atoms; empty: the least
            squares fit to the training energies by composition.
        pooling: how a scalar property follows from the atoms: their ``sum`` or their ``mean``.
        check_consistency: refuse forces and stresses that clearly are not derivatives of the energies.
        simulate: settings of :class:`surrogate.data.simulate_atoms.AlloyConfig`.
    """

    source: Source = "auto"
    root: str = ""
    fetch: str = ""
    paths: tuple[str, ...] = ()
    valid_paths: tuple[str, ...] = ()
    test_paths: tuple[str, ...] = ()
    valid_fraction: float = 0.1
    test_fraction: float = 0.1
    split_by: Literal["frame", "group", "time"] = "frame"
    seed: int = 0
    train_frames: int | None = None
    cutoff: float | None = None
    reference_energies: dict[str, float] = field(default_factory=dict)
    pooling: Literal["sum", "mean"] = "sum"
    check_consistency: bool = True
    simulate: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("valid_fraction", "test_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0 and less than 1")
        if self.valid_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"valid_fraction={self.valid_fraction} and test_fraction={self.test_fraction} leave nothing to train on"
            )
        if self.cutoff is not None and not 0.5 <= self.cutoff <= 30:
            raise ValueError(f"cutoff={self.cutoff} must lie between 0.5 and 30 Å")
        if self.train_frames is not None and self.train_frames < 1:
            raise ValueError(f"train_frames={self.train_frames} must be at least 1")
        if self.energy is None and self.forces is None and self.stress is None and not self.properties:
            raise ValueError("energy, forces, stress and properties are all empty: there is nothing to learn")
        own = self.source in ("simulate", "store")
        if own and (self.valid_paths or self.test_paths):
            raise ValueError(f"source={self.source} brings its own splits; leave valid_paths and test_paths empty")
