"""What a potential says of crystals, beside the method that made its data: numbers for the summary, arrays for pictures.

Each method relaxes the crystal for itself, so that a surrogate is not excused by the other's lattice constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from surrogate.atomistic.elastic import Elastic, elastic_constants
from surrogate.atomistic.phonons import Dispersion, ForceConstants, dispersion, force_constants
from surrogate.atomistic.predict import Predictor
from surrogate.atomistic.prototypes import Crystal, crystal
from surrogate.atomistic.relax import relax
from surrogate.atomistic.state_equation import StateEquation, equation_of_state
from surrogate.core.types import UserError

# What stands in the summary of a crystal, with its units.
UNITS = {
    "volume": "Å³/atom", "lattice_constant": "Å", "axis_ratio": "1", "energy": "eV/atom", "bulk_modulus": "GPa",
    "bulk_modulus_derivative": "1", "C11": "GPa", "C12": "GPa", "C13": "GPa", "C33": "GPa", "C44": "GPa", "C66": "GPa",
    "highest_phonon": "THz",
}  # fmt: skip


@dataclass(frozen=True)
class Probed:
    """One crystal by one method."""

    crystal: Crystal  # relaxed
    state: StateEquation
    elastic: Elastic
    constants: ForceConstants
    phonons: Dispersion

    def numbers(self) -> dict[str, float]:
        """Property → value in the units of :data:`UNITS`."""
        cell = self.crystal.frame.cell[0]
        size = self.crystal.frame.num_atoms
        volume = float(self.crystal.frame.volume[0])
        found = {"volume": volume / size}
        if self.crystal.system == "cubic":
            # The primitive cell of the cube has a quarter, a half or all of its volume, as its angles tell.
            found["lattice_constant"] = float(np.cbrt(_CELLS_IN_CUBE[_angle(cell)] * volume))
        else:
            found["lattice_constant"] = float(np.linalg.norm(cell[0]))
            found["axis_ratio"] = float(np.linalg.norm(cell[2]) / np.linalg.norm(cell[0]))
        found |= {
            "energy": self.state.energy, "bulk_modulus": self.state.bulk_modulus,
            "bulk_modulus_derivative": self.state.bulk_modulus_derivative, **self.elastic.constants(self.crystal.system),
            "highest_phonon": float(max(f.max() for f in self.phonons.frequencies)),
        }  # fmt: skip
        return found


_CELLS_IN_CUBE = {60: 4, 109: 2, 90: 1}


def _angle(cell: np.ndarray) -> int:
    """Degrees between the first two vectors, whole."""
    cosine = cell[0] @ cell[1] / (np.linalg.norm(cell[0]) * np.linalg.norm(cell[1]))
    return min(_CELLS_IN_CUBE, key=lambda known: abs(known - np.degrees(np.arccos(cosine))))


def probe(predictor: Predictor, which: Crystal | str) -> Probed:
    """Relax a crystal; its equation of state, elastic constants and phonons.

    Raises:
        UserError: for an unknown name, or when the potential does not hold the crystal together.
    """
    start = crystal(which) if isinstance(which, str) else which
    relaxed, _ = relax(predictor, start.frame)
    state = equation_of_state(predictor, relaxed)
    elastic = elastic_constants(predictor, relaxed)
    constants = force_constants(predictor, relaxed)
    return Probed(replace(start, frame=relaxed), state, elastic, constants, dispersion(constants, start.path))


def probe_crystals(
    predictor: Predictor, names: Sequence[str], reference: Predictor | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """All crystals of ``names``: for ``Evaluation.extra["crystals"]``, and for ``Evaluation.pictures["atoms"]``.

    The first is name → ``{"properties": {property: {"surrogate", "reference", "units"}}, "phonons": {point: {"surrogate":
    [THz], "reference": [THz]}}, "phonon_rmse": THz, "notes": [...]}``; without a reference the numbers ``reference`` and
    the difference of the frequencies (root mean square over a mesh of wave vectors) are left out. A method that does
    not hold a crystal together is a result: its numbers are missing and the note says why.

    Raises:
        UserError: for a name that is no crystal.
    """
    table: dict[str, Any] = {}
    curves: list[dict[str, Any]] = []
    bands: list[dict[str, Any]] = []
    crystals = [crystal(name) for name in names]
    for start in crystals:
        notes: list[str] = []
        found: dict[str, Probed] = {}
        for method, by in (("surrogate", predictor), ("reference", reference)):
            if by is None:
                continue
            try:
                found[method] = probe(by, start)
            except UserError as error:
                notes.append(f"{method}: {error}")
        for method, probed in found.items():
            if not probed.elastic.stable:
                notes.append(f"{method}: elastically unstable, a strain of the relaxed crystal lowers its energy")
            if probed.phonons.lowest < -0.1:
                notes.append(f"{method}: dynamically unstable, the lowest phonon is at {probed.phonons.lowest:.2f} THz")
        numbers = {method: probed.numbers() for method, probed in found.items()}
        properties = {
            name: {method: values[name] for method, values in numbers.items() if name in values} | {"units": units}
            for name, units in UNITS.items()
            if any(name in values for values in numbers.values())
        }
        points = {
            point: {method: _snapped(probed.phonons.points[point]) for method, probed in found.items()}
            for point in (next(iter(found.values())).phonons.points if found else ())
        }
        table[start.name] = {"properties": properties, "phonons": points, "notes": notes}
        if len(found) == 2:
            mesh = [p.constants.frequencies(_mesh()) for p in found.values()]
            table[start.name]["phonon_rmse"] = float(np.sqrt(np.mean((mesh[0] - mesh[1]) ** 2)))
        if found:
            curves.append({"name": start.name} | {method: _curve(p.state) for method, p in found.items()})
            bands.append({"name": start.name} | {method: _bands(p.phonons) for method, p in found.items()})
    return table, {"equations_of_state": curves, "phonons": bands}


def _mesh(count: int = 6) -> np.ndarray:
    """(count³, 3) wave vectors, evenly through the zone; none is Γ, where three branches are zero for everyone."""
    axis = (np.arange(count) + 0.5) / count
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def _snapped(frequencies: np.ndarray) -> list[float]:
    """THz; roundings of zero are zero."""
    return np.where(np.abs(frequencies) < 1e-4, 0.0, frequencies).tolist()


def _curve(state: StateEquation) -> dict[str, Any]:
    fine = np.linspace(state.volumes.min(), state.volumes.max(), 101)
    return {
        "volumes": state.volumes, "energies": state.energies, "fit_volumes": fine, "fit_energies": state(fine),
        "volume": state.volume, "energy": state.energy, "bulk_modulus": state.bulk_modulus,
    }  # fmt: skip


def _bands(phonons: Dispersion) -> dict[str, Any]:
    return {
        "distance": list(phonons.distance), "frequencies": list(phonons.frequencies), "labels": list(phonons.labels)
    }  # fmt: skip
