"""Potentials called from C, C++, Fortran, Python and ASE, against the potential in this process."""

from __future__ import annotations

import dataclasses
from pathlib import Path
import shutil
import subprocess
import sys

from atom_calls import Given, atoms_in_c, process, summed, whole, with_lists
from flax import nnx
import jax
import numpy as np
from potentials import CUTOFF, SPECIES, InProcess, System, agree, crystal, make_potential
import pytest
from surrogates import make, need

from surrogate.core.types import UserError
from surrogate.domains.atoms_surrogate import AtomsMeaning, AtomsSurrogate
from surrogate.exporting import native, open_bundle
from surrogate.exporting.atoms import atoms_functions, default_capacities, num_layers
from surrogate.exporting.write import export_bundle
from surrogate.run.artefact import read_artefact, write_artefact

LADDER = [(32, 32), (96, 64)]


@pytest.fixture(scope="module")
def potential(tmp_path_factory):  # type: ignore[no-untyped-def]
    """Two layers: an atom's energy depends on those within two cutoffs."""
    return make_potential("potential", tmp_path_factory.mktemp("made") / "model")


@pytest.fixture(scope="module")
def alloy(potential, plugin, library, tmp_path_factory):  # type: ignore[no-untyped-def]
    out = tmp_path_factory.mktemp("potential") / "alloy.sg"
    return export_bundle(potential, out, capacities=LADDER, plugins={"cpu": str(plugin)})


@pytest.fixture(scope="module")
def truth(potential) -> InProcess:  # type: ignore[no-untyped-def]
    return InProcess(potential, 32, 64)


def bar(seed: int = 3) -> System:
    """A chain of 2 × 2 atoms, 8 long, periodic along it: two halves of it see one another at both ends."""
    rng = np.random.default_rng(seed)
    cell = np.array([[22.0, 0, 0], [0.4, 9.0, 0], [0.0, 0.3, 9.0]])
    sites = np.stack(np.meshgrid(np.arange(8), np.arange(2), np.arange(2), indexing="ij"), -1).reshape(-1, 3)
    positions = sites * 2.75 + rng.uniform(-0.25, 0.25, sites.shape)
    return System(positions, rng.choice(SPECIES, 32).astype(np.int32), cell, np.array([True, False, False]))


SYSTEMS = [
    crystal(2), crystal(2, seed=1, spacing=1.9), crystal(3, pbc=False), crystal(2, pbc=(True, False, True)), crystal(1),
    bar(),
]  # fmt: skip


@pytest.mark.slow
def test_python_and_c_are_the_potential(alloy, truth, program, run, tmp_path) -> None:
    """Cells below and above the cutoff, slabs, clusters, atoms outside of the cell; four threads find the same bits."""
    bundle = open_bundle(alloy, check=False)
    found, lines = atoms_in_c(program, run, alloy, [whole(s) for s in SYSTEMS], tmp_path, threads=4, calls=5)
    for system, in_c in zip(SYSTEMS, found, strict=True):
        expected = truth(system)
        assert np.abs(expected["forces"]).max() > (0.05 if len(system.numbers) > 1 else -1)
        agree(bundle(system.inputs()), expected)
        agree(in_c, expected)
        np.testing.assert_allclose(in_c["atom_virials"].sum(0), in_c["virial"], atol=1e-12)
        np.testing.assert_array_equal(in_c["virial"], in_c["virial"].T)
    assert found[1]["used"][2] == 1  # compressed: more neighbors than the first rung has slots
    assert lines == ["info\tenergy_forces_stress 4 2 13:-3.36 29:-3.49 32x32 96x64"]
    assert bundle.layers == 2
    assert bundle.cutoff == CUTOFF


def test_single_precision_loses_nothing_far_from_the_origin(alloy, program, run, tmp_path) -> None:
    """Vectors are formed in double precision: a million Å away the forces keep all digits that positions have."""
    near = crystal(3, pbc=False)
    far = dataclasses.replace(near, positions=near.positions + 1048576.0)
    rounded = dataclasses.replace(near, positions=far.positions - 1048576.0)
    found, _ = atoms_in_c(program, run, alloy, [whole(rounded), whole(far)], tmp_path)
    agree(found[1], {k: found[0][k] for k in ("energy", "forces", "virial", "atom_energies")}, 2e-6)
    bundle = open_bundle(alloy, check=False)
    agree(bundle(far.inputs()), {k: found[0][k] for k in ("energy", "forces", "atom_energies")})


def test_processes_with_ghosts_add_up(alloy, truth, program, run, tmp_path) -> None:
    """Domain decomposition: forces on ghosts, sent back, make up those of the whole, and so do energy and virial."""
    system = bar()
    expected = truth(system)
    halves = [np.arange(16), np.arange(16, 32)]
    reach = 2 * CUTOFF + 0.3
    parts = [process(system, mine, reach) for mine in halves]
    listed = [with_lists(p, len(p.numbers), CUTOFF + 0.5) for p in parts]
    found, _ = atoms_in_c(program, run, alloy, [*parts, *listed], tmp_path)
    for given, results in ((parts, found[:2]), (listed, found[2:])):
        total = summed(system, list(zip(given, results, strict=True)))
        agree(total, {k: expected[k] for k in total})
        assert np.abs(results[0]["forces"][16:]).max() > 1e-2
    # Of two cutoffs around nothing is missed, and less shows.
    short = [process(system, mine, CUTOFF + 0.1) for mine in halves]
    wrong, _ = atoms_in_c(program, run, alloy, short, tmp_path)
    total = summed(system, list(zip(short, wrong, strict=True)))
    assert np.abs(total["forces"] - expected["forces"]).max() > 1e-3
    # Ghosts that do not matter are left out of the program.
    distant = process(system, halves[0], 10 * CUTOFF)
    again, _ = atoms_in_c(program, run, alloy, [distant], tmp_path)
    assert again[0]["used"][0] < len(distant.numbers)
    agree(again[0], {k: found[0][k] for k in ("energy", "virial", "atom_energies")}, 5e-6)


def test_periodic_copies_of_own_atoms(alloy, truth, program, run, tmp_path) -> None:
    """One process with LAMMPS' lists: ghosts are copies of its own atoms, one cutoff around, in a cell below the cutoff."""
    systems = [crystal(2), crystal(2, seed=5, skew=0.4), crystal(1), bar()]
    given = []
    for system in systems:
        n = len(system.numbers)
        part = process(system, np.arange(n), CUTOFF + 0.5)
        given.append(with_lists(part, n, CUTOFF + 0.4, owners=True))
    found, _ = atoms_in_c(program, run, alloy, given, tmp_path)
    for system, part, result in zip(systems, given, found, strict=True):
        n = len(system.numbers)
        expected = truth(system)
        assert result["used"][0] == n
        if system.pbc.all():
            agree(result, {"stress": expected["stress"]})
        assert not result["forces"][n:].any()
        total = summed(system, [(part, result)])
        agree(total, {k: expected[k] for k in total})


def test_what_no_capacity_holds_is_refused_with_numbers(alloy, program, run, tmp_path) -> None:
    many, dense = crystal(5, pbc=False), crystal(2, spacing=1.4)
    found, lines = atoms_in_c(program, run, alloy, [whole(many), whole(dense), whole(crystal(2))], tmp_path)
    assert [f["status"] for f in found] == [1, 1, 0]
    ladder = "fit into no capacity of the Bundle (32x32, 96x64): export it with a larger one"
    assert "energy_forces_stress: 125 atoms with up to " in lines[1]
    assert ladder in lines[1]
    assert f"within 4 angstrom {ladder}" in lines[2]
    bundle = open_bundle(alloy, check=False)
    for system in (many, dense):
        with pytest.raises(UserError, match=r"atoms with up to \d+ neighbors within 4 Å fit into no capacity"):
            bundle(system.inputs())
    nobody, _ = atoms_in_c(program, run, alloy, [Given(np.zeros((0, 3)), np.zeros(0)),
                           Given(np.zeros((2, 3)), np.full(2, 13), 2)], tmp_path)  # fmt: skip
    assert [n["energy"] for n in nobody] == [0, 0]


@pytest.mark.slow
def test_misuse_is_told_in_sentences(alloy, bundle, program, run) -> None:
    done = run(program("atoms_errors.c"), alloy, bundle)
    assert done.returncode == 0, done.stderr
    found = {line.split("\t")[0]: (int(line.split("\t")[1]), line.split("\t")[2]) for line in done.stdout.splitlines()}
    for what in ("create", "good", "lists", "prepare", "again", "close"):
        assert found.pop(what)[0] == 0, what
    expected = {
        "fields": (1, "is no Bundle of a potential"), "null": (1, "given a NULL"), "close_in_use": (1, "in use by 1 contexts"),
        "system_size": (2, "got 8 and"), "result_size": (2, "and 0"), "null_system": (2, "got 0 and"),
        "null_atoms": (1, "the potential is NULL"), "pbc_without_cell": (1, "pbc is set and the cell is NULL"),
        "flat_cell": (1, "spans no volume"), "species": (1, "atom 1 has atomic number 79; the potential knows 2 species, 13 to 29"),
        "negative": (1, "-1 atoms"), "null_positions": (1, "positions or numbers are NULL"),
        "one_place": (1, "atoms 0 and 1 are in one place"), "ghosts_and_pbc": (1, "with ghosts pbc must be 0"),
        "half_list": (1, "full lists are needed"), "own_neighbor": (1, "the neighbor list of atom 0 of 3 has 0 in it"),
        "index": (1, "the neighbor list of atom 0 of 3 has 7 in it"), "list_count": (1, "2 neighbor lists for 3 atoms"),
        "ghost_lists": (1, "passes messages over 2 layers"), "owner": (1, "ghost 2 has the owner 5 of 2 atoms"),
        "owners_alone": (1, "owners of ghosts need neighbor lists"), "prepare_huge": (1, "1000000 atoms with up to 20"),
        "info_size": (1, "struct_size is set"),
    }  # fmt: skip
    assert set(found) == set(expected)
    for what, (status, words) in expected.items():
        assert found[what][0] == status, (what, found[what])
        assert words in found[what][1], (what, found[what])


def written_in_the_callers() -> System:
    """The eight atoms of atoms_caller.f90 and atoms_caller.cpp."""
    cell = np.array([[5.5, 0, 0], [0.7, 5.4, 0], [-0.4, 0.9, 5.7]])
    i = np.arange(1, 9)
    half = 0.5 * np.stack([(i - 1) % 2, (i - 1) // 2 % 2, (i - 1) // 4], 1)
    positions = half @ cell + 0.2 * np.stack([np.sin(1.7 * i), np.cos(2.3 * i), np.sin(3.1 * i)], 1)
    return System(positions, np.where(i % 3 == 0, 13, 29).astype(np.int32), cell, np.ones(3, bool))


def values_of(text: str) -> dict[str, np.ndarray]:
    rows = [line.split() for line in text.splitlines()]
    shapes = {"forces": (8, 3), "slab_forces": (8, 3), "stress": (3, 3), "virial": (3, 3), "energy": ()}
    return {
        row[0]: np.array(row[1:], float).reshape(shapes.get(row[0], (-1,))) for row in rows if row[0] not in _WORDS
    }  # fmt: skip


_WORDS = ("none", "shape", "forces_shape", "species", "twice", "refused")


def test_fortran_calls_a_potential(alloy, truth, library, run, tmp_path) -> None:
    need("gfortran")
    sources = [str(native.HERE / "surrogate.f90"), str(native.HERE / "surrogate_atoms.f90"),
               str(Path(__file__).with_name("atoms_caller.f90"))]  # fmt: skip
    command = ["gfortran", "-std=f2018", "-O1", "-Wall", "-Wextra", "-fcheck=all", "-ffpe-trap=invalid,zero,overflow", *sources,
               "-o", "caller", f"-L{library.directory}", "-lsurrogate", f"-Wl,-rpath,{library.directory}"]  # fmt: skip
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    done = run(tmp_path / "caller", alloy)
    assert done.returncode == 0, done.stderr
    values = values_of(done.stdout)
    system = written_in_the_callers()
    agree(values, truth(system))
    slab = truth(dataclasses.replace(system, pbc=np.array([True, False, True])))
    assert values["slab_energy"] == pytest.approx(slab["energy"], rel=1e-6)
    np.testing.assert_allclose(values["slab_forces"][::-1], slab["forces"], atol=1e-5 * np.abs(slab["forces"]).max())
    cluster = truth(dataclasses.replace(system, pbc=np.zeros(3, bool)))
    assert values["ghost_energy"] == pytest.approx(cluster["atom_energies"][:6].sum(), rel=1e-6)
    np.testing.assert_array_equal(values["info"], [4, 2, 13, 29])
    refused = {line.split()[0]: line.split(maxsplit=1)[1] for line in done.stdout.splitlines()}
    assert refused["none"].startswith("1 the potential was not created")
    assert refused["shape"].startswith("1 positions must have the shape (3, size(numbers))")
    assert refused["forces_shape"].startswith("1 forces must have the shape")
    assert refused["species"].startswith("1 energy_forces_stress: atom 1 has atomic number 1;")
    assert refused["twice"].startswith("1 the potential is created already")


def test_cpp_calls_a_potential(alloy, truth, program, run) -> None:
    done = run(program("atoms_caller.cpp"), alloy)
    assert done.returncode == 0, done.stderr
    values = values_of(done.stdout)
    agree(values, truth(written_in_the_callers()))
    np.testing.assert_array_equal(values["info"], [4, 2, 2])
    refused = [line for line in done.stdout.splitlines() if line.startswith("refused")]
    assert refused[0].startswith("refused 1 energy_forces_stress: atom 3 has atomic number 8")
    assert refused[1].startswith("refused 1 energy_forces_stress: 100000 atoms")


def test_the_potentials_example_builds_and_conserves_energy(alloy, library, run, tmp_path) -> None:
    need("gfortran")
    for name in ("surrogate.f90", "surrogate_atoms.f90", "example.f90"):
        shutil.copy(alloy / name, tmp_path)
    text = (alloy / "example.f90").read_text()
    assert "gfortran -o example surrogate.f90 surrogate_atoms.f90 example.f90 -L. -lsurrogate" in text
    command = ["gfortran", "-Wall", "-std=f2018", "-o", "example", "surrogate.f90", "surrogate_atoms.f90", "example.f90",
               f"-L{library.directory}", "-lsurrogate", f"-Wl,-rpath,{library.directory}"]  # fmt: skip
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    done = run(tmp_path / "example", alloy)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) == 6
    potential, total = (np.array([row[k] for row in rows], float) for k in (4, 7))
    assert np.ptp(total) < 0.02 * np.ptp(potential) + 1e-5


def test_python_callers_of_a_potential_are_told_what_is_wrong(alloy) -> None:
    bundle = open_bundle(alloy, check=False)
    good = crystal(2).inputs()
    for change, message in (
        ({"charges": 1}, "no input 'charges'; it takes positions, numbers, cell, pbc"),
        ({"numbers": np.full(8, 6)}, "atom 0 has atomic number 6; the potential knows 13, 29"),
        ({"numbers": np.full(8, 13.0)}, "numbers are float64"),
        ({"numbers": np.full(7, 13)}, r"positions have shape \(8, 3\) and numbers \(7,\)"),
        ({"cell": np.zeros(3)}, r"cell has shape \(3,\)"),
        ({"cell": np.zeros((3, 3))}, "spans no volume"),
        ({"positions": np.zeros((8, 3))}, "in one place"),
    ):
        with pytest.raises(UserError, match=message):
            bundle({**good, **change})
    with pytest.raises(UserError, match="needs the input 'numbers'"):
        bundle({"positions": good["positions"]})
    # Without a cell it is a cluster; with one and no word about pbc it is periodic.
    cluster = bundle({"positions": good["positions"], "numbers": good["numbers"]})
    agree(cluster, bundle({**good, "pbc": False}), 1e-7)
    agree(bundle({k: v for k, v in good.items() if k != "pbc"}), bundle(good), 1e-7)
    assert np.isnan(cluster["stress"]).all()
    with pytest.raises(UserError, match="needs the input 'vectors'"):
        bundle({}, bundle.functions[1])
    assert [a["name"] for a in bundle.inputs()] == ["positions", "numbers", "cell", "pbc"]
    assert {a["name"]: a["units"] for a in bundle.outputs()}["stress"] == "eV/angstrom^3"
    assert bundle.inputs(bundle.functions[1])[0]["shape"] == [3, 32, 32]


def test_a_ladder_that_is_none_is_refused_in_c(alloy, program, run, tmp_path) -> None:
    """A whole, sealed manifest whose entry of atoms is improper: it must not be believed."""
    manifest, files = read_artefact(alloy)
    for name in ("digest", "files"):
        manifest.pop(name, None)
    record = manifest["atoms"]
    first = record["rungs"][0]
    for change, message in (
        ({"rungs": [{**first, "atoms": 64}]}, "names a function with other arguments"),
        ({"rungs": [{**first, "function": "nothing"}]}, "names a function with other arguments"),
        ({"rungs": [{**first, "neighbors": -4}]}, "has a rung that is none"),
        ({"rungs": []}, "has no ladder"),
        ({"species": [29, 13]}, "has species that are no atomic numbers"),
        ({"reference_energies": [1.0]}, "is not that of a potential"),
        ({"cutoff": 0}, "is not that of a potential"),
        ({"layers": 1.5}, "is not that of a potential"),
    ):
        write_artefact(tmp_path / "bad.sg", files, {**manifest, "atoms": {**record, **change}})
        done = run(program("atoms_errors.c"), tmp_path / "bad.sg", "-")
        line = next(line for line in done.stdout.splitlines() if line.startswith("create"))
        assert line.split("\t")[1] == "3", (change, line)
        assert message in line, (change, line)


def test_layers_are_found_by_asking(potential, tmp_path) -> None:
    """A potential without messages sees one cutoff far, one with two layers two."""
    single = make_potential("descriptor", tmp_path / "model")
    assert num_layers(nnx.merge(single.graphdef, single.params), single.geometry) == 1
    assert num_layers(nnx.merge(potential.graphdef, potential.params), potential.geometry) == 2
    with pytest.raises(UserError, match="more than 1 cutoffs"):
        num_layers(nnx.merge(potential.graphdef, potential.params), potential.geometry, most=1)


def test_exports_of_potentials_that_make_no_sense(potential, tmp_path) -> None:
    for settings, message in (
        ({"capacities": [(0, 4)]}, "the capacity 0x4 must be"),
        ({"capacities": [(8, 4), (8, 4)]}, "must be different"),
        ({"steps": [2]}, "steps= is for surrogates that advance a state"),
        ({"batches": [2]}, "of atoms capacities= says what a program takes"),
    ):
        with pytest.raises(UserError, match=message):
            export_bundle(potential, tmp_path / "x.sg", unverified=("cpu",), **settings)
    fields = make(tmp_path / "f", shape=(3, 4), history=1, monthly=False, features=("position",), land=False)
    with pytest.raises(UserError, match="capacities= is for surrogates of atoms"):
        export_bundle(fields, tmp_path / "x.sg", unverified=("cpu",), capacities=[(8, 8)])
    wide = jax.tree.map(lambda v: np.asarray(v, np.float64), potential.params)
    with pytest.raises(UserError, match=r"computes in float64 .*model.dtype=float32"):
        atoms_functions(potential.geometry, potential.graphdef, wide)
    meaning = dataclasses.replace(potential.meaning, target="gap")
    other = AtomsSurrogate(potential.manifest, meaning, potential.graphdef, potential.params, potential.directory)
    with pytest.raises(UserError, match="gives the property 'gap'; of atoms only potentials"):
        export_bundle(other, tmp_path / "x.sg", unverified=("cpu",))
    assert default_capacities(potential.geometry) == [(64, 40), (512, 40)]


@pytest.mark.slow
def test_a_potential_without_messages_needs_no_lists_of_ghosts(plugin, program, run, tmp_path) -> None:
    single = make_potential("descriptor", tmp_path / "model")
    out = export_bundle(single, tmp_path / "single.sg", capacities=[(96, 64)], plugins={"cpu": str(plugin)})
    system = bar()
    expected = InProcess(single, 32, 64)(system)
    parts = [process(system, mine, CUTOFF + 0.3) for mine in (np.arange(16), np.arange(16, 32))]
    given = [with_lists(p, 16, CUTOFF + 0.2) for p in parts]
    found, lines = atoms_in_c(program, run, out, given, tmp_path)
    assert lines[0].startswith("info\tenergy_forces_stress 4 1 ")
    total = summed(system, list(zip(given, found, strict=True)))
    agree(total, {k: expected[k] for k in total})


@pytest.mark.slow
def test_of_an_ensemble_the_mean_is_exported(plugin, program, run, tmp_path) -> None:
    made = make_potential("descriptor", tmp_path / "model", members=2)
    out = export_bundle(made, tmp_path / "mean.sg", capacities=[(16, 64)], plugins={"cpu": str(plugin)})
    system = crystal(2)
    each = []
    for k in range(2):
        params = jax.tree.map(lambda v, k=k: v[k], made.params)
        each.append(
            InProcess(AtomsSurrogate(made.manifest, AtomsMeaning(made.geometry), made.graphdef, params), 16, 64)(system)
        )
    found, _ = atoms_in_c(program, run, out, [whole(system)], tmp_path)
    agree(found[0], {k: (each[0][k] + each[1][k]) / 2 for k in each[0]})
    assert np.abs(each[0]["forces"] - each[1]["forces"]).max() > 1e-3


@pytest.mark.slow
def test_ase_reads_the_bundle(potential, alloy, truth) -> None:
    """Energies, forces and stress in ASE's order and signs; the stress is the derivative of ASE's own energies."""
    ase = pytest.importorskip("ase")
    from surrogate.exporting.ase_bundle import BundleCalculator

    system = crystal(2)
    atoms = ase.Atoms(system.numbers, system.positions, cell=system.cell, pbc=True, calculator=BundleCalculator(alloy))
    expected = truth(system)
    found = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress(voigt=False),
             "atom_energies": atoms.get_potential_energies()}  # fmt: skip
    agree(found, {**{k: expected[k] for k in found}})
    # Pulled along yz: dE / strain over volume, by differences.
    step, energies = 1e-3, []
    for sign in (1, -1):
        strain = np.eye(3)
        strain[1, 2] = strain[2, 1] = sign * step / 2
        strained = atoms.copy()
        strained.calc = atoms.calc
        strained.set_cell(system.cell @ strain, scale_atoms=True)
        energies.append(strained.get_potential_energy())
    slope = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
    assert atoms.get_stress()[3] == pytest.approx(slope, abs=2e-3 * np.abs(expected["stress"]).max() + 1e-6)
    atoms.pbc = False
    with pytest.raises(NotImplementedError):
        atoms.get_stress()


@pytest.mark.slow
def test_python_callers_of_a_potential_need_jax_alone(alloy, truth, tmp_path) -> None:
    system = crystal(2)
    np.savez(tmp_path / "in.npz", **system.inputs())
    program = """
import sys, numpy as np
from surrogate.exporting import open_bundle
found = open_bundle(sys.argv[1])(dict(np.load(sys.argv[2] + "/in.npz")))
np.savez(sys.argv[2] + "/out.npz", **found)
print(*sorted({m.split(".")[0] for m in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", program, str(alloy), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & {
        "flax",
        "hydra",
        "omegaconf",
        "orbax",
        "optax",
        "xarray",
        "tensorstore",
        "ase",
    }
    agree(dict(np.load(tmp_path / "out.npz")), truth(system))
