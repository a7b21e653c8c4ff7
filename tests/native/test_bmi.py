"""A Bundle behind the Basic Model Interface gives what calling it step by step gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from surrogates import RICH, arguments, make, weather
from test_functions import START

from surrogate.core.types import UserError
from surrogate.exporting import open_bundle
from surrogate.exporting.write import export_bundle

bmipy = pytest.importorskip("bmipy", reason="the extra 'bmi' is not installed")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A surrogate with history, levels, land, forcings, a diagnostic and a date; its Bundle, data and configuration."""
    directory = tmp_path_factory.mktemp("bmi")
    surrogate = make(directory / "model", shape=(3, 4), monthly=False, features=("season",), guarded=False)
    export_bundle(surrogate, directory / "rich.sg", batches=(1,), unverified=("cpu",))
    data = weather(surrogate, START["noleap"], 2, 3)
    data.isel(time=slice(0, 2)).sortby("latitude", ascending=False).to_netcdf(directory / "initial.nc")
    data.to_netcdf(directory / "forcings.nc")
    (directory / "bmi.yaml").write_text("bundle: rich.sg\ninitial: initial.nc\nforcings: forcings.nc\nend: 18h\n")
    return surrogate, directory, data


def drive(model: bmipy.Bmi, config: Path) -> dict[str, np.ndarray]:
    """What any driver of the interface does, knowing nothing of the model: name → (steps, values)."""
    model.initialize(str(config))
    series: dict[str, list[np.ndarray]] = {name: [] for name in model.get_output_var_names()}
    assert len(series) == model.get_output_item_count()
    while model.get_current_time() < model.get_end_time():
        model.update()
        for name, values in series.items():
            grid = model.get_var_grid(name)
            buffer = np.empty(model.get_grid_size(grid), model.get_var_type(name))
            assert buffer.nbytes == model.get_var_nbytes(name)
            values.append(model.get_value(name, buffer))
    model.finalize()
    return {name: np.stack(values) for name, values in series.items()}


def test_a_driver_gets_what_calls_of_the_bundle_give(prepared) -> None:
    from surrogate.exporting.bmi import SurrogateBmi

    surrogate, directory, data = prepared
    bundle = open_bundle(directory / "rich.sg", check=False)
    found = drive(SurrogateBmi(), directory / "bmi.yaml")
    inputs = arguments(data, surrogate, 1)
    for k in range(3):
        outputs = bundle(inputs)
        for name, values in found.items():
            np.testing.assert_array_equal(values[k], np.asarray(outputs[name])[0].ravel())
        if k < 2:
            new = arguments(data, surrogate, 2 + k)
            for name in ("temperature", "salinity"):
                new[name] = np.concatenate([inputs[name][:, 1:], np.asarray(outputs[name])[:, None]], axis=1)
            inputs = new


def test_grids_time_and_values_are_described(prepared) -> None:
    from surrogate.exporting.bmi import SurrogateBmi

    surrogate, directory, data = prepared
    model = SurrogateBmi()
    model.initialize(str(directory / "bmi.yaml"))
    assert model.get_input_var_names() == ("temperature", "salinity", "insolation")
    assert model.get_output_var_names() == ("temperature", "salinity", "rain")
    assert (model.get_time_units(), model.get_time_step(), model.get_start_time(), model.get_end_time()) == (
        "s", 21600.0, 0.0, 64800.0,
    )  # fmt: skip
    assert model.get_var_units("rain") == "kg m-2 s-1"
    assert model.get_var_location("rain") == "node"
    flat, deep = model.get_var_grid("rain"), model.get_var_grid("temperature")
    assert (model.get_grid_rank(flat), model.get_grid_rank(deep)) == (2, 3)
    assert model.get_grid_type(deep) == "rectilinear"
    assert list(model.get_grid_shape(deep, np.empty(3, int))) == [2, 3, 4]
    assert list(model.get_grid_z(deep, np.empty(2))) == [500, 850]
    np.testing.assert_allclose(model.get_grid_y(flat, np.empty(3)), data["latitude"])
    np.testing.assert_allclose(model.get_grid_x(flat, np.empty(4)), data["longitude"])
    # The initial file runs from north to south; the surrogate does not.
    expected = data["temperature"].isel(time=1).sel(level=[500, 850]).values
    np.testing.assert_array_equal(model.get_value_ptr("temperature"), expected.ravel())

    seen = model.get_value_ptr("temperature")
    model.set_value_at_indices("temperature", np.array([0, 5]), np.array([250.0, 251.0]))
    assert list(model.get_value_at_indices("temperature", np.empty(2, np.float32), np.array([0, 5]))) == [250, 251]
    insolation = np.full(12, 100, np.float32)
    model.set_value("insolation", insolation)  # instead of the file's
    model.update_until(21600.0)
    assert model.get_current_time() == 21600.0
    inputs = arguments(data, surrogate, 1)
    inputs["temperature"][0, -1].flat[[0, 5]] = [250, 251]
    inputs["insolation"] = insolation.reshape(1, 3, 4)
    outputs = open_bundle(directory / "rich.sg", check=False)(inputs)
    np.testing.assert_array_equal(seen, np.asarray(outputs["temperature"]).ravel())  # the reference stays valid
    with pytest.raises(UserError, match="reach 21600 s and 43200 s"):
        model.update_until(30000.0)
    with pytest.raises(UserError, match="'rain' is an output"):
        model.set_value("rain", insolation)
    with pytest.raises(UserError, match="no variable 'snow'"):
        model.get_value_ptr("snow")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bundle: rich.sg\n", "initial is missing"),
        ("bundle: rich.sg\ninitial: initial.nc\ncolour: red\n", "colour is not a setting"),
        ("bundle: rich.sg\ninitial: nowhere.nc\n", "nowhere.nc cannot be read"),
        ("bundle: rich.sg\ninitial: short.nc\n", "has 1 times; the surrogate needs the last 2"),
        ("bundle: rich.sg\ninitial: kelvin.nc\n", "'temperature' is in degC, the surrogate takes K"),
        ("bundle: rich.sg\ninitial: gap.nc\n", "are not a step of PT6H apart"),
        ("bundle: rich.sg\ninitial: initial.nc\nend: 7h\n", "end: "),
        ("- 1\n", "is not a table of settings"),
    ],
)
def test_wrong_configurations_are_told(prepared, text: str, words: str, monkeypatch) -> None:
    from surrogate.exporting import bmi
    from surrogate.exporting.bmi import SurrogateBmi

    monkeypatch.setattr(bmi, "open_bundle", lambda path: open_bundle(path, check=False))  # compiles nothing
    _, directory, data = prepared
    data.isel(time=[1]).to_netcdf(directory / "short.nc")
    data.isel(time=[0, 2]).to_netcdf(directory / "gap.nc")
    warm = data.isel(time=slice(0, 2)).copy(deep=True)
    warm["temperature"].attrs["units"] = "degC"
    warm.to_netcdf(directory / "kelvin.nc")
    config = directory / "wrong.yaml"
    config.write_text(text)
    with pytest.raises(UserError, match=words):
        SurrogateBmi().initialize(str(config))


def test_a_map_has_no_time_to_advance(tmp_path: Path) -> None:
    from surrogate.exporting.bmi import SurrogateBmi

    variables = tuple(v for v in RICH if v.role != "prognostic")
    surrogate = make(
        tmp_path / "m",
        variables=variables,
        shape=(2, 2),
        history=1,
        step="0",
        monthly=False,
        features=(),
        guarded=False,
    )
    export_bundle(surrogate, tmp_path / "map.sg", batches=(1,), unverified=("cpu",))
    (tmp_path / "c.yaml").write_text("bundle: map.sg\ninitial: x.nc\n")
    with pytest.raises(UserError, match="has no time to advance"):
        SurrogateBmi().initialize(str(tmp_path / "c.yaml"))
