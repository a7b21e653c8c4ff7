"""Pictures and report sections of atoms hold the numbers they were given and hide nothing."""

import numpy as np
import pytest

from surrogate.core.types import UserError
from surrogate.run.plots import (
    AtomsPictures,
    Conservation,
    Parity,
    PhononBands,
    Pictures,
    RadialDistribution,
    StateCurves,
    Uncertainty,
    conservation,
    parity,
    phonon_bands,
    radial_distributions,
    state_equations,
    training,
    uncertainty,
    write_plots,
)
from surrogate.run.report_atoms import crystals_section, dynamics_section, uncertainty_section
from surrogate.run.scores import verdict


def texts(ax):
    return " ".join(text.get_text() for text in ax.texts)


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_parity_shows_points_by_element_and_their_residuals():
    truth = np.linspace(-1, 1, 60)
    names = np.array(["Cu", "Au"] * 30)
    above, below = parity([Parity("forces", "eV/Å", truth, truth + 0.1, names)]).axes
    np.testing.assert_array_equal(lines(above)["Cu"].get_xdata(), truth[::2])
    np.testing.assert_allclose(lines(above)["Au"].get_ydata(), truth[1::2] + 0.1)
    assert "60 values\nRMSE 0.100 eV/Å\nMAE 0.100 eV/Å" in texts(above)
    assert above.get_xlim() == above.get_ylim()
    assert below.get_yscale() == "log"
    assert below.get_xlabel() == "predicted − true (eV/Å)"


def test_parity_of_many_points_is_a_density_and_counts_what_lies_outside():
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1, 5000)
    predicted = truth.copy()
    predicted[:3] = [1e6, np.nan, -1e6]
    figure = parity([Parity("energy_per_atom", "eV/atom", truth, predicted)])
    above, below = figure.axes[:2]
    assert int(np.sum(above.collections[0].get_array())) == 4997
    assert "3 outside or not finite" in texts(above)
    assert "RMSE NaN" in texts(above)
    assert below.get_xlabel() == "predicted − true (meV/atom)"
    with pytest.raises(UserError, match="parity of 'forces': predicted has shape"):
        Parity("forces", "eV/Å", truth, truth[1:])


def test_uncertainty_is_drawn_on_one_scale():
    spread = np.array([0.01, 0.02, 0.04])
    (ax,) = uncertainty([Uncertainty("forces", "eV/Å", spread, 2 * spread, 2.0, 0.5)]).axes
    np.testing.assert_array_equal(lines(ax)["bins of equal number"].get_ydata(), 2 * spread)
    assert ax.get_xlim() == ax.get_ylim()
    assert "error / spread 2.00\nSpearman 0.500" in texts(ax)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (2e-3, 2.2e-2, ["0.002", "0.005", "0.01", "0.02"]),
        (3e-5, 2e-1, ["10⁻⁴", "10⁻³", "10⁻²", "10⁻¹"]),
        (2.4, 6.5, ["3", "4", "5", "6"]),
    ],
)
def test_logarithmic_axes_are_labelled_in_plain_text(low, high, expected):
    """Not in mathematics, which is switched off for names: the labels would be its source."""
    spread = np.geomspace(1.4 * low, high / 1.4, 5)
    figure = uncertainty([Uncertainty("forces", "eV/Å", spread, spread, 1.0, 1.0)])
    figure.canvas.draw()
    (ax,) = figure.axes
    for labels in (ax.get_xticklabels(), ax.get_yticklabels(), ax.get_xticklabels(minor=True)):
        assert [label.get_text() for label in labels if label.get_text()] in (expected, [])


def curve(volume):
    volumes = np.linspace(0.94, 1.06, 5) * volume
    energies = 0.1 * (volumes - volume) ** 2 - 3
    return {
        "volumes": volumes, "energies": energies, "fit_volumes": volumes, "fit_energies": energies, "volume": volume,
        "energy": -3.0, "bulk_modulus": 134.0,
    }  # fmt: skip


def bands(scale, low=0.0):
    distance = [np.array([0.0, 0.1, 0.2]), np.array([0.2, 0.3])]
    return {
        "distance": [scale * d for d in distance], "frequencies": [np.array([[low], [2.0], [3.0]]), np.array([[3.0], [0.0]])],
        "labels": [(0.0, "Γ"), (0.2 * scale, "X"), (0.2 * scale, "K"), (0.3 * scale, "Γ")],
    }  # fmt: skip


def test_equations_of_state_count_from_their_own_minimum():
    (ax,) = state_equations([StateCurves("Cu-fcc", curve(11.6), curve(11.5))]).axes
    drawn = [line for line in ax.get_lines() if len(line.get_xdata()) == 5]
    assert len(drawn) == 4  # curve and points of both
    assert min(drawn[0].get_ydata()) == pytest.approx(0, abs=1e-9)
    assert "surrogate: V 11.600, B 134" in texts(ax)
    with pytest.raises(UserError, match="no crystal to draw"):
        state_equations([StateCurves("Cu-fcc")])


def test_phonons_share_the_path_and_mark_what_is_unstable():
    (ax,) = phonon_bands([PhononBands("Cu-fcc", bands(1.1), bands(1.0))]).axes
    # The surrogate's longer path is drawn on the reference's length.
    ends = [line.get_xdata()[-1] for line in ax.get_lines() if list(line.get_ydata()) == [3.0, 0.0]]
    assert ends == pytest.approx([0.3, 0.3])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["Γ", "X|K", "Γ"]
    assert ax.get_ylim()[0] == 0
    (ax,) = phonon_bands([PhononBands("Cu-fcc", bands(1.0, low=-1.0))]).axes
    assert ax.get_ylim()[0] < -1


def test_dynamics_show_the_drift_and_where_it_broke():
    time = np.linspace(0, 10_000, 201)  # fs
    energy = -80 + 4 * 0.05e-6 * time  # eV of 4 atoms
    temperature = np.full(201, 300.0)
    above, below = conservation([Conservation("Cu", time, energy, temperature, 4, 310.0)]).axes
    assert "drift 0.0500 meV/atom/ps" in lines(above)
    assert "mean 300 K" in lines(below)
    assert "equilibrated at 310 K" in lines(below)
    energy[100:] = np.nan
    above, _ = conservation([Conservation("Cu", time, energy, temperature, 4)]).axes
    assert "not finite" in texts(above)
    with pytest.raises(UserError, match=r"dynamics of 'Cu': total_energy has shape \(3,\)"):
        Conservation("Cu", time, energy[:3], temperature, 4)


def test_radial_distributions_lie_over_each_other():
    r = np.linspace(0, 8, 50)
    (ax,) = radial_distributions([RadialDistribution("Cu–Cu", r, r / 8, r / 9, "EMT")]).axes
    np.testing.assert_array_equal(lines(ax)["surrogate"].get_ydata(), r / 8)
    np.testing.assert_array_equal(lines(ax)["EMT"].get_ydata(), r / 9)


def test_validation_scores_are_drawn_from_flat_keys():
    rows = [{"step": s, "loss": 1.0} for s in range(0, 50, 10)]
    rows += [{"step": s, "valid_loss": 2.0, "valid_force_rmse": 4.0 / s} for s in (10, 20)]
    _, scores = training(rows).axes
    np.testing.assert_allclose(lines(scores)["force rmse, last 0.200"].get_ydata(), [1, 0.5])


def test_all_pictures_are_written_with_captions(tmp_path):
    r = np.linspace(0, 8, 20)
    time = np.linspace(0, 1, 20)
    atoms = {
        "parity": [{"key": "forces", "units": "eV/Å", "truth": r, "predicted": r + 0.1}],
        "uncertainty": [
            {"key": "forces", "units": "eV/Å", "spread": r[1:], "error": r[1:], "factor": 1.0, "spearman": 0.5}
        ],
        "equations_of_state": [{"name": "Cu-fcc", "surrogate": curve(11.6)}],
        "phonons": [{"name": "Cu-fcc", "surrogate": bands(1.0), "reference": bands(1.0)}],
        "dynamics": [{"name": "Cu", "time": time, "total_energy": time, "temperature": 300 + time, "num_atoms": 4}],
        "radial": [{"name": "all", "distance": r, "surrogate": r}],
    }
    paths = write_plots(
        tmp_path, {"scores": {"valid": {"forces": {"rmse": 1.0}}}}, [], Pictures(atoms=AtomsPictures.of(atoms))
    )
    names = [path.stem for path in paths]
    assert names == [
        "skill_rmse",
        "parity",
        "uncertainty",
        "equations_of_state",
        "phonons",
        "dynamics",
        "radial_distribution",
    ]
    assert b"Predictions against the valid split" in paths[1].read_bytes()
    with pytest.raises(TypeError, match="no pictures of bands"):
        AtomsPictures.of({"bands": []})


def crystals():
    return {
        "Cu-fcc": {
            "properties": {
                "lattice_constant": {"surrogate": 3.6, "reference": 3.5898, "units": "Å"},
                "C44": {"surrogate": 81.0, "reference": 90.0, "units": "GPa"},
                "energy": {"surrogate": -3.51, "reference": -3.5, "units": "eV/atom"},
            },
            "phonons": {"X": {"surrogate": [5.0, 5.0, 8.0], "reference": [5.5, 5.5, 8.1]}},
            "phonon_rmse": 0.33,
            "notes": [],
        },
        "W-<b>": {"properties": {}, "phonons": {}, "notes": ["surrogate: the volume changed to 0.48 times <i>"]},
    }


def test_the_table_of_crystals_has_both_and_their_difference():
    html = crystals_section({"crystals": crystals()})
    assert "<th scope=row>lattice constant (Å)</th><td>3.6000</td><td>3.5898</td><td>+0.28 %</td>" in html
    assert "<th scope=row>C44 (GPa)</th><td>81.000</td><td>90.000</td><td>−10.00 %</td>" in html
    assert "<td>−0.0100</td>" in html  # energies are differences of arbitrary zeros: no percentage
    assert "<td>5.00 ×2, 8.00</td><td>5.50 ×2, 8.10</td><td>at most 0.500</td>" in html
    assert "RMS 0.330" in html
    assert "W-&lt;b&gt;" in html
    assert "<p class=loss>surrogate: the volume changed to 0.48 times &lt;i&gt;</p>" in html
    assert crystals_section({}) == ""


def test_a_crystal_without_reference_has_no_difference():
    found = crystals()
    for values in (*found["Cu-fcc"]["properties"].values(), *found["Cu-fcc"]["phonons"].values()):
        del values["reference"]
    html = crystals_section({"crystals": found})
    assert "reference" not in html
    assert "difference" not in html


def test_facts_of_dynamics_and_uncertainty_are_tables():
    html = dynamics_section(
        {"dynamics": {"drift": 0.0021, "atoms_lost": 0, "steps_per_s": None, "notes": ["it broke"]}}
    )
    assert "<th scope=row>drift of the energy (meV/atom/ps)</th><td>0.00210</td>" in html
    assert "<th scope=row>atoms lost</th><td>0</td>" in html
    assert "<p class=loss>it broke</p>" in html
    html = uncertainty_section(
        {"uncertainty": {"forces": {"factor": 1.1, "units": "eV/Å"}, "energy_per_atom": {"factor": 2.0}}}
    )
    assert "<th scope=col>energy per atom</th>" in html
    assert "<th scope=row>error / spread</th><td>1.10</td><td>2.00</td>" in html
    assert dynamics_section({}) == uncertainty_section({}) == ""


def test_the_verdict_has_words_for_atoms():
    scores = {k: {"mae": 1.0, "rmse": 2.0, "max_error": 9.0} for k in ("energy_per_atom", "forces", "stress")}
    constant = {k: {"mae": 10.0, "rmse": 20.0, "max_error": 90.0} for k in scores}
    found = verdict({"scores": {"test": scores}, "baselines": {"constant_energy": constant}})
    assert found.text == "RMSE is below constant energy for all 3 variables."
    assert found.level == "good"
