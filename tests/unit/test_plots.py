"""Pictures hold the numbers they were given, survive NaN, and say which units they are in."""

import io
import math

import numpy as np
import pytest
from rich.console import Console

from surrogate.core.types import UserError
from surrogate.run import style
from surrogate.run.plots import (
    MapPicture,
    Pictures,
    RolloutSeries,
    Spectrum,
    field_map,
    rollout,
    scorecard,
    skill,
    spectra,
    training,
    write_plots,
)
from surrogate.run.scores import compare, scores_table, verdict

LEADS = ("P1D", "P3D", "P5D")
BASELINES = ("persistence", "climatology", "damped_persistence", "linear_inverse_model")


def fake(keys, factor=0.8, leads=LEADS):
    """Scores of a surrogate whose RMSE is ``factor`` times that of the best baseline everywhere."""
    scores, baselines = {}, {name: {} for name in BASELINES}
    for place, key in enumerate(keys):
        for rank, name in enumerate(BASELINES):
            rmse = {lead: (place + 1.0) * (1 + 0.3 * step + 0.1 * rank) for step, lead in enumerate(leads)}
            baselines[name][key] = {"rmse": rmse, "acc": {lead: 0.9 - 0.1 * s for s, lead in enumerate(leads)}}
        best = baselines["persistence"][key]["rmse"]
        scores[key] = {
            "rmse": {lead: factor * best[lead] for lead in reversed(leads)},
            "acc": {lead: 0.95 - 0.1 * s for s, lead in enumerate(leads)},
        }
    return scores, baselines


def summary_of(scores, baselines, **more):
    return {"experiment": "climate", "status": "complete", "scores": {"test": scores}, "baselines": baselines} | more


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def rows_of_training(number=50):
    rows = [{"step": 10 * i, "loss": math.exp(-i / 10), "learning_rate": 1e-3, "grad_norm": 1.0} for i in range(number)]
    return [*rows, {"step": 500, "valid_loss": 0.1}]


# -- skill -----------------------------------------------------------------------------------------------------


def test_skill_draws_the_scores_by_lead_with_every_baseline():
    scores, baselines = fake(["z500", "t850"])
    figure = skill(scores, baselines, units={"z500": "m"})
    ax = figure.axes[0]
    drawn = lines(ax)
    assert set(drawn) == {"surrogate", *(name.replace("_", " ") for name in BASELINES)}
    assert list(drawn["surrogate"].get_xdata()) == [1, 3, 5]
    assert list(drawn["surrogate"].get_ydata()) == [scores["z500"]["rmse"][lead] for lead in LEADS]
    assert list(drawn["climatology"].get_ydata()) == list(baselines["climatology"]["z500"]["rmse"].values())
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylabel() == "RMSE (m)"
    assert figure.axes[1].get_xlabel() == "lead time (days)"


def test_skill_keeps_colours_whatever_the_order_of_baselines():
    scores, baselines = fake(["z500"])
    one, two = (lines(skill(scores, b).axes[0]) for b in (baselines, dict(reversed(baselines.items()))))
    assert {k: v.get_color() for k, v in one.items()} == {k: v.get_color() for k, v in two.items()}
    assert len({line.get_color() for line in one.values()}) == 5


def test_skill_cuts_a_blow_up_and_says_so():
    scores, baselines = fake(["z500"])
    scores["z500"]["rmse"]["P5D"] = 1e9
    ax = skill(scores, baselines).axes[0]
    assert ax.get_ylim()[1] < 20
    assert "off the scale: 1.00e+09 at 5 days" in [text.get_text() for text in ax.texts]


def test_skill_marks_what_is_not_finite():
    scores, baselines = fake(["z500"])
    scores["z500"]["rmse"]["P5D"] = None
    ax = skill(scores, baselines).axes[0]
    assert np.isnan(lines(ax)["surrogate"].get_ydata()[-1])
    assert "not finite from 5 days on" in [text.get_text() for text in ax.texts]


def test_skill_shows_bars_without_leads():
    scores = {"u": {"relative_l2": {"PT0S": 0.02}}, "v": {"relative_l2": {"PT0S": math.nan}}}
    baselines = {"mean": {"u": {"relative_l2": {"PT0S": 0.3}}, "v": {"relative_l2": {"PT0S": 0.2}}}}
    figure = skill(scores, baselines, metric="relative_l2")
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.02, 0.3]
    assert [text.get_text() for text in figure.axes[1].texts] == ["not finite", "0.200"]


def test_atoms_scores_without_leads_are_bars_too():
    scores, baselines = {"forces": {"mae": 0.03}}, {"constant": {"forces": {"mae": 0.9}}}
    ax = skill(scores, baselines, metric="mae", units={"forces": "eV/Å"}).axes[0]
    assert [bar.get_width() for bar in ax.patches] == [0.03, 0.9]
    assert ax.get_xlabel() == "MAE (eV/Å)"


def test_skill_of_many_variables_shows_nine():
    keys = [f"{name}@{level}" for name in "ztuvq" for level in (250, 500, 850, 925, 1000)] + ["ps"]
    scores, baselines = fake(keys)
    shown = [ax.get_title(loc="left") for ax in skill(scores, baselines).axes if ax.get_visible()]
    assert len(shown) == 9
    assert {title.partition("@")[0] for title in shown} == {"z", "t", "u", "v", "q", "ps"}


def test_skill_names_what_is_missing():
    scores, baselines = fake(["z500"])
    with pytest.raises(UserError, match="no rmse score of 'nope'; scored are: z500"):
        skill(scores, baselines, variables="nope")
    with pytest.raises(UserError, match="no variable has a crps score"):
        skill(scores, baselines, metric="crps")


# -- scorecard -------------------------------------------------------------------------------------------------


def test_scorecard_has_every_variable_and_its_ratio_to_the_best_baseline():
    keys = [f"t@{level}" for level in range(26)]
    scores, baselines = fake(keys, factor=0.75)
    scores["t@3"]["rmse"]["P3D"] *= 2
    scores["t@4"]["rmse"]["P5D"] = math.nan
    ax = scorecard(scores, baselines).axes[0]
    texts = np.array([text.get_text() for text in ax.texts]).reshape(26, 3)
    assert texts[0].tolist() == ["0.75"] * 3
    assert texts[3, 1] == "1.50"
    assert texts[4, 2] == "NaN"
    assert [tick.get_text() for tick in ax.get_yticklabels()] == keys
    shade = ax.images[0].get_array()
    np.testing.assert_allclose(shade[0], np.log2(0.75))
    norm = ax.images[0].norm
    assert (norm.vmin, norm.vmax) == (-1, 1)  # so that a ratio of one is white


def test_scorecard_leaves_open_what_has_no_baseline():
    scores, baselines = fake(["a", "b"])
    for of in baselines.values():
        del of["b"]
    ax = scorecard(scores, baselines).axes[0]
    assert [text.get_text() for text in ax.texts[3:]] == ["–"] * 3
    with pytest.raises(UserError, match="at least one baseline"):
        scorecard(scores, {})


# -- maps ------------------------------------------------------------------------------------------------------


def example_map(**more):
    latitude, longitude = np.linspace(-75, 75, 6), np.arange(0, 360, 45.0)
    truth = 280 + 20 * np.cos(np.deg2rad(latitude))[:, None] + np.arange(8.0)
    values = {"truth": truth, "forecast": truth + 1.5, "init_time": "2019-03-01", "lead": "P3D"}
    return MapPicture("t", "K", latitude, longitude, **(values | more))


def test_map_shares_limits_and_centres_the_error():
    picture = example_map()
    truth, forecast, error = (ax.collections[0] for ax in field_map(picture).axes[:3])
    np.testing.assert_array_equal(truth.get_array().reshape(6, 8), picture.truth)
    np.testing.assert_array_equal(forecast.get_array().reshape(6, 8), picture.forecast)
    np.testing.assert_allclose(error.get_array().reshape(6, 8), 1.5)
    assert truth.get_clim() == forecast.get_clim()
    assert error.get_clim() == (-1.5, 1.5)


def test_map_has_units_degrees_and_the_area_weighted_error():
    figure = field_map(example_map())
    labels = [ax.get_xlabel() for ax in figure.axes]
    assert "t (K)" in labels
    assert "error (K); RMSE 1.50, bias 1.50" in labels
    figure.draw_without_rendering()
    ticks = [t.get_text() for t in (*figure.axes[0].get_xticklabels(), *figure.axes[0].get_yticklabels())]
    assert {"60°E", "180°", "120°W", "30°S", "0°", "60°N"} <= set(ticks)


def test_map_hides_land_and_reports_a_broken_forecast():
    picture = example_map()
    truth, forecast = picture.truth.copy(), picture.forecast.copy()
    truth[0, :4] = forecast[0, :4] = np.nan
    forecast[1, :] = np.inf
    figure = field_map(example_map(truth=truth, forecast=forecast))
    assert np.ma.getmaskarray(figure.axes[0].collections[0].get_array()).sum() == 4
    assert np.ma.getmaskarray(figure.axes[2].collections[0].get_array()).sum() == 12
    assert any("16.7% not finite" in ax.get_xlabel() for ax in figure.axes)


def test_map_limits_follow_the_truth_when_the_forecast_explodes():
    low, high = field_map(example_map(forecast=example_map().truth * 1e6)).axes[0].collections[0].get_clim()
    assert 270 < low < high < 350


def test_map_of_a_plane_shows_the_input_and_of_a_row_shows_curves():
    x = np.linspace(0, 1, 8)
    field = np.outer(x, x)
    plane = MapPicture(
        "p", "Pa", x, x, field, field, kind="plane", input=field, input_name="permeability", input_units="m2"
    )
    axes = field_map(plane).axes
    assert [ax.get_title(loc="left") for ax in axes[:4]] == ["Input", "Truth", "Forecast", "Forecast − truth"]
    assert "permeability (m²)" in [ax.get_xlabel() for ax in axes]
    row = MapPicture("u", "m s-1", np.zeros(1), x, x[None], 2 * x[None], kind="plane")
    top, bottom = field_map(row).axes
    np.testing.assert_array_equal(lines(top)["truth"].get_ydata(), x)
    np.testing.assert_array_equal(bottom.get_lines()[1].get_ydata(), x)
    assert top.get_ylabel() == "u (m s⁻¹)"


def test_map_refuses_other_shapes():
    with pytest.raises(UserError, match=r"map of 't': forecast has shape \(6, 7\), its grid has \(6, 8\)"):
        example_map(forecast=np.zeros((6, 7)))


# -- spectra, rollout, training --------------------------------------------------------------------------------


def test_spectra_draw_both_and_their_ratio_on_logarithmic_axes():
    k = np.arange(0, 20.0)
    truth = 100 * (k + 1) ** -3
    top, bottom = spectra([Spectrum("t", "P1D", k, truth, truth / 2, "zonal wavenumber", "K2")]).axes
    assert top.get_xscale() == top.get_yscale() == bottom.get_yscale() == "log"
    np.testing.assert_array_equal(lines(top)["truth"].get_ydata(), truth)
    np.testing.assert_array_equal(lines(top)["1 day"].get_ydata(), truth / 2)
    np.testing.assert_allclose(bottom.get_lines()[0].get_ydata(), 0.5)
    assert top.get_ylabel() == "power (K²)"
    assert bottom.get_xlabel() == "zonal wavenumber"


def test_rollout_marks_the_first_value_that_is_not_finite():
    days = np.arange(30.0)
    mean = np.where(days < 12, 280 + 0.1 * days, np.nan)
    series = RolloutSeries("t", "K", days, mean, (279, 282), variance=np.ones(30))
    left, right = rollout([series]).axes[:2]
    np.testing.assert_array_equal(lines(left)["surrogate"].get_ydata(), mean)
    assert list(lines(left)["first non-finite value"].get_xdata()) == [12, 12]
    assert left.get_ylabel() == "mean (K)"
    assert right.get_ylabel() == "variance (K²)"
    facts = {"length": "P30D", "variables": {"t": {"first_nonfinite": "P11D", "drift_per_year": -0.5}}}
    left = rollout([series], facts).axes[0]
    assert list(lines(left)["first non-finite value"].get_xdata()) == [11, 11]
    assert "drift −0.5 K per year" in left.get_title(loc="left")


def test_rollout_limits_stay_near_the_truth_in_a_blow_up():
    days = np.arange(10.0)
    low, high = rollout([RolloutSeries("t", "K", days, 10.0**days, (0, 1))]).axes[0].get_ylim()
    assert -1 < low < 0
    assert 4 < high < 6


def test_training_draws_loss_validation_and_rate():
    rows = rows_of_training()
    loss, rate, norm = training(rows).axes
    np.testing.assert_array_equal(lines(loss)["training, as logged"].get_ydata(), [r["loss"] for r in rows[:-1]])
    assert list(lines(loss)["validation"].get_ydata()) == [0.1]
    assert loss.get_yscale() == "log"
    assert rate.get_ylabel() == "learning\nrate"
    assert norm.get_xlabel() == "optimizer step"


def test_training_accepts_nested_validation_and_a_loss_that_breaks():
    rows = [{"step": s, "loss": 1.0 if s < 30 else None} for s in range(0, 50, 10)]
    rows += [{"step": s, "valid": {"loss": 2.0, "z500": {"rmse": 10.0 - s / 10}}} for s in (10, 20)]
    loss, scores = training(rows).axes
    assert list(lines(loss)["validation"].get_ydata()) == [2, 2]
    np.testing.assert_allclose(lines(scores)["z500 rmse, last 8.00"].get_ydata(), [1, 8 / 9])
    assert "not finite at step 30" in [text.get_text() for text in loss.texts]
    with pytest.raises(UserError, match="no row with a loss"):
        training([])


def test_write_plots_writes_what_there_is_with_captions_inside(tmp_path):
    scores, baselines = fake(["z500"])
    pictures = Pictures(maps=[example_map()])
    paths = write_plots(tmp_path / "plots", summary_of(scores, baselines), rows_of_training(), pictures)
    names = [path.name for path in paths]
    assert names == ["scorecard.png", "skill_rmse.png", "skill_acc.png", "map_00_t_P3D.png", "training.png"]
    data = paths[1].read_bytes()
    assert data.startswith(b"\x89PNG")
    assert b"RMSE on the test split" in data
    assert write_plots(tmp_path, {}, [], Pictures()) == []


def test_hostile_variable_names_make_safe_files_and_plain_text(tmp_path):
    key = "../<b>$x_1$"
    scores, baselines = fake([key])
    paths = write_plots(tmp_path, summary_of(scores, baselines), [], Pictures())
    picture = MapPicture(key, "K", np.arange(2.0), np.arange(2.0), np.ones((2, 2)), np.ones((2, 2)))
    paths += write_plots(tmp_path, {}, [], Pictures(maps=[picture]))
    assert all(path.parent == tmp_path and path.is_file() for path in paths)


def test_a_figure_shows_itself_in_a_notebook():
    scores, baselines = fake(["z500"])
    assert skill(scores, baselines)._repr_png_().startswith(b"\x89PNG")


# -- verdict and table -----------------------------------------------------------------------------------------


def test_verdict_of_a_clean_win():
    judged = verdict(summary_of(*fake(["a", "b"])))
    assert judged.level == "good"
    assert judged.text == "RMSE is below all 4 baselines at 1, 3 and 5 days for all 2 variables."


def test_verdict_names_losses_worst_first():
    scores, baselines = fake(["a", "b", "c"])
    scores["b"]["rmse"]["P5D"] = 1.1 * baselines["persistence"]["b"]["rmse"]["P5D"]
    scores["c"]["rmse"]["P3D"] = 3 * baselines["persistence"]["c"]["rmse"]["P3D"]
    judged = verdict(summary_of(scores, baselines))
    assert judged.level == "mixed"
    assert judged.better == ("a",)
    assert judged.text == (
        "RMSE is below all 4 baselines at 1, 3 and 5 days for 1 of 3 variables. Not better: "
        "c (3.00 times persistence at 3 days); b (10.0 % above persistence at 5 days)."
    )


def test_verdict_of_losses_alone_and_of_ties():
    judged = verdict(summary_of(*fake(["a", "b"], factor=1.2)))
    assert judged.level == "bad"
    assert judged.text.startswith(
        "RMSE is not below all 4 baselines at every lead (1, 3 and 5 days) for any of the 2 var"
    )
    tied = verdict(summary_of(*fake(["a"], factor=1.001)))
    assert tied.level == "bad"
    assert "a (level with persistence at" in tied.text


def test_verdict_counts_a_broken_forecast_as_a_loss_and_ignores_a_broken_baseline():
    scores, baselines = fake(["a", "b"])
    scores["a"]["rmse"]["P5D"] = math.nan
    baselines["persistence"]["b"]["rmse"]["P1D"] = math.nan
    judged = verdict(summary_of(scores, baselines))
    assert judged.better == ("b",)
    assert "a (the forecast is not finite at 5 days)" in judged.text


def test_verdict_says_what_it_cannot_judge():
    scores, baselines = fake(["a", "b"])
    assert verdict({}).text == "The run has no scores."
    assert verdict(summary_of(scores, {})).text.startswith("No baseline was scored")
    for of in baselines.values():
        del of["b"]
    judged = verdict(summary_of(scores, baselines))
    assert judged.no_baseline == ("b",)
    assert judged.text.endswith("for a. No baseline was scored for b.")


def test_verdict_tells_of_validation_scores_stopped_runs_and_broken_rollouts():
    scores, baselines = fake(["a"])
    facts = {"length": "P365D", "variables": {"a": {"first_nonfinite": "P12D"}, "b": {"first_nonfinite": None}}}
    summary = {"scores": {"valid": scores}, "baselines": baselines, "status": "interrupted", "rollout": facts}
    text = verdict(summary).text
    assert "These are scores of the valid split, not of an independent test." in text
    assert "The run is not complete (status: interrupted)." in text
    assert "The free rollout of 365 days breaks: a is not finite from 12 days on." in text


@pytest.mark.parametrize(
    ("metric", "mine", "theirs", "outcome"),
    [("rmse", 1.0, 2.0, "win"), ("rmse", 2.0, 1.0, "loss"), ("acc", 0.9, 0.8, "win"), ("acc", 0.7, 0.8, "loss"),
     ("bias", -0.1, 0.5, "win"), ("bias", -2.0, 0.5, "loss"), ("activity", 0.98, 0.5, "win"), ("rmse", 0.0, 0.0, "tie"),
     ("rmse", 1.0, math.nan, "unknown"), ("rmse", math.inf, 1.0, "loss")],
)  # fmt: skip
def test_compare_knows_which_way_each_metric_points(metric, mine, theirs, outcome):
    of = {"a": {metric: {"P1D": mine}}}
    assert compare(of, {"other": {"a": {metric: {"P1D": theirs}}}}, "a", metric, "P1D").outcome == outcome


@pytest.mark.parametrize("count", [3, 26])
def test_table_fits_a_hundred_columns(count):
    leads = [f"PT{hours}H" for hours in range(6, 126, 6)]
    scores, baselines = fake([f"specific_humidity_tendency@{i}" for i in range(count)], factor=1.1, leads=leads)
    console = Console(width=100, record=True, file=io.StringIO())
    for table in scores_table(summary_of(scores, baselines)):
        console.print(table)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    assert "5 days" in text
    assert "1.10 ✗" in text
    assert "…" not in text


# -- words and numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(8.123, "8.12"), (0.0123456, "0.0123"), (1234.5, "1234"), (-0.5, "−0.500"), (0, "0"), (1.2e-7, "1.20e−07"),
     (123456.0, "1.23e+05"), (None, "NaN"), (math.nan, "NaN"), (math.inf, "∞"), (9.999, "10.0")],
)  # fmt: skip
def test_number_has_three_digits(value, text):
    assert style.number(value) == text


def test_leads_are_ordered_by_time_and_named_in_words():
    assert style.lead_order(["P10D", "PT36H", "P1D"]) == ["P1D", "PT36H", "P10D"]
    assert style.lead_words("PT36H") == "36 hours"
    assert style.leads_words(["P1M", "P2M", "P3M"]) == "1, 2 and 3 months"
    assert style.leads_words(["PT6H", "P1D"]) == "6 hours and 1 day"
    assert style.lead_axis(["PT12H", "P2D"]) == ([0.5, 2.0], "days")


def test_units_are_typeset_and_squared():
    assert style.unit_text("m2 s-2") == "m² s⁻²"
    assert style.unit_text("kg m**-2") == "kg m⁻²"
    assert style.unit_text("degC") == "°C"
    assert style.squared_units("m s-1") == "m² s⁻²"
    assert style.squared_units("eV/Å") == "[eV/Å]²"
