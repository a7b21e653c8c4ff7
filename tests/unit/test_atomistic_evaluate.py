"""Scores of atoms by hand, merged from chunks, and calibration of a spread whose truth is known."""

import numpy as np
import pytest

from surrogate.atomistic.calibration import calibration, reliability
from surrogate.atomistic.evaluate import evaluate_frames, score_predictions
from surrogate.atomistic.predict import Predicted
from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.metrics.atomistic import ErrorSums, ErrorTable, units_of

CU, AU = 29, 79


def two_frames(stress=True):
    """A CuAu pair with a stress and a lone copper atom without one."""
    labels = np.full((2, 3, 3), np.nan)
    labels[0] = 0.02 * np.eye(3)
    return Frames(
        np.arange(9.0).reshape(3, 3), np.array([CU, AU, CU]), np.array([4 * np.eye(3), np.zeros((3, 3))]),
        np.array([[True] * 3, [False] * 3]), np.array([2, 1]), energy=np.array([-6.0, -3.5]),
        forces=np.array([[0.3, 0, 0], [-0.3, 0, 0], [0, 0.6, 0]]), stress=labels if stress else None,
    )  # fmt: skip


def prediction(frames):
    stress = np.full((2, 3, 3), np.nan)
    stress[0] = 0.02 * np.eye(3) + 0.01 * (np.ones((3, 3)) - np.eye(3))
    wrong = np.array([[0.1, 0, 0], [0, 0.2, 0], [0, 0, 0]])
    return Predicted(frames.energy + np.array([0.02, -0.03]), frames.forces + wrong, stress, np.zeros(3))


def test_scores_are_those_worked_out_by_hand():
    frames = two_frames()
    scores, baselines, pictures = evaluate_frames(prediction, frames, {CU: -3.0, AU: -2.0})
    assert scores["energy_per_atom"]["mae"] == pytest.approx((10 + 30) / 2)  # 0.02 eV over 2 atoms, 0.03 over 1
    assert scores["energy_per_atom"]["rmse"] == pytest.approx(np.sqrt((100 + 900) / 2))
    assert scores["energy_per_atom"]["max_error"] == pytest.approx(30)
    assert scores["forces"]["mae"] == pytest.approx(0.3 / 9)
    assert scores["forces"]["rmse"] == pytest.approx(np.sqrt(0.05 / 9))
    assert scores["forces@Cu"]["rmse"] == pytest.approx(np.sqrt(0.01 / 6))
    assert scores["forces@Au"]["mae"] == pytest.approx(0.2 / 3)
    assert scores["stress"]["mae"] == pytest.approx(6 * 0.01 / 9)  # six of nine components are off
    constant = baselines["constant_energy"]
    assert constant["energy_per_atom"]["mae"] == pytest.approx((500 + 500) / 2)  # −5 for −6 of two atoms; −3 for −3.5
    assert constant["forces"]["rmse"] == pytest.approx(np.sqrt((0.09 + 0.09 + 0.36) / 9))
    assert constant["stress"]["mae"] == pytest.approx(3 * 0.02 / 9)
    assert list(scores) == list(constant) == ["energy_per_atom", "forces", "forces@Cu", "forces@Au", "stress"]
    assert units_of(scores)["forces@Au"] == "eV/Å"
    parity = {p["key"]: p for p in pictures["parity"]}
    np.testing.assert_allclose(parity["energy_per_atom"]["truth"], [-0.5, -0.5])  # beyond the constants, eV/atom
    assert list(parity["forces"]["groups"]) == ["Cu"] * 3 + ["Au"] * 3 + ["Cu"] * 3
    assert parity["stress"]["truth"].shape == (6,)


def test_only_labels_that_are_there_are_scored():
    frames = two_frames(stress=False)
    scores = score_predictions(prediction(frames), frames[[0, 1]], {CU: 0.0, AU: 0.0}).scores
    assert "stress" not in scores
    alone = frames[1]
    only = score_predictions(Predicted(alone.energy, alone.forces, np.full((1, 3, 3), np.nan), np.zeros(1)), alone,
                             np.zeros(100))  # fmt: skip
    assert list(only.scores) == ["energy_per_atom", "forces"]  # one element, so no forces@Cu
    with pytest.raises(UserError, match="no reference energy of Au, only of Cu"):
        score_predictions(prediction(frames), frames, {CU: 0.0})
    with pytest.raises(UserError, match="no frames to score"):
        evaluate_frames(prediction, frames[[]], {CU: 0.0})


def test_a_prediction_that_blew_up_has_no_score():
    frames = two_frames()

    def broken(f):
        found = prediction(f)
        found.forces[0, 0] = np.nan
        return found

    scores = evaluate_frames(broken, frames, {CU: 0.0, AU: 0.0}).scores
    assert all(np.isnan(v) for v in scores["forces"].values())
    assert np.isfinite(scores["forces@Au"]["rmse"])


def test_chunks_in_any_order_give_the_scores_of_the_whole():
    rng = np.random.default_rng(0)
    error = rng.standard_normal((100, 3))
    mask = rng.random(100) < 0.7
    whole, parts = ErrorTable(), [ErrorTable() for _ in range(3)]
    whole.add("forces", error, mask)
    whole.add("energy", error[:, 0])
    for i, part in enumerate(parts):
        part.add("forces", error[i::3], mask[i::3])
        part.add("energy", error[i::3, 0])
    merged = (parts[2] + parts[0] + parts[1]).scores()
    for variable, of in whole.scores().items():
        assert merged[variable] == pytest.approx(of, rel=1e-12)
    assert whole.scores()["forces"]["rmse"] == pytest.approx(np.sqrt(np.mean(error[mask] ** 2)))
    none = ErrorTable()
    none.add("stress", error, np.zeros(100, bool))
    assert none.scores() == {}
    assert np.isnan((ErrorSums.of(np.array([np.nan])) + ErrorSums.of(np.ones(2))).largest)


def test_calibration_finds_the_factor_that_the_spread_is_short_of():
    rng = np.random.default_rng(0)
    n, size = 400, 5
    sigma = np.exp(rng.normal(-3, 0.7, n * size))
    truth = rng.normal(0, 1, (n * size, 3))
    energy_sigma = np.exp(rng.normal(-4, 0.5, n))
    energy = rng.normal(0, 1, n)
    frames = Frames(
        rng.normal(0, 5, (n * size, 3)), np.full(n * size, CU), np.zeros((n, 3, 3)), np.zeros((n, 3), bool),
        np.full(n, size), energy=energy, forces=truth,
    )  # fmt: skip
    predicted = Predicted(
        energy + 2 * energy_sigma * rng.standard_normal(n), truth + 3 * sigma[:, None] * rng.standard_normal((n * size, 3)),
        np.full((n, 3, 3), np.nan), np.zeros(n * size), energy_spread=energy_sigma, force_spread=sigma,
    )  # fmt: skip
    found = calibration(predicted, frames)
    assert found["forces"].factor == pytest.approx(3, rel=0.03)
    assert found["energy_per_atom"].factor == pytest.approx(2, rel=0.1)
    assert 0.75 < found["forces"].spearman < 0.88  # three components an atom: a χ of 3, not of 1
    mended = reliability("forces", "eV/Å", np.sqrt(((predicted.forces - truth) ** 2).mean(1)), 3 * sigma, 1e-5)
    assert mended.factor == pytest.approx(1, rel=0.03)
    assert mended.calibration_error < 0.1 < found["forces"].calibration_error
    assert (np.diff(mended.spread) > 0).all()
    assert len(mended.spread) == 12
    assert mended.summary()["count"] == n * size


def test_calibration_says_what_is_wrong():
    frames = two_frames()
    with pytest.raises(UserError, match="a single potential has no spread"):
        calibration(prediction(frames), frames)
    with pytest.raises(UserError, match="members agree exactly at 2 of 3 values"):
        reliability("forces", "eV/Å", np.array([0.1, 0.1, 0.1, 0.0]), np.array([0.1, 0.0, 0.0, 0.0]), 1e-5)
    with pytest.raises(UserError, match="nothing to calibrate"):
        reliability("forces", "eV/Å", np.zeros(3), np.zeros(3), 1e-5)
