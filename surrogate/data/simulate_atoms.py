"""Data without a download: molecular dynamics of a copper–gold alloy, simulated once and kept as ragged NetCDF.

Energies, forces and stresses are those of effective medium theory, a many-body potential for face-centred cubic metals:

    K. W. Jacobsen, P. Stoltze and J. K. Nørskov, 1996: A semi-empirical effective medium theory for metals and
    alloys. Surface Science 366, 394–402.

as ASE implements it (``ase.calculators.emt``; the ``materials`` extra, imported only when there is something to
simulate). Two kinds of trajectories, each with a composition, a volume and a strain of its own:

* ``md``: a cube of 2 × 2 × 2 face-centred cells (32 atoms) with the elements shuffled over the sites, at one of several
  temperatures, in the canonical ensemble. Frames are 50 fs apart, after 0.3 ps of equilibration from the ideal lattice.
* ``lattice``: the ordered and pure lattices Cu, Cu₃Au, CuAu, CuAu₃ and Au in cubes of 4 atoms at volumes from −20% to
  +25%, strained at random and with small random displacements: what an equation of state and elastic constants probe.

Frames of a trajectory resemble each other, so whole trajectories are for training, validation or test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_ase import needs_ase
from surrogate.data.atoms_checks import check_frames
from surrogate.data.atoms_ragged import SPLITS, write_file
from surrogate.data.atoms_units import from_voigt
from surrogate.data.cache import cache_directory, write_once
from surrogate.data.elements import atomic_numbers

Progress = Callable[[float, float], None]

# Raised whenever the numbers in the file or their meaning change, so that an old file is not taken for a new one.
FORMAT_VERSION = 1
# Å, zero-temperature lattice constants of EMT for the pure metals; an alloy is given the mean (Vegard's law).
_LATTICE = {"Al": 3.99, "Cu": 3.59, "Ag": 4.06, "Au": 4.06, "Ni": 3.49, "Pd": 3.88, "Pt": 3.92}
_KB = 8.617333262e-5  # eV/K
_ACCELERATION = 9.648533212331e-3  # Å/fs² of 1 eV/Å on 1 u
_FRICTION = 0.02  # 1/fs: strong, since correlated frames are of no use and dynamics are not what is learnt
_SITES = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
_ORDERED = ((0, 0, 0, 0), (1, 0, 0, 0), (1, 1, 0, 0), (0, 1, 1, 1), (1, 1, 1, 1))  # which element is on which site


@dataclass(frozen=True)
class AlloyConfig:
    """What is simulated.

    Attributes:
        elements: two of Al, Cu, Ag, Au, Ni, Pd, Pt.
        size: face-centred cells along each edge; 2 are 32 atoms.
        trajectories, valid_trajectories, test_trajectories: how many of molecular dynamics.
        frames: of each of them.
        interval: steps between frames.
        equilibration: steps before the first.
        time_step: fs.
        temperatures: K; the trajectories take turns.
        volume_range: relative change of the volume from that of the ideal lattice, lowest and highest.
        strain: largest component of the random strain that a trajectory's cell carries, volume aside.
        lattices: configurations of each ordered lattice for training; validation and test have a quarter each.
        seed: decides everything. The same seed with the same versions of ASE and NumPy gives the same configurations
            up to rounding; after a few ps of dynamics rounding has grown into another trajectory of the same ensemble.
    """

    elements: tuple[str, str] = ("Cu", "Au")
    size: int = 2
    trajectories: int = 16
    valid_trajectories: int = 3
    test_trajectories: int = 4
    frames: int = 25
    interval: int = 10
    equilibration: int = 60
    time_step: float = 5.0
    temperatures: tuple[float, ...] = (300.0, 600.0, 900.0, 1200.0)
    volume_range: tuple[float, float] = (-0.08, 0.1)
    strain: float = 0.03
    lattices: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("size", 1, 6), ("trajectories", 1, 10_000), ("valid_trajectories", 1, 10_000),
            ("test_trajectories", 1, 10_000), ("frames", 1, 100_000), ("interval", 1, 10_000),
            ("equilibration", 0, 1_000_000), ("lattices", 0, 10_000), ("seed", 0, 2**63 - 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise UserError(f"data.simulate.{name}={value!r} must be a whole number from {low} to {high}")
        if unknown := [e for e in self.elements if e not in _LATTICE]:
            raise UserError(f"data.simulate.elements: EMT knows {', '.join(_LATTICE)}, not {unknown[0]!r}")
        if len(self.elements) != 2 or self.elements[0] == self.elements[1]:
            raise UserError(f"data.simulate.elements={list(self.elements)} must be two different elements")
        if not self.temperatures or not all(0 < t <= 3000 for t in self.temperatures):
            raise UserError(f"data.simulate.temperatures={list(self.temperatures)} must be above 0 and at most 3000 K")
        if not 0 < self.time_step <= 8:
            raise UserError(f"data.simulate.time_step={self.time_step} must be above 0 and at most 8 fs")
        if not -0.3 <= self.volume_range[0] <= self.volume_range[1] <= 0.4:
            raise UserError(f"data.simulate.volume_range={list(self.volume_range)} must lie between -0.3 and 0.4")
        if not 0 <= self.strain <= 0.1:
            raise UserError(f"data.simulate.strain={self.strain} must lie between 0 and 0.1")

    @property
    def file_name(self) -> str:
        """Readable, and with a hash of everything that decides the numbers."""
        digest = hashlib.sha256(f"{_settings(self)} {FORMAT_VERSION}".encode()).hexdigest()[:12]
        return f"emt-{''.join(self.elements)}-{4 * self.size**3}atoms-seed{self.seed}-{digest}.nc"

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Per split: trajectories of molecular dynamics, and configurations of each ordered lattice."""
        few = -(-self.lattices // 4)
        return {
            "train": (self.trajectories, self.lattices),
            "valid": (self.valid_trajectories, few),
            "test": (self.test_trajectories, few),
        }


def simulate_alloy(
    config: AlloyConfig | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """The data of ``config``: from the cache, or simulated now and put there. Read it with ``read_splits``.

    The file appears under its name only when it is whole. A second process that asks for the same data meanwhile
    waits and uses the first one's.

    Args:
        progress: called as ``progress(frames done, frames in all)``; never when the file is there.

    Raises:
        UserError: without ASE, for a directory that cannot be written, a full disk, or a damaged file in the cache.
    """
    config = config or AlloyConfig()
    return write_once(
        cache_directory(cache_dir) / config.file_name,
        check=lambda path: _check(path, config),
        prepare=_EMT,
        write=lambda path, potential: _write(path, config, potential, progress),
        what="alloy",
    )


def _settings(config: AlloyConfig) -> str:
    """All settings as text, the same for 4 and 4.0."""
    settings = asdict(config)
    settings["time_step"] = float(config.time_step)
    settings["strain"] = float(config.strain)
    for name in ("temperatures", "volume_range"):
        settings[name] = [float(v) for v in settings[name]]
    return json.dumps(settings, sort_keys=True)


def _check(path: Path, config: AlloyConfig) -> None:
    import h5netcdf

    try:
        with h5netcdf.File(path, "r") as file:
            found = file.attrs.get("surrogate_settings")
    except (OSError, KeyError, RuntimeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it to simulate it again") from None
    if found != _settings(config):
        raise UserError(f"{path} holds {found}, not {_settings(config)}; delete it to simulate it again")


def _write(path: Path, config: AlloyConfig, potential: _EMT, progress: Progress | None) -> None:
    total = sum(md * config.frames + 5 * lattices for md, lattices in config.counts.values())
    done = 0
    parts: list[Frames] = []
    split: list[int] = []
    for name, (md, lattices) in config.counts.items():
        for number in range(md):
            parts.append(_dynamics(config, potential, name, number))
            done += config.frames
            if progress:
                progress(done, total)
            split += [SPLITS.index(name)] * len(parts[-1])
        if lattices:
            parts.append(_lattices(config, potential, name, lattices))
            done += 5 * lattices
            if progress:
                progress(done, total)
            split += [SPLITS.index(name)] * len(parts[-1])
    frames = check_frames(Frames.concat(parts))
    attrs = {
        "title": f"molecular dynamics of {'-'.join(config.elements)} with effective medium theory",
        "institution": "none: simulated on the computer that reads it",
        "source": f"ase.calculators.emt of ASE {potential.version}",
        "references": "https://doi.org/10.1016/0039-6028(96)00816-3",
        "history": f"surrogate.data.simulate_atoms.simulate_alloy({config!r}), format {FORMAT_VERSION}",
        "surrogate_settings": _settings(config),
    }
    write_file(path, frames, np.array(split, np.int8), attrs)


class _EMT:
    """Energy (eV), forces (eV/Å) and stress (3, 3) (eV/Å³) of periodic configurations."""

    def __init__(self) -> None:
        try:
            import ase
            from ase import Atoms
            from ase.calculators.emt import EMT
        except ImportError as error:
            raise needs_ase("simulating an alloy", error) from None
        self.version = ase.__version__
        self._make: Any = lambda **kwargs: Atoms(**kwargs, pbc=True, calculator=EMT())
        self._atoms: Any = None

    def start(self, numbers: np.ndarray, cell: np.ndarray) -> None:
        self._atoms = self._make(numbers=numbers, cell=cell)

    def forces(self, positions: np.ndarray) -> np.ndarray:
        self._atoms.positions = positions
        return np.array(self._atoms.get_forces())

    def labels(self) -> tuple[float, np.ndarray]:
        """Energy and stress of what :meth:`forces` was last asked for."""
        stress = np.asarray(self._atoms.get_stress(voigt=True))
        return float(self._atoms.get_potential_energy()), from_voigt(stress[None])[0]


def _cell(config: AlloyConfig, rng: np.random.Generator, size: int, fraction: float, change: float) -> np.ndarray:
    """A cube of the alloy's lattice constant, with its volume changed and a random strain without change of volume."""
    a, b = (_LATTICE[e] for e in config.elements)
    edge = size * ((1 - fraction) * a + fraction * b) * (1 + change) ** (1 / 3)
    strain = rng.uniform(-config.strain, config.strain, (3, 3))
    deformation = np.eye(3) + (strain + strain.T) / 2
    return edge * deformation / np.cbrt(np.linalg.det(deformation))


def _rng(config: AlloyConfig, split: str, kind: int, number: int) -> np.random.Generator:
    """A stream of its own for each trajectory: more of them leave the others as they are."""
    return np.random.default_rng([config.seed, SPLITS.index(split), kind, number])


def _dynamics(config: AlloyConfig, potential: _EMT, split: str, number: int) -> Frames:
    rng = _rng(config, split, 0, number)
    size = config.size
    cells = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    fractional = ((cells + _SITES) / size).reshape(-1, 3)
    num = len(fractional)
    # Multiples of the golden ratio fill the range of compositions evenly however many trajectories there are.
    offset = np.random.default_rng([config.seed, SPLITS.index(split)]).uniform()
    second = int((offset + 0.6180339887498949 * number) % 1 * (num + 1))
    kinds = rng.permutation(np.arange(num) < second).astype(int)
    numbers = atomic_numbers(list(config.elements), "data.simulate.elements")[kinds]
    temperature = float(config.temperatures[number % len(config.temperatures)])
    cell = _cell(config, rng, size, second / num, float(rng.uniform(*config.volume_range)))
    potential.start(numbers, cell)
    positions, forces, energies, stresses = [], [], [], []
    for place, force in _langevin(config, potential, numbers, fractional @ cell, temperature, rng):
        energy, stress = potential.labels()
        positions.append(place)
        forces.append(force)
        energies.append(energy)
        stresses.append(stress)
    first, last = config.elements
    name = f"{split}/md-{number:03d} {first}{num - second}{last}{second} {temperature:g} K"
    return _frames(positions, forces, energies, stresses, [numbers] * len(positions), [cell] * len(positions), name)


def _langevin(
    config: AlloyConfig, potential: _EMT, numbers: np.ndarray, positions: np.ndarray, temperature: float,
    rng: np.random.Generator,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """Positions and forces of every frame that is kept, in the canonical ensemble.

    The BAOAB splitting of Langevin dynamics: B. Leimkuhler and C. Matthews, 2013: Rational construction of stochastic
    numerical methods for molecular sampling. Applied Mathematics Research eXpress 2013, 34–56.
    """
    from ase.data import atomic_masses

    mass = atomic_masses[numbers][:, None]
    step = config.time_step
    thermal = np.sqrt(_KB * temperature / mass * _ACCELERATION)  # Å/fs
    # Starting on the ideal lattice, half of the energy goes into displacements; at twice the temperature none is missing.
    velocity = np.sqrt(2) * thermal * rng.standard_normal(positions.shape)
    keep, kick = np.exp(-_FRICTION * step), np.sqrt(-np.expm1(-2 * _FRICTION * step))
    force = potential.forces(positions)
    for count in range(1, config.equilibration + config.frames * config.interval + 1):
        velocity = velocity + 0.5 * step * _ACCELERATION * force / mass
        positions = positions + 0.5 * step * velocity
        velocity = keep * velocity + kick * thermal * rng.standard_normal(positions.shape)
        positions = positions + 0.5 * step * velocity
        force = potential.forces(positions)
        velocity = velocity + 0.5 * step * _ACCELERATION * force / mass
        after = count - config.equilibration
        if after > 0 and after % config.interval == 0:
            yield positions, force


def _lattices(config: AlloyConfig, potential: _EMT, split: str, count: int) -> Frames:
    positions, forces, energies, stresses, species, cells = [], [], [], [], [], []
    elements = atomic_numbers(list(config.elements), "data.simulate.elements")
    for which, sites in enumerate(_ORDERED):
        for number in range(count):
            rng = _rng(config, split, 1 + which, number)
            # Stratified over the range of volumes, so that a few are enough for the whole equation of state.
            change = -0.2 + 0.45 * (number + rng.uniform()) / count
            cell = _cell(config, rng, 1, sum(sites) / 4, change)
            place = _SITES @ cell
            if number % 2:  # every other one ideal: forces zero by symmetry, and the stress alone to learn from
                place = place + rng.normal(0, 0.05, place.shape)
            potential.start(elements[list(sites)], cell)
            forces.append(potential.forces(place))
            energy, stress = potential.labels()
            positions.append(place)
            energies.append(energy)
            stresses.append(stress)
            species.append(elements[list(sites)])
            cells.append(cell)
    return _frames(positions, forces, energies, stresses, species, cells, f"{split}/lattice")


def _frames(positions, forces, energies, stresses, species, cells, name: str) -> Frames:
    num = len(positions)
    return Frames(
        np.concatenate(positions), np.concatenate(species), np.array(cells), np.ones((num, 3), bool),
        np.array([len(s) for s in species]), np.array(energies), np.concatenate(forces), np.array(stresses),
        groups=(name,), labels={
            "energy": "EMT energy [eV]", "forces": "EMT forces [eV/angstrom]",
            "stress": "EMT stress [eV/angstrom^3], stress, positive under tension (ASE, ABINIT)",
        },
    )  # fmt: skip


def reference_calculator() -> Any:
    """A calculator of ASE by the method that the labels are of.

    Raises:
        UserError: without ASE.
    """
    try:
        from ase.calculators.emt import EMT
    except ImportError as error:
        raise needs_ase("effective medium theory", error) from None
    return EMT()
