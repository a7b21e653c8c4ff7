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
# # From a potential to molecular dynamics
#
# Trains a small interatomic potential of copper and gold, then does with it what one does with a potential: relax a
# crystal, compute its equation of state, run dynamics, look at the structure. Needs the `materials` extra. The data
# are simulated here with effective medium theory (EMT), so that EMT itself can stand beside every answer. The potential
# is trained for seconds; `python -m surrogate.train +experiment=materials` trains one to be used, and its report has
# crystals and dynamics, which are left out here because they are what follows.

# %%
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.visualize.plot import plot_atoms
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import surrogate as sg
from surrogate.atomistic.correlations import mean_squared_displacement
from surrogate.atomistic.state_equation import fit_birch_murnaghan
from surrogate.atomistic.structure import radial_distribution
from surrogate.atomistic.trajectory import energy_drift

experiment = sg.load_experiment(
    "materials",
    [
        "model=descriptor", "model.channels=16", "model.correlation=2", "model.l_max=3", "model.zbl=true",
        "data.simulate.trajectories=8", "data.simulate.frames=12", "data.simulate.lattices=12", "data.cutoff=5.0",
        "train.steps=300", "train.valid_every=150", "evaluate.crystals=[]", "evaluate.dynamics=0",
    ],
)  # fmt: skip
model = sg.fit(experiment)
model

# %% [markdown]
# ## A calculator of ASE
#
# Everything that ASE can do with a calculator it can do with this one. Here: relax atoms and cell of the ordered alloy
# Cu₃Au, from a stretched and shaken start.

# %%
crystal = bulk("Cu", "fcc", a=3.8, cubic=True)
crystal.symbols[0] = "Au"
start = crystal.copy()
start.set_cell(start.cell * [1.03, 0.99, 1.0], scale_atoms=True)
start.rattle(0.05, seed=1)


def relaxed(atoms, calculator):
    atoms = atoms.copy()
    atoms.calc = calculator
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.005, steps=100)
    return atoms


pd.DataFrame(
    {
        name: {
            "edge (Å)": atoms.cell.lengths().mean(),
            "edges differ by (Å)": np.ptp(atoms.cell.lengths()),
            "energy (eV/atom)": atoms.get_potential_energy() / len(atoms),
            "largest force (eV/Å)": np.abs(atoms.get_forces()).max(),
        }
        for name, atoms in (
            ("surrogate", relaxed(start, model.calculator())),
            ("EMT", relaxed(start, EMT())),
        )
    }
).round(4)

# %% [markdown]
# ## Equation of state
#
# Energies at volumes from −12% to +12% and Birch and Murnaghan's curve through them, whose curvature at the minimum is
# the bulk modulus.

# %%
edges = 3.72 * np.cbrt(np.linspace(0.88, 1.12, 13))


def energies_of(calculator):
    found = []
    for edge in edges:
        atoms = crystal.copy()
        atoms.set_cell(edge * np.eye(3), scale_atoms=True)
        atoms.calc = calculator
        found.append(atoms.get_potential_energy() / 4)
    return np.array(found)


volumes = edges**3 / 4
fig, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
fits = {}
for (name, calculator), marker in zip({"surrogate": model.calculator(), "EMT": EMT()}.items(), "ox", strict=True):
    energies = energies_of(calculator)
    state = fit_birch_murnaghan(volumes, energies)
    fine = np.linspace(volumes[0], volumes[-1], 200)
    (line,) = ax.plot(fine, state(fine) - state.energy, lw=1)
    ax.plot(volumes, energies - state.energy, marker, color=line.get_color(), label=name)
    fits[name] = {
        "volume (Å³/atom)": state.volume,
        "bulk modulus (GPa)": state.bulk_modulus,
        "its derivative by pressure": state.bulk_modulus_derivative,
    }
ax.set(xlabel="volume (Å³/atom)", ylabel="energy above the minimum (eV/atom)", title="equation of state of Cu₃Au")
ax.legend()
plt.show()
pd.DataFrame(fits).round(2)

# %% [markdown]
# ## Molecular dynamics
#
# `sg.md` runs whole blocks of steps as one compiled program, neighbor lists included. At constant energy the sum of
# potential and kinetic energy must stay where it is. The dynamics start on the ideal lattice, so half of the kinetic
# energy goes into displacements.

# %%
supercell = crystal * (3, 3, 3)
run = sg.md(model, supercell, steps=2000, temperature=600, time_step=2.0, save_every=10)
run

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
per_atom = 1000 / run.sizes["atom"]
for name in ("potential_energy", "kinetic_energy", "total_energy"):
    axes[0].plot(run["time"], per_atom * (run[name] - run[name][0]), label=name.replace("_", " "))
axes[0].set(xlabel="time (ps)", ylabel="change (meV/atom)", title=f"drift {energy_drift(run):.1e} meV/atom/ps")
axes[0].legend()
axes[1].plot(run["time"], run["temperature"])
axes[1].set(xlabel="time (ps)", ylabel="temperature (K)")
plt.show()
assert int(run["atoms_lost"].max()) == 0

# %% [markdown]
# ## Structure
#
# The radial distribution function of the warm crystal at constant temperature, gold and copper apart. The second half
# of each run counts.

# %%
pictures = {kelvin: sg.md(model, supercell, ensemble="nvt", temperature=kelvin, steps=1500, time_step=2.0)
            for kelvin in (300, 900)}  # fmt: skip
fig, axes = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
for kelvin, warm in pictures.items():
    rdf = radial_distribution(warm.isel(time=slice(75, None)), r_max=7.0, bins=140)
    for ax, pair in zip(axes, ("Cu-Cu", "Cu-Au"), strict=False):
        ax.plot(rdf["r"], rdf["g"].sel(pair=pair), label=f"{kelvin} K")
        ax.set(xlabel="distance (Å)", ylabel="g", title=pair)
    msd = mean_squared_displacement(warm.isel(time=slice(75, None)))["msd"].sel(element="Cu")
    axes[2].plot(msd["lag"], msd, label=f"{kelvin} K")
axes[2].set(xlabel="time (ps)", ylabel="squared displacement (Å²)", title="Cu: it vibrates and does not flow", ylim=0)
for ax in axes:
    ax.legend()
plt.show()

# %% [markdown]
# A picture of the last moment at 900 K, seen along a cube's edge, and the trajectory as NetCDF.

# %%
warm = pictures[900]
last = Atoms(warm["symbol"].values.tolist(), warm["positions"].values[-1], cell=warm["cell"].values, pbc=True)
fig, ax = plt.subplots(figsize=(4, 4), layout="constrained")
plot_atoms(last, ax, rotation="5x,-7y", radii=0.45)
ax.set_axis_off()
plt.show()
warm.to_netcdf("dynamics.nc")

# %% [markdown]
# ## What it refuses
#
# Elements that it was not trained on, and dynamics that cannot be: with the names of what is wrong.

# %%
nickel = supercell.copy()
nickel.symbols[5] = "Ni"
overlapping = supercell.copy()
overlapping.positions[1] = overlapping.positions[0] + [0.2, 0, 0]
for atoms in (nickel, overlapping):
    try:
        sg.md(model, atoms, steps=10)
    except sg.UserError as error:
        print(error)
