# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train a surrogate and look at it
#
# A small Held–Suarez climate is simulated on this machine, a small network is trained on it for a minute, and its
# forecasts are scored beside the baselines that meteorologists compare with. Everything here is what
# `python -m surrogate.train +experiment=climate` does with more data and more steps.

# %%
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import surrogate as sg

# %% [markdown]
# ## The experiment
#
# `load_experiment` composes a YAML of `conf/experiment` with changes, as the command line does. This one is
# the shipped `climate`, made small: two months instead of two years, three fields of the upper and lower
# troposphere instead of twenty-six.

# %%
experiment = sg.load_experiment(
    "climate",
    [
        "data.simulate={days: 60, spin_up_days: 60}",
        "data.variables=[{temperature: [0.8125]}, {u_component_of_wind: [0.3125]}, z500]",
        "data.split={train: [0.0, 0.65], valid: [0.65, 0.75], test: [0.75, 1.0]}",
        "model.channels=[24, 40]",
        "model.stem=16",
        "train.steps=100",
        "train.ema=0.99",
        "train.log_every=10",
        "train.valid_every=50",
        "evaluate.rollout=''",  # no year-long free run
    ],
)
experiment.train

# %% [markdown]
# ## Training
#
# The record is simulated once and kept in a cache. `fit` writes the same run directory as the command line.

# %%
model = sg.fit(experiment)
model

# %% [markdown]
# ## The data
#
# The run says which file it was trained on; it is ordinary CF NetCDF.

# %%
path = model.manifest["provenance"]["data"][0]["path"]
data = xr.open_dataset(path)
data

# %% [markdown]
# Jets and storms: the wind at sigma 0.31, averaged over longitude and time, and a day's height of 500 hPa.

# %%
wind = data["u_component_of_wind"].sel(level=0.3125)
fig, axes = plt.subplots(1, 2, figsize=(11, 3.2), layout="constrained", width_ratios=[1, 2])
wind.mean(["time", "longitude"]).plot(ax=axes[0], y="latitude")
axes[0].set(title="mean eastward wind", xlabel="m s-1")
data["z500"].isel(time=-1).plot(ax=axes[1], cmap="viridis", cbar_kwargs={"label": "m"})
axes[1].set(title="height of 500 hPa, last day")
plt.show()

# %% [markdown]
# ## A forecast
#
# xarray in, CF xarray out. The initial times lie in the last quarter, which training has not seen.

# %%
days = data.isel(time=slice(0, None, 4))  # the model steps a day; the record is six-hourly
first = int(np.ceil(0.75 * days.sizes["time"]))
initial = days.isel(time=slice(first, -5))
forecast = model.rollout(initial, lead_time="5D")
forecast

# %% [markdown]
# ## How good is it?
#
# Persistence needs nothing. Climatology, damped persistence and the linear inverse model are fitted, and
# may learn from the training split only: `score` refuses training data that overlap the forecast. They had 39 days
# to learn from, as the network had, which is little for them: judge no method by this toy.

# %%
training = days.isel(time=slice(0, int(0.65 * days.sizes["time"])))
scores = sg.score(
    forecast,
    days,
    metrics=["rmse", "acc"],
    baselines=["persistence", "climatology", "damped_persistence", "linear_inverse_model"],
    training=training,
)
scores["score"].sel(metric="rmse", lead_time=["P1D", "P3D", "P5D"]).to_series().unstack("lead_time").round(2)

# %%
sg.plot.skill(scores, variable="z500")

# %% [markdown]
# Truth, forecast and error three days ahead.

# %%
sg.plot.maps(forecast, days, "z500", init=0, lead=2)

# %% [markdown]
# ## What the run left behind
#
# `report.html` is the one to open first; `surrogate.load` reads the directory back.

# %%
run = model.directory.parent
sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file() and "checkpoints" not in p.parts)
