"""The pictures of a run with atoms, from plain arrays, with their captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surrogate.run.plots.crystals import PhononBands, StateCurves, phonon_bands, state_equations
from surrogate.run.plots.dynamics import Conservation, RadialDistribution, conservation, radial_distributions
from surrogate.run.plots.parity import Parity, parity
from surrogate.run.plots.uncertainty import Uncertainty, uncertainty
from surrogate.run.style import Picture


@dataclass(frozen=True)
class AtomsPictures:
    """Array data for the pictures of atoms; what is empty is not drawn."""

    parity: Sequence[Parity] = ()
    uncertainty: Sequence[Uncertainty] = ()
    equations_of_state: Sequence[StateCurves] = ()
    phonons: Sequence[PhononBands] = ()
    dynamics: Sequence[Conservation] = ()
    radial: Sequence[RadialDistribution] = ()

    @staticmethod
    def of(arrays: Mapping[str, Any]) -> AtomsPictures:
        """From what a domain gives: the field's name → a list of keyword arguments.

        Raises:
            TypeError: for a name that is no field, or wrong keywords: a mistake of the domain, not of a person.
        """
        kinds: dict[str, Any] = {
            "parity": Parity, "uncertainty": Uncertainty, "equations_of_state": StateCurves, "phonons": PhononBands,
            "dynamics": Conservation, "radial": RadialDistribution,
        }  # fmt: skip
        if unknown := set(arrays) - set(kinds):
            raise TypeError(f"there are no pictures of {', '.join(sorted(unknown))}, only of {', '.join(kinds)}")
        return AtomsPictures(**{name: [kinds[name](**item) for item in items] for name, items in arrays.items()})


def draw_atoms(pictures: AtomsPictures, split: str, write: Callable[[str, Picture, str], None]) -> None:
    """Draw everything there is, in the order of a report.

    Args:
        split: that the predictions are of, for the captions.
        write: takes a file's name, the figure and its caption.
    """
    if pictures.parity:
        energy = any(p.key == "energy_per_atom" for p in pictures.parity)
        beyond = " Energies are what is left after the constant energies of the species." if energy else ""
        caption = f"Predictions against the {split} split, and the residuals on a logarithmic scale.{beyond}"
        write("parity", parity(pictures.parity), caption)
    if pictures.uncertainty:
        caption = (
            "Error against the uncertainty that the ensemble predicted, in bins of equal number. On the line the two agree; "
            "above it the ensemble is too sure of itself."
        )
        write("uncertainty", uncertainty(pictures.uncertainty), caption)
    if pictures.equations_of_state:
        caption = (
            "Energy against volume, each method's counted from its own minimum (dotted), with the Birch–Murnaghan fit; "
            "V in Å³/atom, bulk modulus B in GPa."
        )
        write("equations_of_state", state_equations(pictures.equations_of_state), caption)
    if pictures.phonons:
        caption = (
            "Phonon dispersion of the relaxed crystals. Below zero: imaginary frequencies, the crystal is unstable."
        )
        write("phonons", phonon_bands(pictures.phonons), caption)
    if pictures.dynamics:
        caption = (
            "Molecular dynamics at constant energy with the surrogate: how far the total energy moves, and the temperature. "
            "The drift is the slope of the dashed line."
        )
        write("dynamics", conservation(pictures.dynamics), caption)
    if pictures.radial:
        caption = "Radial distribution function in molecular dynamics with the surrogate, and in the reference."
        write("radial_distribution", radial_distributions(pictures.radial), caption)
