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
# # Ask a finished surrogate
#
# Opens what `train_and_explore` left in `runs/climate/latest` (or a run of `python -m surrogate.train
# +experiment=climate`: give its directory below) and asks: what do you know, how do you know it, and how far can you
# be trusted?

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr

import surrogate as sg

model = sg.load("runs/climate/latest")
model

# %% [markdown]
# ## What it knows
#
# The spec: every variable with its role, units and level, the grid and the time step.

# %%
pd.DataFrame([{"key": v.key, "role": v.role, "units": v.units, "name": v.standard_name} for v in model.spec.variables])

# %% [markdown]
# Where it comes from: settings, packages and the data with their SHA-256. Every file was verified on loading.

# %%
provenance = model.manifest["provenance"]
source = provenance["data"][0]
{
    "model": model.manifest["model"],
    "created": provenance["created"],
    "jax": provenance["packages"]["jax"],
    "steps": provenance["steps"],
    "data": source["path"].rsplit("/", 1)[-1],
    "sha256": source["sha256"][:16],
}

# %% [markdown]
# How good it was on the test split when it was trained, beside the baselines.

# %%
tables = {"surrogate": provenance["scores"]["test"], **provenance["baselines"]}
rows = {
    (key, name): {lead: table[key]["rmse"][lead] for lead in model.leads}
    for key in model.spec.keys
    for name, table in tables.items()
}
pd.DataFrame.from_dict(rows, orient="index").round(2)

# %% [markdown]
# ## A forecast, written and read
#
# A state in, five days out, as CF NetCDF that any tool of the field reads.

# %%
data = xr.open_dataset(source["path"]).isel(time=slice(-240, None))  # the last sixty days
state = data.isel(time=[-40])
forecast = model.rollout(state, lead_time="5D")
forecast.to_netcdf("forecast.nc")
again = xr.open_dataset("forecast.nc", decode_timedelta=False)
xr.testing.assert_equal(again, forecast)
again

# %% [markdown]
# ## What it refuses
#
# A state in other units is not a state it knows.

# %%
celsius = state.copy()
celsius["temperature"] = (state["temperature"] - 273.15).assign_attrs(units="degC")
try:
    model.rollout(celsius, lead_time="1D")
except sg.UserError as error:
    print(error)

# %% [markdown]
# ## How sensitive is it?
#
# In an atmosphere small differences grow until two forecasts are as unlike as two days drawn at random. Ten initial
# states, each with 5% of another day's anomaly added, and the spread among their forecasts. The dashed line is
# where growth must end: the standard deviation of the simulation.

# %%
xr.set_options(keep_attrs=True)
names = list(dict.fromkeys(v.name for v in model.spec.variables))
anomaly = (data - data.mean("time"))[names]
members = []
for day in np.linspace(0, data.sizes["time"] - 60, 10).astype(int):
    member = state[names] + 0.05 * anomaly.isel(time=day, drop=True)
    members.append(model.rollout(member, lead_time="15D"))
ensemble = xr.concat(members, "realization")


def global_rms(variance):
    return np.sqrt(variance.weighted(np.cos(np.deg2rad(variance["latitude"]))).mean(["latitude", "longitude"]))


spread = global_rms(ensemble["z500"].var("realization", ddof=1)).squeeze()
limit = float(global_rms(data["z500"].var("time")))

fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.semilogy(spread["lead_time"] / 24, spread, marker="o")
ax.axhline(limit, linestyle="--", color="0.4")
ax.set(xlabel="lead (days)", ylabel="spread of z500 (m)", title="growth of a small perturbation")
plt.show()

# %% [markdown]
# ## What happens if it runs on?
#
# A forecast far beyond the leads that it was scored at tells whether the surrogate keeps a climate: the mean
# should not drift, the variability should neither die nor explode. Dashed is the mean of the simulation itself. A
# network that has seen a month of weather may well fail here, whatever its scores at five days: more data
# (`data.simulate`) and a loss over more steps (`train.curriculum`) are what to try.

# %%
free = model.rollout(state, lead_time="60D")


def mean_and_eddies(field):
    """The global mean, and the rms deviation from the zonal mean, of every time."""
    mean = field.weighted(np.cos(np.deg2rad(field["latitude"]))).mean(["latitude", "longitude"])
    return mean, global_rms((field - field.mean("longitude")) ** 2)


mean, eddy = mean_and_eddies(free["z500"].squeeze("init_time", drop=True))
true_mean, true_eddy = (float(x.mean()) for x in mean_and_eddies(data["z500"]))
fig, axes = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
for ax, series, truth, title in (
    (axes[0], mean, true_mean, "global mean of z500 (m)"),
    (axes[1], eddy, true_eddy, "eddies: rms deviation from the zonal mean (m)"),
):
    ax.plot(series["lead_time"] / 24, series)
    ax.axhline(truth, linestyle="--", color="0.4")
    ax.set(title=title, xlabel="lead (days)")
plt.show()

# %%
finite = bool(np.isfinite(free.to_dataarray()).all())
drift = float(mean[-1] - true_mean)
print(f"finite to the end: {finite}; global mean of z500 on day 60 off by {drift:.1f} m")
print(f"eddies on day 60: {float(eddy[-1]):.0f} m, in the simulation {true_eddy:.0f} m on average")
