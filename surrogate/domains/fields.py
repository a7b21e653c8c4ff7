"""The domain of gridded fields: climate, oceans, PDE solvers on a rectangular grid."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from surrogate.config import Experiment, build
from surrogate.core.calendars import has_calendar, month_of
from surrogate.core.durations import Duration
from surrogate.core.spec import Spec
from surrogate.core.types import PyTree, UserError
from surrogate.data.augment import check_square, random_transpose
from surrogate.data.declared import open_headers
from surrogate.data.gridded import open_source
from surrogate.data.normalize import Normalizer, blank_normalizer, describe, fit_normalizer
from surrogate.data.settings import FieldsDataConfig
from surrogate.data.source import WHOLE, Source, Window
from surrogate.data.splits import Splits, make_splits
from surrogate.domains.base import Domain, Evaluation
from surrogate.domains.fields_inputs import input_statistics
from surrogate.domains.fields_surrogate import FieldSurrogate
from surrogate.domains.forecast import field_step
from surrogate.domains.frame import FieldFrame
from surrogate.losses import level_weights, relative_h1, relative_l2, weighted_mse
from surrogate.models.base import find_model, find_registered_model


class Fields(Domain):
    """Prognostic fields advanced in time, or diagnostic fields mapped from forcings.

    A stage of the curriculum is the number of rollout steps that the loss spans (0 for a map).
    """

    Data = FieldsDataConfig
    source: Source
    splits: Splits
    normalizer: Normalizer

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.data: FieldsDataConfig = experiment.data
        self._samples: dict[tuple[str, int], np.ndarray] = {}
        self._inputs: dict[str, np.ndarray] | None = None

    # -- opening ---------------------------------------------------------------------------------

    @classmethod
    def open_data(cls, data: FieldsDataConfig, *, lazily: bool = False) -> tuple[Source, tuple[str, ...]]:
        """The source of ``data``, and per trajectory the split that it is reserved for, or ``all``."""
        return open_source(data, lazily=lazily)

    @classmethod
    def open_blocks(cls, data: FieldsDataConfig) -> Source:
        """The source of ``data`` for one of many processes that read blocks of it: no file is read whole or hashed."""
        return open_source(data, headers=True)[0] if cls._opens_itself() else cls.open_data(data, lazily=True)[0]

    @classmethod
    def _opens_itself(cls) -> bool:
        """Whether no subclass says how data are opened."""
        return cls.open_data.__func__ is Fields.open_data.__func__  # type: ignore[attr-defined]

    def open(self) -> None:
        self._check_settings()
        self.source, roles = self.open_data(self.data)
        longest = self._divide(roles)
        self.normalizer = fit_normalizer(
            self.source, self.splits, anomaly=self.data.anomaly, rollout=longest, base=self.data.base
        )
        self._finish()

    def open_shapes(self) -> list[str]:
        """As :meth:`open` from the files' headers or the settings, with a normalisation of 1 and all points present."""
        self._check_settings()
        itself = self._opens_itself()
        self.source, roles = open_headers(self.data) if itself else self.open_data(self.data, lazily=True)
        longest = self._divide(roles)
        self.normalizer, assumed = blank_normalizer(self.spec, rollout=longest, base=self.data.base)
        self._finish()
        return assumed

    def batch_shapes(self, stage: Hashable, size: int) -> dict[str, jax.ShapeDtypeStruct]:
        height, width = self.spec.grid.shape
        steps = max(int(stage), 1)  # type: ignore[call-overload]
        channels = {"forcing": self.frame.num_forcing, "target": len(self.spec.outputs)}
        state = (size, height, width, self.spec.history * self.frame.num_prognostic)
        shapes = {name: (size, steps, height, width, count) for name, count in channels.items()}
        return {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in ({"state": state} | shapes).items()}

    def _check_settings(self) -> None:
        name = self.experiment.model_name
        if (takes := getattr(find_model(name), "takes", "fields")) != "fields":
            raise UserError(
                f"model {name!r} takes {takes}; for gridded fields there are unet, fno, sfno, transformer and mlp"
            )
        if self.experiment.train.loss.kind == "huber":
            raise UserError("train.loss.kind=huber is for atoms; for fields there are mse, relative_l2 and relative_h1")
        if self.experiment.train.ensemble > 1:
            raise UserError("train.ensemble is for atoms so far; train fields with several train.seed instead")
        if any(stage.variables for stage in self.experiment.train.curriculum):
            raise UserError(
                "train.curriculum sets weights of variables, which fields take from train.loss.variables alone"
            )

    def _divide(self, roles: tuple[str, ...]) -> int:
        """Splits and leads of the source; returns the longest rollout of training."""
        self.splits = make_splits(self.source.timelines, roles, self.data.split)
        self.leads = self._leads()
        self.max_lead = max(self.leads.values())
        longest = max(stage.rollout for stage in self.experiment.train.curriculum) if self.is_forecast else 1
        for split in ("train", "valid", "test"):
            if any(member.any() for member in self.splits.members[split]):
                self._require_samples(split, longest if split == "train" else self.max_lead)
        return longest

    def _finish(self) -> None:
        self.frame = FieldFrame(self.spec, self.normalizer, self.source.static, self._features(), self.data.augment)
        self._check_weights()
        if self.data.augment == "transpose":
            check_square(self.spec.grid)

    def open_for(self, surrogate: FieldSurrogate) -> Any:
        """Open data to score a trained surrogate on, possibly on another grid, with its own normalisation.

        Every trajectory belongs to the test split. Returns the graph definition for this grid.

        Raises:
            UserError: for other variables or another time step, or a grid that the model cannot move to.
        """
        self.source, _ = self.open_data(self.data)
        trained, own = surrogate.spec, self.spec
        if trained.keys != own.keys or trained.time_step != own.time_step:
            raise UserError(
                f"the surrogate predicts {', '.join(trained.keys)} at steps of {trained.time_step}; "
                f"these data hold {', '.join(own.keys)} at {own.time_step}"
            )
        normalizer = surrogate.frame.normalizer
        if own.grid != trained.grid:
            if normalizer.climatology is not None or normalizer.base is not None or not normalizer.mask.all():
                raise UserError(
                    "a surrogate with a climatology, a base other than persistence or a land mask cannot be moved to "
                    "another grid"
                )
            mask = np.ones((*own.grid.shape, len(own.outputs)), bool)
            normalizer = replace(normalizer, spec=own, mask=mask)
        self.normalizer = normalizer
        self.frame = replace(surrogate.frame, spec=own, normalizer=normalizer, static=self.source.static)
        members = tuple(np.ones(len(line), bool) for line in self.source.timelines)
        none = tuple(~m for m in members)
        self.splits = Splits({"train": none, "valid": none, "test": members})
        self.leads = self._leads()
        self.max_lead = max(self.leads.values())
        self._require_samples("test", self.max_lead)
        model = self.frame.empty_model(self.experiment.model_name, self.experiment.model)
        graphdef, variables = nnx.split(model)
        here, there = (jax.tree.map(np.shape, t) for t in (nnx.to_pure_dict(variables), surrogate.params))
        if here != there:
            raise UserError(
                f"the model {self.experiment.model_name!r} depends on its grid: trained on "
                f"{' × '.join(map(str, trained.grid.shape))}, it cannot run on {' × '.join(map(str, own.grid.shape))}"
            )
        return graphdef

    def _features(self) -> tuple[str, ...]:
        """The features asked for, or by default the position, and the season where training spans most of a year."""
        if self.data.features is not None:
            return self.data.features
        lines = self.source.timelines
        dated = all(has_calendar(line.time) for line in lines)
        trained = [line.time[m] for line, m in zip(lines, self.splits.members["train"], strict=True) if m.any()]
        months = {int(m) for time in trained for m in month_of(time)} if dated else set()
        step = self.spec.time_step
        seasonal = len(months) == 12
        diurnal = dated and 0 < step.seconds < 86400
        return ("position", *(("season",) if seasonal else ()), *(("diurnal",) if diurnal else ()))

    @property
    def spec(self) -> Spec:
        return self.source.spec

    @property
    def is_forecast(self) -> bool:
        """Whether there is a state to advance; otherwise outputs follow from forcings at the same time."""
        return bool(self.spec.role("prognostic"))

    def _leads(self) -> dict[str, int]:
        """ISO lead → number of steps."""
        if not self.is_forecast:
            return {"PT0S": 0}
        leads = {}
        for text in self.data.leads:
            lead = Duration.parse(text)
            try:
                steps = lead.steps_of(self.spec.time_step)
            except ValueError as error:
                raise UserError(f"data.leads: {error}; choose leads that are, or another data.time_step") from None
            if steps < 1:
                raise UserError(f"data.leads: {text} is shorter than one time step of {self.spec.time_step}")
            leads[str(lead)] = steps
        return dict(sorted(leads.items(), key=lambda item: item[1]))

    def _require_samples(self, split: str, steps: int) -> None:
        if len(self.samples(split, steps)):
            return
        times = sum(int(m.sum()) for m in self.splits.members[split])
        need = (self.spec.history - 1 + steps) * self.source.stride + 1
        raise UserError(
            f"data.split.{split} has {times} times but no gap-free window of {need} "
            f"(history {self.spec.history}, {steps} steps of {self.spec.time_step} ahead)"
        )

    def _check_weights(self) -> None:
        known = {v.key for v in self.spec.outputs} | {v.name for v in self.spec.outputs}
        for name in self.experiment.train.loss.variables:
            if name not in known:
                raise UserError(f"train.loss.variables names {name!r}; the outputs are {', '.join(sorted(known))}")

    # -- samples ---------------------------------------------------------------------------------

    def samples(self, split: str, rollout: int) -> np.ndarray:
        """(trajectory, initial time index) of every sample: (N, 2)."""
        key = (split, rollout)
        if key not in self._samples:
            self._samples[key] = self.splits.samples(
                self.source, split, history=self.spec.history, rollout=rollout if self.is_forecast else 0
            )
        return self._samples[key]

    def stage(self, step: int) -> Hashable:
        return self.experiment.train.rollout_at(step) if self.is_forecast else 0

    def num_samples(self, split: str, stage: Hashable) -> int:
        return len(self.samples(split, int(stage)))  # type: ignore[call-overload]

    def batch(self, split: str, indices: np.ndarray, stage: Hashable) -> dict[str, np.ndarray]:
        return self.gather(self.samples(split, int(stage))[indices], int(stage))  # type: ignore[call-overload]

    def space(self) -> dict[str, int]:
        return dict(zip(("latitude", "longitude"), self.spec.grid.shape, strict=True))

    def batch_dims(self, batch: PyTree) -> PyTree:
        steps = ("batch", None, "latitude", "longitude")
        dims = {"state": ("batch", "latitude", "longitude"), "forcing": steps, "target": steps}
        return {name: dims[name] for name in batch}

    def constant_dims(self, constants: PyTree) -> PyTree:
        field, patterns = ("latitude", "longitude"), (None, "latitude", "longitude")
        dims = {
            "static": field,
            "mask": field,
            "weights": field,
            "memory": field,
            "patterns": patterns,
            "projection": patterns,
        }
        return jax.tree_util.tree_map_with_path(lambda path, _: dims.get(path[-1].key, ()), constants)

    def batch_part(
        self, split: str, indices: np.ndarray, stage: Hashable, window: dict[str, slice]
    ) -> dict[str, np.ndarray]:
        samples = self.samples(split, int(stage))[indices]  # type: ignore[call-overload]
        return self.gather(samples, int(stage), window=self._window(window))  # type: ignore[call-overload]

    def _window(self, window: dict[str, slice]) -> Window:
        """The rows and columns of ``window``, or ``WHOLE``, which spares a copy."""
        rows, columns = (window.get(name, slice(None)) for name in ("latitude", "longitude"))
        lengths = [len(range(*s.indices(n))) for s, n in zip((rows, columns), self.spec.grid.shape, strict=True)]
        return WHOLE if tuple(lengths) == self.spec.grid.shape else (rows, columns)

    def gather(
        self, samples: np.ndarray, rollout: int, *, targets: bool = True, window: Window = WHOLE
    ) -> dict[str, np.ndarray]:
        """Normalised arrays of samples (B, 2), of the rows and columns in ``window`` alone.

        Returns:
            ``state`` (B, H, W, history × P), ``forcing`` (B, K, H, W, F) and ``target``
            (B, K, H, W, P + D), K the rollout, or 1 for a map. Without ``targets`` the last is absent.
        """
        stride, history = self.source.stride, self.spec.history
        past = np.arange(-(history - 1), 1) * stride
        ahead = np.arange(1, rollout + 1) * stride if self.is_forecast else np.zeros(1, int)
        count, outputs = len(samples), len(self.spec.outputs)
        height, width = (len(range(*w.indices(n))) for w, n in zip(window, self.spec.grid.shape, strict=True))
        prognostic = len(self.spec.role("prognostic"))
        state = np.empty((count, height, width, history * prognostic), np.float32)
        forcing = np.empty((count, len(ahead), height, width, self.frame.num_forcing), np.float32)
        target = np.empty((count, len(ahead), height, width, outputs), np.float32) if targets else None
        for number in np.unique(samples[:, 0]):
            rows = np.flatnonzero(samples[:, 0] == number)
            start = samples[rows, 1]
            if prognostic:
                behind = (start[:, None] + past).ravel()
                values = self._read(number, behind, ("prognostic",), window)
                state[rows] = self.frame.state_inputs(values.reshape(len(rows), history, height, width, prognostic))
            front = (start[:, None] + ahead).ravel()
            shape = (len(rows), len(ahead), height, width)
            if forcing.size:
                forcing[rows] = self.forcing_at(number, front, window).reshape(*shape, -1)
            if target is not None:
                values = self._read(number, front, ("prognostic", "diagnostic"), window)
                target[rows] = values.reshape(*shape, outputs)
        batch = {"state": state, "forcing": forcing}
        return batch if target is None else batch | {"target": target}

    def forcing_at(self, number: int, indices: np.ndarray, window: Window = WHOLE) -> np.ndarray:
        """Normalised forcings and time features at ``indices`` (n,) of a trajectory: (n, H, W, F)."""
        values = self.source.read(number, indices, window)["forcing"]
        variables = self.spec.role("forcing")
        self._refuse_missing(number, indices, values, variables, np.ones(values.shape[1:], bool), window)
        return self.frame.forcing_inputs(self.source.timelines[number].time[indices], values)

    def _read(self, number: int, indices: np.ndarray, roles: tuple[str, ...], window: Window = WHOLE) -> np.ndarray:
        fields, parts = self.source.read(number, indices, window), []
        normalizer = self.normalizer if window == WHOLE else self.normalizer.window(*window)
        months = self.frame.months(self.source.timelines[number].time[indices])
        count = len(self.spec.role("prognostic"))
        for role in roles:
            mask = normalizer.mask[..., :count] if role == "prognostic" else normalizer.mask[..., count:]
            self._refuse_missing(number, indices, fields[role], self.spec.role(role), mask, window)
            parts.append(normalizer.normalize(role, fields[role], months))  # type: ignore[arg-type]
        return np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]

    def _refuse_missing(
        self, number: int, indices: np.ndarray, values: np.ndarray, variables: tuple, mask: np.ndarray, window: Window
    ) -> None:
        # One reduction on the good path; the search for the place happens only when something is wrong.
        if np.isfinite(values[:, mask].sum()) or np.isfinite(values[:, mask]).all():
            return
        time, row, column, channel = np.argwhere(~np.isfinite(values) & mask)[0]
        value = values[time, row, column, channel]
        row, column = row + (window[0].start or 0), column + (window[1].start or 0)
        line, grid = self.source.timelines[number], self.spec.grid
        index = indices[time]
        file = line.files[line.source[index]] if line.files else line.name
        raise UserError(
            f"{file}: {variables[channel].key!r} is {value} at {line.time[index]}, latitude "
            f"{grid.latitude[row]:g}, longitude {grid.longitude[column]:g}, where the training split has values"
        )

    # -- learning --------------------------------------------------------------------------------

    def build_model(self, rngs: nnx.Rngs) -> nnx.Module:
        return self.frame.build_model(self.experiment.model_name, self.experiment.model, rngs)

    def weights(self) -> np.ndarray:
        """Cell areas, 0 where a value is missing: (H, W, P + D) float64."""
        return self.spec.grid.area_weights()[..., None] * self.normalizer.mask

    def constants(self) -> PyTree:
        normalizer, config = self.normalizer, self.experiment.train.loss
        return self.frame.constants() | {
            "symmetry": {},  # in training one orientation is drawn at random
            # As weights(), which for a large grid is not worth a copy in float64.
            "weights": jnp.asarray(self.spec.grid.area_weights(), jnp.float32)[..., None]
            * jnp.asarray(normalizer.mask),
            "channels": jnp.asarray(level_weights(self.spec, config.variables, config.levels), jnp.float32),
            "target_scale": jnp.asarray(normalizer.target_scale),
            "center": jnp.asarray(np.concatenate([normalizer.center[r] for r in ("prognostic", "diagnostic")])),
            "scale": jnp.asarray(np.concatenate([normalizer.scale[r] for r in ("prognostic", "diagnostic")])),
        }

    def loss(
        self, model: nnx.Module, constants: PyTree, batch: PyTree, key: jax.Array, stage: Hashable
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean over steps of ``train.loss``; by default the area-weighted squared error in units of the change that persistence misses."""
        if self.data.augment == "transpose":
            batch = random_transpose(batch, key)
        prognostic, steps = self.frame.num_prognostic, batch["target"].shape[1]
        relative = {"relative_l2": relative_l2, "relative_h1": relative_h1}.get(self.experiment.train.loss.kind)

        graphdef, params = nnx.split(model)

        @jax.jit  # traced once however many steps there are; the compiler inlines it
        def step(params: PyTree, state: jax.Array, inputs: PyTree) -> tuple[jax.Array, jax.Array]:
            model = nnx.merge(graphdef, params)
            state, outputs = field_step(model, constants, state, inputs["forcing"], prognostic)
            target, scale = inputs["target"], inputs["scale"]
            if relative is not None:
                p, t = (x * constants["scale"] + constants["center"] for x in (outputs, target))
                return state, relative(p, t, constants["weights"], constants["channels"])
            error = weighted_mse(outputs / scale, target / scale, constants["weights"], constants["channels"])
            return state, error

        inputs = {
            "forcing": jnp.moveaxis(batch["forcing"], 1, 0),
            "target": jnp.moveaxis(batch["target"], 1, 0),
            "scale": constants["target_scale"][:steps],
        }
        # Written out, not scanned: XLA's convolutions inside a loop are several times slower on CPUs.
        state, total = batch["state"], jnp.float32(0)
        for k in range(steps):
            state, error = step(params, state, jax.tree.map(lambda x, k=k: x[k], inputs))
            total += error
        return total / steps, {}

    def flops(self) -> float:
        count = getattr(find_model(self.experiment.model_name), "flops", None)
        return float(count(self.frame.geometry(), self.experiment.model)) if count else 0.0

    # -- results ---------------------------------------------------------------------------------

    def evaluate(self, graphdef: Any, params: PyTree, split: str = "test") -> Evaluation:
        from surrogate.domains.fields_evaluate import evaluate_fields

        return evaluate_fields(self, graphdef, params, split)

    def artefact(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        meaning = {
            "spec": self.spec.to_dict(),
            "features": list(self.frame.features),
            "symmetry": self.frame.symmetry,
            "leads": list(self.leads),
            "normalisation": describe(self.normalizer),
        }
        arrays = self.normalizer.arrays() | {"static": self.source.static.astype(np.float32)}
        if self._inputs is None:  # read once, however often the artefact is asked for
            samples = self.samples("train", int(self.stage(0)))  # type: ignore[call-overload]
            self._inputs = input_statistics(self.source, self.frame, samples)
        return meaning, arrays | self._inputs

    def golden(self, graphdef: Any, params: PyTree) -> dict[str, np.ndarray]:
        """Two training samples as the network sees them, and its raw outputs."""
        stage = self.stage(0)
        size = self.num_samples("train", stage)
        batch = self.batch("train", np.array([0, size - 1]), stage)
        state, forcing, static = batch["state"], batch["forcing"][:, 0], self.frame.static_inputs()
        outputs = jax.jit(lambda p, *x: nnx.merge(graphdef, p)(*x))(params, state, forcing, static)
        return {"state": state, "forcing": forcing, "static": static, "outputs": np.asarray(outputs)}

    @classmethod
    def restore(
        cls, manifest: dict[str, Any], arrays: dict[str, np.ndarray], fill: Callable[[nnx.Module], tuple[Any, PyTree]]
    ) -> FieldSurrogate:
        meaning, model = manifest["meaning"], manifest["model"]
        spec = Spec.from_dict(meaning["spec"])
        normalizer = Normalizer.from_arrays(spec, arrays)
        frame = FieldFrame(
            spec, normalizer, arrays["static"], tuple(meaning["features"]), meaning.get("symmetry", "none")
        )
        model_class: Any = find_registered_model(str(model["name"]))
        config = build(model_class.Config, model["settings"], "model.settings")
        graphdef, params = fill(frame.empty_model(str(model["name"]), config))
        return FieldSurrogate(manifest, frame, graphdef, params)

    def provenance(self) -> list[dict[str, Any]]:
        return self.source.provenance()
