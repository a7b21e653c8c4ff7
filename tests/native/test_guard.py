"""The guard in C is the one in Python, and both see what lies outside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from surrogates import make
from test_callers import samples_of
from test_files import opens  # noqa: F401
from test_points import columns, local, pointed  # noqa: F401

from surrogate.core.types import UserError
from surrogate.exporting import open_bundle
from surrogate.exporting.guard import DISTRIBUTION, INSIDE, RANGE
from surrogate.exporting.write import export_bundle


def guard_in_c(program, run, bundle: Path, function: str, inputs: dict[str, np.ndarray], tmp_path: Path):  # type: ignore[no-untyped-def]
    count = len(next(iter(inputs.values())))
    order = [a["name"] for a in open_bundle(bundle, check=False).inputs(function)]
    (tmp_path / "in").write_bytes(b"".join(np.ascontiguousarray(inputs[name]).tobytes() for name in order))
    done = run(program("guarded.c"), bundle, function, count, tmp_path / "in", tmp_path / "out")
    assert done.returncode == 0, (done.returncode, done.stderr)
    data = (tmp_path / "out").read_bytes()
    return np.frombuffer(data, np.int32, count), np.frombuffer(data, np.float32, count, 4 * count)


def agree(program, run, bundle: Path, function: str, inputs, tmp_path: Path):  # type: ignore[no-untyped-def]
    """The flags, after C and Python were found to say the same."""
    report = open_bundle(bundle, check=False).guard(inputs, function)
    flags, distance = guard_in_c(program, run, bundle, function, inputs, tmp_path)
    np.testing.assert_allclose(distance, report.distance, rtol=2e-4)
    np.testing.assert_array_equal(flags, report.flags)
    return flags


@pytest.mark.slow
def test_columns(local, pointed, program, run, tmp_path) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    _, flat = columns(local, 20)
    means = {n: np.broadcast_to(v.mean(0, keepdims=True), v.shape).astype(v.dtype).copy() for n, v in flat.items()}
    inputs = {n: np.concatenate([v, v])[:37] for n, v in means.items()}  # two groups, the last one not full
    inputs["salinity"][3] = 50  # out of range
    inputs["temperature"][17, 1, 0] = np.nan
    inputs["temperature"][21] += [[-30, 30], [30, -30]]  # each in range, together never seen
    inputs["insolation"][36] = np.inf
    flags = agree(program, run, pointed, "point", inputs, tmp_path)
    expected = np.zeros(37, np.int32)
    expected[[3, 17, 36]] = RANGE | DISTRIBUTION
    expected[21] = DISTRIBUTION
    np.testing.assert_array_equal(flags, expected)
    one = {n: v[21:22] for n, v in inputs.items()}  # alone it goes another way through the code
    assert list(agree(program, run, pointed, "point", one, tmp_path)) == [DISTRIBUTION]
    assert open_bundle(pointed, check=False).guard(one, "point").outside.tolist() == [True]


def test_maps(rich, bundle, program, run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    inputs = {name: value.copy() for name, value in samples_of(rich, 5).items()}
    land = ~rich.frame.normalizer.mask[..., 1]
    assert land.any()
    inputs["salinity"][:, :, land] = 1e30  # ignored, whatever it holds
    # Random points have longer tails than the 400 samples of the statistics: bring all into their range.
    for name, center in (("temperature", 260.0), ("salinity", 35.0), ("insolation", 340.0)):
        where = np.broadcast_to(land, inputs[name].shape) if name == "salinity" else np.zeros(inputs[name].shape, bool)
        inputs[name] = np.where(where, inputs[name], center + 0.3 * (inputs[name] - center)).astype(np.float32)
    inputs["insolation"][1, 5, 9] = 1e5  # one point of a map
    inputs["temperature"][3, 0, 1, 2, 2] = np.nan
    inputs["temperature"][4] += 45  # the whole map
    flags = agree(program, run, bundle, "step", inputs, tmp_path)
    assert flags[[0, 2]].tolist() == [INSIDE, INSIDE]
    assert flags[1] & RANGE
    assert flags[3] == RANGE | DISTRIBUTION
    assert flags[4] & DISTRIBUTION


def test_the_threshold_is_the_quantile_that_was_asked_for(tmp_path: Path) -> None:
    surrogate = make(tmp_path / "m", shape=(2, 3), history=1, monthly=False, features=(), land=False, based=False)
    thresholds = {}
    for quantile in (0.9, 0.999):
        export_bundle(surrogate, tmp_path / "x.sg", batches=(1,), unverified=("cpu",), guard=quantile, guard_margin=0.0)
        entry = open_bundle(tmp_path / "x.sg", check=False).manifest["functions"][0]["guard"]
        assert entry["quantile"] == quantile
        assert entry["samples"] == 400
        thresholds[quantile] = entry["threshold"]
    assert 1 < thresholds[0.9] < thresholds[0.999] < 4
    for name, value in (("guard", 0.2), ("guard_margin", -1.0)):
        with pytest.raises(UserError, match=f"{name}="):
            export_bundle(surrogate, tmp_path / "y.sg", unverified=("cpu",), **{name: value})


def test_a_surrogate_without_statistics_exports_without_a_guard_and_says_so(tmp_path: Path, opens) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    surrogate = make(tmp_path / "m", shape=(2, 3), history=1, monthly=False, features=(), land=False, guarded=False)
    said: list[str] = []
    export_bundle(surrogate, tmp_path / "x.sg", batches=(1,), unverified=("cpu",), say=said.append)
    assert any("without a guard" in text for text in said)
    bundle = open_bundle(tmp_path / "x.sg", check=False)
    with pytest.raises(UserError, match="step has no guard"):
        bundle.guard({})
    assert opens(tmp_path / "x.sg")[0] == 4  # as far as the plugin


def test_several_steps_guard_the_forcings_of_each(tmp_path: Path) -> None:
    surrogate = make(tmp_path / "m", shape=(2, 3), history=1, monthly=False, features=(), land=False, based=False)
    export_bundle(surrogate, tmp_path / "x.sg", batches=(1,), steps=(1, 2), unverified=("cpu",))
    bundle = open_bundle(tmp_path / "x.sg", check=False)
    entry = bundle.manifest["functions"][1]["guard"]
    forcing = next(i for i in entry["inputs"] if i["name"] == "insolation")
    assert forcing["features"] == [3, 3]
    inputs = {a["name"]: np.empty((1, *a["shape"]), np.float32) for a in bundle.inputs("steps2")}
    for name, value in (("temperature", 260), ("salinity", 35), ("insolation", 340)):
        inputs[name][...] = value
    assert bundle.guard(inputs, "steps2").flags.tolist() == [INSIDE]
    inputs["insolation"][0, 1] = 5000  # the second step's
    assert bundle.guard(inputs, "steps2").flags.tolist() == [RANGE]


def test_margins_widen_ranges_and_constants_bear_rounding() -> None:
    from surrogate.exporting.guard import limits

    low, high = limits(np.array([0.0, 300.0]), np.array([10.0, 300.0]), 0.1)
    assert (low[0], high[0]) == (-1, 11)
    assert low[1] < np.float32(300) < high[1]
    assert high[1] - low[1] < 1e-3
