"""Crystals by name, and which of them training data call for."""

import numpy as np
import pytest

from surrogate.atomistic.prototypes import STRUCTURES, choose_crystals, crystal, find_crystals
from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.elements import atomic_numbers
from surrogate.models.neighbors import neighbor_list

# Neighbours of the first atom and their distance in lattice constants.
COORDINATION = {
    "Cu-fcc": (12, np.sqrt(0.5)), "Fe-bcc": (8, np.sqrt(0.75)), "Mg-hcp": (12, 1.0), "Si-diamond": (4, np.sqrt(3) / 4),
    "MgO-rocksalt": (6, 0.5), "SiC-zincblende": (4, np.sqrt(3) / 4), "CsCl-cscl": (8, np.sqrt(0.75)),
    "Cu3Au-L12-3.75": (12, np.sqrt(0.5)), "CuAu-L10-3.9": (12, np.sqrt(0.5)),
}  # fmt: skip
CONSTANT = {"Cu-fcc": 3.61, "Fe-bcc": 2.87, "Mg-hcp": 3.21, "Si-diamond": 5.43, "MgO-rocksalt": 4.21, "SiC-zincblende": 4.35,
            "CsCl-cscl": 4.12, "Cu3Au-L12-3.75": 3.75, "CuAu-L10-3.9": 3.9}  # fmt: skip


@pytest.mark.parametrize("name", COORDINATION)
def test_structures_have_their_coordination(name):
    found = crystal(name)
    count, distance = COORDINATION[name]
    frame = found.frame
    for factor, expected in ((0.99, 0), (1.01, count)):
        reach = factor * distance * CONSTANT[name]
        pairs = neighbor_list(frame.positions, frame.cell[0], frame.pbc[0], reach)
        assert set(pairs.counts(frame.num_atoms)) == {expected}
    assert np.linalg.det(frame.cell[0]) > 0


def test_all_structures_are_covered():
    assert {name.split("-")[1] for name in COORDINATION} == set(STRUCTURES)


def test_points_of_the_zone_lie_where_they_should():
    """Half a reciprocal lattice vector from Γ, but for points such as K: X of fcc is (0, ½, ½) of the primitive vectors."""
    points = {name: at for segment in crystal("Cu-fcc").path for name, at in segment}
    np.testing.assert_allclose(points["L"], 0.5)
    np.testing.assert_allclose(crystal("Cu-fcc").path[0][1][1], [0, 0.5, 0.5])
    points = {name: at for segment in crystal("Fe-bcc").path for name, at in segment}
    np.testing.assert_allclose(points["H"], [-0.5, 0.5, 0.5])
    np.testing.assert_allclose(points["P"], 0.25)


def test_which_element_is_where_does_not_depend_on_the_order_of_the_formula():
    for name in ("Cu3Au-L12", "AuCu3-L12"):
        assert list(crystal(name).frame.species) == [79, 29, 29, 29]
    # Zen's law: the volumes of the elements add up.
    assert crystal("Cu3Au-L12").frame.volume[0] == pytest.approx((3 * 3.61**3 + 4.08**3) / 4)
    assert crystal("Li-fcc").frame.volume[0] == pytest.approx(3.49**3 / 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("copper", "'copper' is not a name such as Cu-fcc"),
        ("Cu-foo", "the structures are fcc, bcc"),
        ("CuAu-fcc", "'CuAu-fcc': the structure fcc has elements in the ratio 1"),
        ("CuAu-L12", "elements in the ratio 1:3"),
        ("Xx-fcc-3", "atom 0 is 'Xx', which is not a chemical symbol"),
        ("cu-fcc", "'cu' is not a formula"),
        ("H-fcc", "the lattice constant of 'H-fcc' is not known here; give it in Å: H-fcc-4.2"),
        ("NaI-rocksalt", "give it in Å: NaI-rocksalt-4.2"),
    ],
)
def test_wrong_names_are_sentences(name, message):
    with pytest.raises(UserError, match=message):
        crystal(name)


def frames_of(*formulas, periodic=True):
    species = [atomic_numbers(f.split(), "here") for f in formulas]
    sizes = np.array([len(s) for s in species])
    rng = np.random.default_rng(0)
    n = len(formulas)
    return Frames(
        rng.uniform(0, 9, (sizes.sum(), 3)), np.concatenate(species), np.tile(9 * np.eye(3), (n, 1, 1)),
        np.full((n, 3), periodic), sizes,
    )  # fmt: skip


def test_training_data_call_for_crystals_of_their_compositions():
    data = frames_of("Cu", "Cu Cu", "Au Au Au", "Cu Au Cu Cu", "Au Cu", "Cu Cu Au")
    assert find_crystals(data) == ("Cu-fcc", "Au-fcc", "CuAu-L10", "Cu3Au-L12")
    assert find_crystals(data, most=2) == ("Cu-fcc", "Au-fcc")
    assert find_crystals(frames_of("Mg O", "Mg O Mg O")) == ("MgO-rocksalt",)
    assert find_crystals(frames_of("Cu Au Au")) == ()  # copper as a part of something says nothing about copper
    assert find_crystals(frames_of("Cu", periodic=False)) == ()
    assert find_crystals(frames_of("O H H")) == ()


def test_names_are_checked_before_training():
    data = frames_of("Cu")
    assert choose_crystals(("auto",), data) == ("Cu-fcc",)
    assert choose_crystals(("Cu-fcc", "auto", "Cu-bcc"), data) == ("Cu-fcc", "Cu-bcc")
    assert choose_crystals((), data) == ()
    with pytest.raises(UserError, match="Cu-foo"):
        choose_crystals(("auto", "Cu-foo"), data)
