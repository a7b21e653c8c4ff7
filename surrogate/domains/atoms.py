"""Atoms: interatomic potentials from energies, forces and stresses, or a scalar property of molecules."""

from __future__ import annotations

from collections.abc import Callable, Hashable
import logging
from pathlib import Path
from typing import Any, cast

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from surrogate.atomistic.predict import ModelPredictor
from surrogate.atomistic.prototypes import choose_crystals
from surrogate.config import Experiment, build
from surrogate.core.types import PyTree, UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_labels import Labels
from surrogate.data.atoms_ragged import read_splits, write_ragged
from surrogate.data.atoms_settings import AtomsDataConfig
from surrogate.data.atoms_source import open_atoms, provenance
from surrogate.data.elements import SYMBOLS
from surrogate.data.pipeline import batch_indices
from surrogate.domains.atoms_batch import Structures, make_batch, targets_of
from surrogate.domains.atoms_cutoff import choose_cutoff
from surrogate.domains.atoms_loss import MEV, atoms_loss
from surrogate.domains.atoms_surrogate import AtomsMeaning, AtomsSurrogate
from surrogate.domains.base import Domain, Evaluation
from surrogate.models.atoms_base import AtomsGeometry, fit_reference_energies
from surrogate.models.base import find_model, find_registered_model
from surrogate.models.capacities import choose_ladder

log = logging.getLogger(__name__)

WEIGHTS = {"energy": 1.0, "forces": 1.0, "stress": 1.0}


class Atoms(Domain):
    """Configurations of any number of atoms, packed into batches of few shapes.

    A stage is the number of the curriculum's stage and the shape of the batch; only the shape needs a program of its own.
    """

    Data = AtomsDataConfig
    packs = True
    splits: dict[str, Frames]
    meaning: AtomsMeaning

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.data: AtomsDataConfig = experiment.data
        self._structures: dict[str, Structures] = {}

    # -- opening ---------------------------------------------------------------------------------

    def open(self) -> None:
        config, train = self.experiment.model, self.experiment.train
        if (takes := getattr(find_model(self.experiment.model_name), "takes", "fields")) != "atoms":
            raise UserError(
                f"model {self.experiment.model_name!r} takes {takes}; for atoms there are potential and descriptor"
            )
        if train.loss.kind not in ("mse", "huber"):
            raise UserError(f"train.loss.kind={train.loss.kind} is for fields; for atoms there are mse and huber")
        if any(stage.rollout != 1 for stage in train.curriculum):
            raise UserError(
                "train.curriculum has stages of several rollout steps, but atoms have no time step: leave rollout out"
            )
        if config.dtype == "float64":
            jax.config.update("jax_enable_x64", True)
        self.splits = {name: targets_of(frames, self.data) for name, frames in open_atoms(self.data).items()}
        self.weights = self._loss_weights()
        self.crystals = (
            () if self.data.properties else choose_crystals(self.experiment.evaluate.crystals, self.splits["train"])
        )
        frames = self.splits["train"]
        species = tuple(int(z) for z in np.unique(frames.species))
        cutoff = choose_cutoff(frames) if self.data.cutoff is None else self.data.cutoff
        empty = AtomsGeometry(species, cutoff, 1.0)
        for name in ("train", "valid"):
            if name in self.splits:
                self._structures[name] = Structures(self.splits[name], empty, name)
        found = self._structures["train"]
        neighbors = max(found.num_edges / frames.num_atoms, 1e-3)
        if found.num_edges == 0:
            raise UserError(f"no atom of the training data has a neighbor within data.cutoff={cutoff} Å")
        references = self._reference_energies(frames, species)
        geometry = AtomsGeometry(species, cutoff, neighbors, self._scale(frames, references), references)
        self.meaning = AtomsMeaning(geometry, config.dtype, self.data.properties[0] if self.data.properties else "energy",
                                    self._units(frames), self.data.pooling, train.ensemble if train.ensemble > 1 else 0)  # fmt: skip
        self.ladder = choose_ladder(found.sizes, found.slots, self._per_pack)
        # Of all that are only looked at: one shape, whatever the order.
        self.wide = {
            name: choose_ladder(f.sizes, f.slots, min(train.batch_size, len(f)), rungs=1)
            for name, f in self._structures.items()
        }
        self._rungs: dict[int, int] = {}

    def _loss_weights(self) -> list[dict[str, float]]:
        """Weights of energy, forces and stress for each stage of the curriculum."""
        frames, chosen = self.splits["train"], []
        there = {
            "energy": frames.energy is not None,
            "forces": frames.forces is not None,
            "stress": bool(frames.has_stress.any()),
        }
        for stage in self.experiment.train.curriculum:
            given = {**self.experiment.train.loss.variables, **stage.variables}
            for name, weight in given.items():
                if name not in WEIGHTS:
                    raise UserError(f"the loss of atoms has weights of energy, forces and stress, not of {name!r}")
                if weight < 0:
                    raise UserError(f"the weight of {name} in the loss is {weight}, it must not be negative")
                if weight and not there[name]:
                    raise UserError(
                        f"the loss has a weight for the {name}, but the training data hold none: name it in data.{name}"
                    )
            weights = {name: given.get(name, usual if there[name] else 0.0) for name, usual in WEIGHTS.items()}
            if not any(weights.values()):
                raise UserError("every weight of the loss is 0, so there is nothing to learn")
            chosen.append(weights)
        return chosen

    def _reference_energies(self, frames: Frames, species: tuple[int, ...]) -> tuple[float, ...]:
        given = self.data.reference_energies
        if given:
            symbols = [SYMBOLS[z] for z in species]
            if missing := [s for s in symbols if s not in given]:
                raise UserError(f"data.reference_energies has no {missing[0]}; it needs {', '.join(symbols)}")
            return tuple(float(given[s]) for s in symbols)
        if frames.energy is None:
            return (0.0,) * len(species)
        counts = np.zeros((len(frames), len(species)))
        np.add.at(counts, (frames.frame_of_atom, np.searchsorted(species, frames.species)), 1)
        return tuple(float(e) for e in fit_reference_energies(counts, frames.energy))

    def _scale(self, frames: Frames, references: tuple[float, ...]) -> float:
        """RMS of the force components in eV/Å, without forces the deviation of the energies per atom in eV."""
        if frames.forces is not None:
            return max(float(np.sqrt(np.mean(frames.forces**2))), 1e-3)
        place = np.searchsorted(np.unique(frames.species), frames.species)
        known = np.bincount(frames.frame_of_atom, np.asarray(references)[place], len(frames))
        energy = cast(np.ndarray, frames.energy)  # without forces there are energies
        return max(float(np.std((energy - known) / frames.row_size)), 1e-3)

    def _units(self, frames: Frames) -> str:
        return frames.property_units[self.data.properties[0]] if self.data.properties else "eV"

    # -- samples ---------------------------------------------------------------------------------

    def num_samples(self, split: str, stage: Hashable) -> int:
        return len(self.splits.get(split, ()))

    def stage(self, step: int) -> tuple[int, int]:
        return self.experiment.train.stage_at(step), self._rung(step)

    def program(self, stage: Hashable) -> Hashable:
        return cast(tuple[int, int], stage)[1]

    @property
    def _per_pack(self) -> int:
        """Configurations in a pack: every device has its own of each part that a batch is accumulated in."""
        train = self.experiment.train
        return train.batch_size // (train.accumulate * self.placement.batch_shards)

    def _rung(self, step: int) -> int:
        if step not in self._rungs:
            train, found = self.experiment.train, self._structures["train"]
            indices = batch_indices(train.seed, step, train.batch_size, len(found))
            indices = indices[self.placement.row_order(train.batch_size, train.accumulate)]
            self._rungs[step] = max(
                self.ladder.rungs.index(self.ladder.rung(*found.shape_of(part)))
                for part in indices.reshape(-1, self._per_pack)
            )
        return self._rungs[step]

    def batch(self, split: str, indices: np.ndarray, stage: Hashable) -> PyTree:
        if split not in self._structures:
            raise UserError(f"batches are of the training and validation splits, not of {split!r}")
        found = self._structures[split]
        number, rung = cast(tuple[int, int], stage)
        training = split == "train"
        parts = indices.reshape(-1, self._per_pack) if training else [indices]
        capacity = self.ladder.rungs[rung] if training else self.wide[split].rungs[-1]
        weights = np.array([self.weights[number][name] for name in WEIGHTS], np.float32)
        made = [make_batch(found, part, capacity, self.meaning, weights) for part in parts]
        return jax.tree.map(lambda *x: np.stack(x), *made)

    # -- learning --------------------------------------------------------------------------------

    def build_model(self, rngs: nnx.Rngs) -> nnx.Module:
        model: Any = find_model(self.experiment.model_name)
        return model(self.meaning.geometry, self.experiment.model, rngs=rngs)

    def constants(self) -> PyTree:
        return {}

    def loss(
        self, model: nnx.Module, constants: PyTree, batch: PyTree, key: jax.Array, stage: Hashable
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Weighted errors of energy per atom, forces and virial per atom in units of the training forces' RMS."""
        config = self.experiment.train.loss
        delta = config.delta if config.kind == "huber" else None
        derivatives = any(w["forces"] or w["stress"] for w in self.weights)
        loss, logged = atoms_loss(model, batch, self.meaning.geometry.scale, delta, derivatives)
        if self.data.properties:
            # What is learnt in place of the energy per atom has a name and units of its own.
            name = self.data.properties[0] + ("_per_atom" if self.data.pooling == "sum" else "")
            logged = {f"{name}_rmse": logged["energy_rmse"] / MEV}
        return loss, logged

    def flops(self) -> float:
        """Of energies, and of forces where they are learnt, of a configuration of mean size."""
        count: Any = getattr(find_model(self.experiment.model_name), "flops", None)
        if count is None:
            return 0.0
        frames = self.splits["train"]
        forces = 3.0 if frames.forces is not None else 1.0
        return forces * float(count(self.meaning.geometry, self.experiment.model)) * frames.num_atoms / len(frames)

    # -- results ---------------------------------------------------------------------------------

    def evaluate(self, graphdef: Any, params: PyTree, split: str = "test") -> Evaluation:
        from surrogate.domains.atoms_evaluate import evaluate_atoms

        return evaluate_atoms(self, graphdef, params, split)

    def predictor(self, graphdef: Any, params: PyTree) -> ModelPredictor:
        return self.meaning.predictor(graphdef, jax.tree.map(jnp.asarray, params))

    def artefact(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        meaning = self.meaning.to_dict() | {
            "labels": dict(self.splits["train"].labels),
            "data": self.splits["train"].stats(),
        }
        return meaning, {"reference_energies": self.meaning.geometry.references()}

    def golden(self, graphdef: Any, params: PyTree) -> dict[str, np.ndarray]:
        """Two training configurations and what the potential says of them."""
        frames = self.splits["train"][np.unique([0, len(self.splits["train"]) - 1])]
        found: Any = self.predictor(graphdef, params)(frames)
        arrays = {
            "positions": frames.positions, "species": frames.species, "cell": frames.cell,
            "pbc": frames.pbc.astype(np.int8), "row_size": frames.row_size.astype(np.int32),
            "energy": found.energy, "forces": found.forces, "stress": found.stress, "atom_energies": found.atom_energies,
        }  # fmt: skip
        return arrays

    @classmethod
    def restore(
        cls, manifest: dict[str, Any], arrays: dict[str, np.ndarray], fill: Callable[[nnx.Module], tuple[Any, PyTree]]
    ) -> AtomsSurrogate:
        meaning = AtomsMeaning.from_dict(manifest["meaning"], arrays["reference_energies"])
        if meaning.dtype == "float64":
            jax.config.update("jax_enable_x64", True)
        model_class: Any = find_registered_model(str(manifest["model"]["name"]))
        config = build(model_class.Config, manifest["model"]["settings"], "model.settings")
        return AtomsSurrogate(manifest, meaning, *meaning.fill_model(model_class, config, fill))

    def provenance(self) -> list[dict[str, Any]]:
        return provenance(self.data)

    @classmethod
    def write_store(cls, data: AtomsDataConfig, path: Path) -> str:
        """Write the frames of all splits as ragged NetCDF, read them back, and say what is there.

        Raises:
            UserError: when the data are refused, the file cannot be written, or it holds other bits than were written.
        """
        splits = open_atoms(data)
        write_ragged(path, splits)
        asked: dict[str, Any] = {k: k if getattr(splits["train"], k) is not None else None for k in WEIGHTS}
        again = read_splits(path, Labels(**asked, properties=data.properties))
        for name, frames in splits.items():
            for kind in ("positions", "species", "cell", "pbc", "row_size", "energy", "forces", "stress"):
                was, found = getattr(frames, kind), getattr(again[name], kind)
                if was is not None and not np.array_equal(was, found, equal_nan=kind == "stress"):
                    raise UserError(
                        f"{path}: {kind} of the {name} split was read back with other values: the disk is not sound"
                    )
        counts = ", ".join(f"{len(frames)} frames for {name}" for name, frames in splits.items())
        return f"{counts}, {path.stat().st_size / 2**20:.1f} MiB, read back and equal. Train from it with data.source=store data.paths=[{path}]"
