"""Columns as samples: a point function gives what the whole field gives at each point, however the columns are cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from surrogates import make, weather
from test_callers import drive
from test_functions import START, call, close, functions

from surrogate.core.types import UserError
from surrogate.domains.fields_surrogate import FieldSurrogate
from surrogate.exporting import open_bundle
from surrogate.exporting.function import Function
from surrogate.exporting.points import point_functions
from surrogate.exporting.write import export_bundle
from surrogate.run.artefact import read_artefact
from surrogate.run.surrogate_files import decode_netcdf

SHAPE = (4, 5)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> FieldSurrogate:
    """History, levels, forcing, static field, diagnostic and season, nothing that depends on the place."""
    return make(
        tmp_path_factory.mktemp("local") / "model",
        shape=SHAPE,
        monthly=False,
        land=False,
        based=False,
        features=("season",),
    )


def points_of(surrogate: FieldSurrogate, *steps: int) -> list[Function]:
    assert surrogate.directory is not None
    golden = decode_netcdf(read_artefact(surrogate.directory)[1]["golden.nc"])
    return point_functions(surrogate, golden, steps or (1,))


@pytest.fixture(scope="module")
def point(local: FieldSurrogate) -> Function:
    return points_of(local)[0]


@pytest.fixture(scope="module")
def pointed(local: FieldSurrogate, plugin: Path, library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pointed") / "local.sg"
    return export_bundle(local, out, kind="point", batches=(1, 8, 64), plugins={"cpu": str(plugin)})


def columns(surrogate: FieldSurrogate, count: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Fields (1, ..., H, W) of one sample, and the first ``count`` points of them as columns."""
    data = weather(surrogate, START["noleap"], 2, 1, seed=3)
    history = surrogate.spec.history
    fields = {
        "temperature": data["temperature"].sel(level=[500.0, 850.0]).values[:history],
        "salinity": data["salinity"].values[:history],
        "insolation": data["insolation"].values[history],
    }
    date = np.array([[2003, 12, 31, 12, 0, 0]], np.int32)
    whole = {name: value[None] for name, value in fields.items()} | {"date": date}
    flat = {n: np.moveaxis(v.reshape(*v.shape[:-2], -1), -1, 0)[:count].copy() for n, v in fields.items()}
    flat["orography"] = surrogate.frame.static[..., 0].ravel()[:count].copy()
    flat["date"] = np.repeat(date, len(flat["orography"]), axis=0)
    return whole, flat


def at_points(values: np.ndarray, count: int) -> np.ndarray:
    """(1, ..., H, W) → (count, ...)."""
    return np.moveaxis(values[0].reshape(*values.shape[1:-2], -1), -1, 0)[:count]


def test_columns_give_what_the_fields_give_at_their_points(local: FieldSurrogate, point: Function) -> None:
    assert [(a.name, a.role, a.dims) for a in point.inputs] == [
        ("temperature", "prognostic", ("history", "level")), ("salinity", "prognostic", ("history",)),
        ("insolation", "forcing", ()), ("orography", "static", ()), ("date", "time", ("date_field",)),
    ]  # fmt: skip
    whole, flat = columns(local, 20)
    expected = call(functions(local)[0], whole)
    got = call(point, flat)
    for name, value in expected.items():
        close(got[name], at_points(value, 20), 3e-6)


@pytest.mark.slow
def test_columns_in_c_in_any_number_are_those_of_python(
    point: Function, local, pointed, program, run, tmp_path
) -> None:
    _, flat = columns(local, 20)
    many = {name: np.concatenate([value] * 5)[:77] for name, value in flat.items()}
    opened = open_bundle(pointed, check=False)
    assert opened.manifest["functions"][0]["kind"] == "point"
    assert opened.manifest["grid"] == {}
    expected = {name: np.asarray(value) for name, value in opened(many).items()}
    got = drive(program, run, pointed, point, many, tmp_path)
    for name, value in expected.items():
        close(got[name], value, 2e-6)


def test_a_column_does_not_depend_on_its_company_where_the_batch_is_fixed(
    point: Function, local, pointed, program, run, tmp_path
) -> None:
    """What a domain decomposition asks for: equal bits for a column wherever it stands and whoever stands beside."""
    _, flat = columns(local, 20)
    together = drive(program, run, pointed, point, flat, tmp_path, batch=8)
    for part in (slice(0, 9), slice(9, 20), slice(19, 20)):
        apart = drive(program, run, pointed, point, {n: v[part] for n, v in flat.items()}, tmp_path, batch=8)
        for name, value in apart.items():
            np.testing.assert_array_equal(value, together[name][part])


@pytest.mark.slow
def test_several_steps_of_a_column_in_one_call(local: FieldSurrogate, point: Function) -> None:
    (three,) = points_of(local, 3)
    assert three.name == "point_steps3"
    _, flat = columns(local, 6)
    steps = np.stack([flat["insolation"] * f for f in (1, 0.9, 1.1)], axis=1)
    together = call(three, {**flat, "insolation": steps})
    dates = ([2003, 12, 31, 12, 0, 0], [2003, 12, 31, 18, 0, 0], [2004, 1, 1, 0, 0, 0])
    inputs = dict(flat)
    for k in range(3):
        inputs |= {"insolation": steps[:, k], "date": np.array([dates[k]] * 6, np.int32)}
        outputs = call(point, inputs)
        for name, value in outputs.items():
            close(together[name][:, k], value, 3e-6)
        for name in ("temperature", "salinity"):
            inputs[name] = np.concatenate([inputs[name][:, 1:], outputs[name][:, None]], axis=1)


def refusals() -> Iterator[object]:
    common = {"shape": (3, 4), "history": 1, "features": (), "monthly": False, "land": False, "based": False}
    for changes, words in (
        ({"features": ("position",)}, "its features hold the position"),
        ({"land": True, "shape": (4, 8)}, "points without a value"),
        ({"monthly": True}, "it subtracts each point's climatology"),
        ({"based": True}, "fitted for each point"),
        ({"settings": {"scope": "global", "hidden": 8, "layers": 0}}, r"mixes points: a change at row \d, column \d"),
    ):
        yield pytest.param({**common, **changes}, words, id=words[:20])


@pytest.mark.parametrize(("settings", "words"), refusals())
def test_what_is_no_point_function_is_refused(tmp_path: Path, settings, words: str) -> None:
    surrogate = make(tmp_path / "m", **settings)
    with pytest.raises(UserError, match=words):
        points_of(surrogate)


def test_a_model_that_knows_its_place_is_found_by_comparison(local: FieldSurrogate, monkeypatch) -> None:
    """Were a field to differ from its columns in any way, the export would say by how much."""
    from surrogate.exporting import points

    compute = points._Points.compute

    def wrong(self, tree, inputs):  # type: ignore[no-untyped-def]
        return tuple(value * 1.0001 for value in compute(self, tree, inputs))

    monkeypatch.setattr(points._Points, "compute", wrong)
    with pytest.raises(UserError, match=r"of a column differs from that of the whole field by .* K"):
        points_of(local)


def test_kinds_that_do_not_exist_are_told(local: FieldSurrogate, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kind=column is not one of field, point"):
        export_bundle(local, tmp_path / "x.sg", kind="column")
