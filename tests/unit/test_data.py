"""Splits, sample order and normalisation."""

from __future__ import annotations

import cftime
import numpy as np
import pytest

from surrogate.core.durations import Duration
from surrogate.core.spec import Grid, Spec, Variable
from surrogate.core.types import UserError
from surrogate.data.normalize import Normalizer, fit_normalizer
from surrogate.data.pipeline import Prefetcher, batch_indices
from surrogate.data.settings import SplitConfig, requested_levels
from surrogate.data.source import MemorySource, Timeline
from surrogate.data.splits import make_splits

GRID = Grid((-45.0, 45.0), (0.0, 120.0, 240.0))


def days(count: int, start: str = "2000-01-01") -> np.ndarray:
    return np.datetime64(start, "ns") + np.arange(count) * np.timedelta64(1, "D")


def line(time: np.ndarray, segment: np.ndarray | None = None, name: str = "a.nc") -> Timeline:
    segment = np.zeros(len(time), int) if segment is None else segment
    return Timeline(name, time, segment, np.zeros(len(time), int), (name,))


def source(fields: list[np.ndarray], lines: list[Timeline], stride: int = 1, variables: tuple = ()) -> MemorySource:
    variables = variables or (Variable("t", "prognostic", "K"),)
    spec = Spec(variables, GRID, Duration(seconds=86400 * stride))
    empty = [np.zeros((len(f), 2, 3, 0), np.float32) for f in fields]
    arrays = [{"prognostic": f, "diagnostic": e, "forcing": e} for f, e in zip(fields, empty, strict=True)]
    return MemorySource(spec, tuple(lines), arrays, np.zeros((2, 3, 0), np.float32), stride)


def test_fractions_follow_time_and_do_not_overlap() -> None:
    splits = make_splits((line(days(10)),), ("all",), SplitConfig((0.0, 0.6), (0.6, 0.8), (0.8, 1.0)))
    assert [splits.times(s)[0].tolist() for s in ("train", "valid", "test")] == [[0, 1, 2, 3, 4, 5], [6, 7], [8, 9]]


def test_a_split_that_leaks_names_the_shared_times() -> None:
    config = SplitConfig(("2000-01-01", "2000-01-06"), None, ("2000-01-06", "2000-01-10"))
    with pytest.raises(UserError, match=r"train and test share 1 times of a\.nc \(2000-01-06"):
        make_splits((line(days(10)),), ("all",), config)


def test_an_empty_split_says_what_there_is() -> None:
    config = SplitConfig(("2000-01-01", "2000-01-06"), None, ("2005", "2006"))
    with pytest.raises(UserError, match=r"split\.test=.*selects no time: a\.nc has 2000-01-01"):
        make_splits((line(days(10)),), ("all",), config)


def test_samples_cross_no_gap_no_split_and_no_trajectory() -> None:
    segment = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    lines = (line(days(10), segment), line(days(10), name="b.nc"))  # the same dates twice
    data = source([np.zeros((10, 2, 3, 1), np.float32)] * 2, list(lines))
    splits = make_splits(lines, ("all", "all"), SplitConfig((0.0, 0.8), (0.8, 1.0), None))
    found = splits.samples(data, "train", history=2, rollout=1).tolist()
    assert found == [[0, 1], [0, 2], [0, 5], [0, 6], *([1, t] for t in range(1, 7))]


def test_the_stride_reaches_that_far() -> None:
    data = source([np.zeros((10, 2, 3, 1), np.float32)], [line(days(10))], stride=4)
    splits = make_splits(data.timelines, ("all",), SplitConfig((0.0, 1.0), None, None))
    assert splits.samples(data, "train", history=1, rollout=2)[:, 1].tolist() == [0, 1]


def test_reserved_trajectories_serve_their_split_alone() -> None:
    lines = (line(days(10)), line(days(10), name="b.nc"))
    splits = make_splits(lines, ("all", "test"), SplitConfig((0.0, 0.8), (0.8, 1.0), (0.9, 1.0)))
    assert [len(t) for t in splits.times("test")] == [0, 10]


def test_the_order_is_a_function_of_seed_and_step_and_visits_each_sample_once_an_epoch() -> None:
    epoch = np.concatenate([batch_indices(3, s, 5, 20) for s in range(4)])
    assert sorted(epoch.tolist()) == list(range(20))
    np.testing.assert_array_equal(batch_indices(3, 2, 5, 20), epoch[10:15])
    following = np.concatenate([batch_indices(3, s, 5, 20) for s in range(4, 8)])
    assert sorted(following.tolist()) == list(range(20))
    assert following.tolist() != epoch.tolist()
    assert batch_indices(4, 0, 5, 20).tolist() != epoch[:5].tolist()
    # A batch that straddles two epochs holds the end of one and the beginning of the next.
    straddling = batch_indices(3, 2, 8, 20)
    np.testing.assert_array_equal(straddling, [*epoch[16:], *following[:4]])


def test_prefetching_keeps_order_and_hands_errors_over() -> None:
    def make(step: int) -> int:
        if step == 5:
            raise UserError("file.nc is damaged")
        return step * step

    reader = Prefetcher(make, 2, 9, 2)
    seen = []
    with pytest.raises(UserError, match="damaged"):
        for step, item in reader:
            seen.append((step, item))
    reader.close()
    assert seen == [(2, 4), (3, 9), (4, 16)]


def test_a_stalled_reader_is_noticed() -> None:
    import threading

    never = threading.Event()
    reader = Prefetcher(lambda step: never.wait(3), 0, 1, 1, watchdog=0.2)
    with pytest.raises(TimeoutError, match="stalled"):
        next(iter(reader))
    never.set()
    reader.close()


def weighted(values: np.ndarray) -> tuple[float, float]:
    weights = np.broadcast_to(GRID.area_weights()[None, :, :, None], values.shape)
    mean = np.average(values, weights=weights)
    return float(mean), float(np.sqrt(np.average((values - mean) ** 2, weights=weights)))


def test_statistics_come_from_training_alone_and_invert() -> None:
    rng = np.random.default_rng(0)
    fields = (280 + 5 * rng.normal(size=(100, 2, 3, 1))).astype("f4")
    data = source([fields], [line(days(100))])
    splits = make_splits(data.timelines, ("all",), SplitConfig((0.0, 0.7), None, (0.7, 1.0)))
    normalizer = fit_normalizer(data, splits, rollout=3)
    mean, std = weighted(fields[:70].astype(np.float64))
    assert normalizer.center["prognostic"][0] == pytest.approx(mean, rel=1e-6)
    assert normalizer.scale["prognostic"][0] == pytest.approx(std, rel=1e-5)
    for k in (1, 2, 3):
        change = fields[k:70].astype(np.float64) - fields[: 70 - k]
        m, s = weighted(change)
        assert normalizer.target_scale[k - 1, 0] == pytest.approx(np.hypot(m, s) / std, rel=1e-4)
    fields[70:] += 1e6  # what lies outside training changes nothing
    again = fit_normalizer(source([fields], [line(days(100))]), splits, rollout=3)
    for name, value in normalizer.arrays().items():
        np.testing.assert_array_equal(value, again.arrays()[name])
    normal = normalizer.normalize("prognostic", fields[:70])
    np.testing.assert_allclose(normalizer.denormalize("prognostic", normal), fields[:70], rtol=1e-6)
    stored = Normalizer.from_arrays(data.spec, normalizer.arrays())
    np.testing.assert_array_equal(stored.mask, normalizer.mask)


def test_a_monthly_climatology_is_the_mean_of_each_month() -> None:
    time = np.array([cftime.DatetimeNoLeap(1 + n // 12, n % 12 + 1, 15) for n in range(120)], object)
    months = np.arange(120) % 12
    rng = np.random.default_rng(1)
    fields = (10 * np.sin(months / 2)[:, None, None, None] + rng.normal(size=(120, 2, 3, 1))).astype("f4")
    fields[:, 0, 0] = np.nan  # land
    data = source([fields], [line(time)])
    splits = make_splits(data.timelines, ("all",), SplitConfig((0.0, 0.8), None, (0.8, 1.0)))
    normalizer = fit_normalizer(data, splits, anomaly="month")
    expected = np.stack([fields[:96][months[:96] == m].mean(0) for m in range(12)])
    np.testing.assert_allclose(normalizer.climatology, expected, rtol=1e-5, atol=1e-5)
    assert not normalizer.mask[0, 0].any()
    assert normalizer.mask.sum() == 5
    normal = normalizer.normalize("prognostic", fields, months)
    assert (normal[:, 0, 0] == 0).all()
    back = normalizer.denormalize("prognostic", normal, months)
    np.testing.assert_allclose(back, fields, rtol=1e-4, atol=1e-4)


def test_values_that_come_and_go_are_refused_with_their_place() -> None:
    fields = np.random.default_rng(0).normal(size=(20, 2, 3, 1)).astype("f4")
    fields[3, 1, 2] = np.nan
    data = source([fields], [line(days(20))])
    splits = make_splits(data.timelines, ("all",), SplitConfig((0.0, 1.0), None, None))
    with pytest.raises(UserError, match=r"'t' is missing at some times.*latitude 45, longitude 240"):
        fit_normalizer(data, splits)
    fields[3, 1, 2] = np.inf
    with pytest.raises(UserError, match=r"a\.nc: 't' is infinite at 2000-01-04.*latitude 45, longitude 240"):
        fit_normalizer(source([fields], [line(days(20))]), splits)


def test_a_constant_variable_has_nothing_to_learn() -> None:
    data = source([np.full((20, 2, 3, 1), 5.0, np.float32)], [line(days(20))])
    splits = make_splits(data.timelines, ("all",), SplitConfig((0.0, 1.0), None, None))
    with pytest.raises(UserError, match="'t' does not vary"):
        fit_normalizer(data, splits)


def test_names_and_levels() -> None:
    assert requested_levels(("tas", "ta@500", {"ua": [500, 850]}, "ta@850"), "variables") == {
        "tas": None, "ta": (500.0, 850.0), "ua": (500.0, 850.0),
    }  # fmt: skip
    with pytest.raises(UserError, match="'tas' is listed twice"):
        requested_levels(("tas", "tas"), "variables")
    with pytest.raises(UserError, match="levels of 'ua'"):
        requested_levels(({"ua": ["high"]},), "variables")
