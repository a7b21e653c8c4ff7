"""Scores of a field surrogate beside its baselines, a long free rollout, and what pictures need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from surrogate.config import build
from surrogate.core.calendars import advance, has_calendar
from surrogate.core.durations import Duration
from surrogate.core.types import PyTree, UserError
from surrogate.domains.base import Evaluation, Scores
from surrogate.domains.forecast import make_rollout
from surrogate.domains.free_rollout import free_rollout
from surrogate.metrics import (
    Accumulator,
    Climatology,
    IndexDefinition,
    PowerSpectrum,
    TrainingFields,
    find_baseline,
    fit_baselines,
)
from surrogate.metrics.indices import index_series
from surrogate.metrics.spectra import spectrum_unavailable
from surrogate.parallel.placement import Placement

# What the training split may take in memory to fit the baselines; a longer record gives its latest part.
BASELINE_BYTES = 3 * 2**30
NEED_CLIMATOLOGY = ("acc", "activity", "target_activity")


def evaluate_fields(domain: Any, graphdef: Any, params: PyTree, split: str = "test") -> Evaluation:
    """Score forecasts from initial times spread over ``split`` at the experiment's leads.

    Fields from which a monthly climatology is subtracted are scored, and predicted by the baselines, as anomalies.
    """
    return _FieldScores(domain, graphdef, params, split).run()


class _FieldScores:
    def __init__(self, domain: Any, graphdef: Any, params: PyTree, split: str) -> None:
        self.domain, self.graphdef, self.split = domain, graphdef, split
        self.placement: Placement = domain.placement
        self.params = self.placement.put_params(params)
        self.frame, self.source, self.spec = domain.frame, domain.source, domain.spec
        self.config = domain.experiment.evaluate
        self.metrics = tuple(self.config.metrics)
        self.units = {v.key: v.units for v in self.spec.outputs}
        self.notes: list[str] = []
        self.anomalies = self.frame.normalizer.climatology is not None
        self.indices = tuple(
            build(IndexDefinition, {"name": name, **dict(values)}, f"evaluate.indices.{name}")
            for name, values in self.config.indices.items()
        )
        for index in self.indices:
            index.weights(self.spec, self.frame.normalizer.mask)  # refuses what does not exist

    def run(self) -> Evaluation:
        samples = self.domain.samples(self.split, self.domain.max_lead)
        if not len(samples):
            self.notes.append(f"no {self.split} split was given, so nothing was scored")
            return Evaluation({}, {}, self.units, notes=self.notes)
        samples = samples[_spread(len(samples), self.config.max_samples)]
        train, self.climatology, baselines = None, None, {}
        if len(self.domain.samples("train", 1)):
            train = self.training_fields()
            self.climatology = Climatology("constant" if self.anomalies else "auto").fit(train)
            baselines = fit_baselines(train, list(self.domain.leads.values()), self.climatology)
        else:
            self.notes.append(
                "scored on data without a training split: baselines and anomalies have none to be fitted on"
            )
            self.metrics = tuple(m for m in self.metrics if m not in NEED_CLIMATOLOGY)
            if self.domain.is_forecast:
                baselines = {"persistence": find_baseline("persistence")}
        self.forecast = make_rollout(self.graphdef, self.frame.num_prognostic, self.placement)
        self.constants = self.frame.constants()
        if self.placement.mesh is not None:
            self.constants = self.placement.put(self.constants, self.domain.constant_dims(self.constants))
        names = ("surrogate", *baselines)
        sums = {(n, lead): self._accumulator() for n in names for lead in self.domain.leads}
        index_sums = {(n, lead): self._index_accumulator() for n in names for lead in self.domain.leads}
        reason = spectrum_unavailable(self.spec.grid)
        self.spectrum = None if reason else PowerSpectrum(self.spec.grid, mask=self.mask)
        spectra: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        chunks = [samples[i : i + self.config.batch_size] for i in range(0, len(samples), self.config.batch_size)]
        maps: list[dict[str, Any]] = []
        for number, chunk in enumerate(chunks):
            state = self.truth(chunk, 0)
            initial = self.times(chunk, 0)
            forecasts = self.predict(chunk)
            forcing = self.forcing(chunk) if "linear_model" in baselines else None
            for position, (lead, steps) in enumerate(self.domain.leads.items()):
                target, valid = self.truth(chunk, steps), self.times(chunk, steps)
                climate = None if self.climatology is None else self.climatology(valid)
                for name in names:
                    guess = (
                        self.physical(forecasts[position], valid)
                        if name == "surrogate"
                        else baselines[name].predict(state, initial, valid, steps, forcing)
                    )
                    sums[name, lead].add(guess, target, climate)
                    if self.indices:
                        pair = (index_series(f, self.indices, self.spec, self.mask) for f in (guess, target))
                        index_sums[name, lead].add(*pair)
                    if name == "surrogate":
                        self._add_spectra(spectra, lead, guess, target)
                        if number == len(chunks) // 2:
                            maps += self._maps(chunk, lead, guess, target, initial)
        scores = {n: self._scores(n, sums, index_sums) for n in names}
        rollout, series = self._free_rollout(samples, train)
        pictures = {"maps": maps, "spectra": self._spectra(spectra), "rollout": series, "units": self.units}
        return Evaluation(
            {self.split: scores["surrogate"]},
            {n: scores[n] for n in baselines},
            self.units | {i.name: self.units[i.variable] for i in self.indices},
            rollout, pictures, self.notes,
        )  # fmt: skip

    # -- reading ---------------------------------------------------------------------------------

    @property
    def mask(self) -> np.ndarray:
        return self.frame.normalizer.mask

    def anomaly(self, values: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Physical outputs (N, H, W, C), less the monthly climatology where there is one."""
        months = self.frame.months(time)
        return values if months is None else values - self.frame.normalizer.climatology[months]

    def physical(self, outputs: np.ndarray, time: np.ndarray) -> np.ndarray:
        return self.anomaly(self.frame.denormalize(outputs, time), time)

    def times(self, samples: np.ndarray, steps: int) -> np.ndarray:
        return np.array(
            [self.source.timelines[n].time[i + steps * self.source.stride] for n, i in samples],
            dtype=self.source.timelines[0].time.dtype,
        )

    def truth(self, samples: np.ndarray, steps: int) -> np.ndarray:
        """Outputs of the data ``steps`` after each sample: (N, H, W, C) physical units or anomalies."""
        result = np.empty((len(samples), *self.spec.grid.shape, len(self.spec.outputs)), np.float32)
        for number in np.unique(samples[:, 0]):
            rows = np.flatnonzero(samples[:, 0] == number)
            index = samples[rows, 1] + steps * self.source.stride
            result[rows] = self._outputs(number, index)
        return result

    def _outputs(self, number: int, index: np.ndarray) -> np.ndarray:
        fields = self.source.read(number, index)
        values = np.concatenate([fields["prognostic"], fields["diagnostic"]], axis=-1)
        return self.anomaly(values, self.source.timelines[number].time[index])

    def forcing(self, samples: np.ndarray) -> np.ndarray:
        """Forcings at the samples' own times, time features included, (N, H, W, F)."""
        return np.concatenate([self.domain.forcing_at(n, np.array([i])) for n, i in samples])

    def training_fields(self) -> TrainingFields:
        """The training split, or its latest part where that would not fit in memory."""
        times = self.domain.splits.times("train")
        each = int(np.prod(self.spec.grid.shape)) * (len(self.spec.outputs) + self.frame.num_forcing) * 4
        allowed = max(BASELINE_BYTES // max(each, 1), 64)
        total = sum(map(len, times))
        if total > allowed:
            self.notes.append(f"baselines were fitted on the latest {allowed} of {total} training times")
            share = allowed / total
            times = [t[len(t) - max(int(len(t) * share), 1) :] if len(t) else t for t in times]
        used = [n for n, t in enumerate(times) if len(t)]
        maps = not self.domain.is_forecast
        lines = self.source.timelines
        return TrainingFields(
            spec=self.spec,
            state=[self._outputs(n, times[n]) for n in used],
            time=[lines[n].time[times[n]] for n in used],
            # Two stretches of one split can lie in one gap-free segment: what lies between was held back.
            segment=[lines[n].segment[times[n]] + np.cumsum(np.diff(times[n], prepend=times[n][:1]) > 1) for n in used],
            weights=self.domain.weights(),
            stride=self.source.stride,
            forcing=[self.domain.forcing_at(n, times[n]) for n in used] if maps and self.frame.num_forcing else (),
        )

    # -- forecasts -------------------------------------------------------------------------------

    def predict(self, samples: np.ndarray) -> np.ndarray:
        """Normalised forecasts at every lead, (leads, N, H, W, C)."""
        short = self.placement.whole_batches(self.config.batch_size) - len(samples)
        # The last chunk is filled up so that one compiled program serves all.
        padded = np.concatenate([samples, np.repeat(samples[-1:], short, axis=0)]) if short else samples
        batch = self.domain.gather(padded, self.domain.max_lead, targets=False)
        forcing = np.moveaxis(batch["forcing"], 1, 0)
        _, outputs = self.forecast(self.params, self.constants, batch["state"], forcing)
        steps = np.array([max(s - 1, 0) for s in self.domain.leads.values()])
        return np.asarray(self.placement.fetch(outputs[steps]))[:, : len(samples)]

    # -- scores ----------------------------------------------------------------------------------

    def _accumulator(self) -> Accumulator:
        return Accumulator(self.metrics, self.domain.weights(), self.spec.keys)

    def _index_accumulator(self) -> Accumulator:
        count = len(self.indices)
        return Accumulator(("rmse", "correlation"), np.ones((1, 1, count)), [i.name for i in self.indices])

    def _scores(self, name: str, sums: Mapping, index_sums: Mapping) -> Scores:
        table: Scores = {}
        for lead in self.domain.leads:
            found = sums[name, lead].scores()
            if self.indices:
                found |= index_sums[name, lead].scores()
            for key, metrics in found.items():
                for metric, value in metrics.items():
                    table.setdefault(key, {}).setdefault(metric, {})[lead] = value
        return table

    # -- pictures --------------------------------------------------------------------------------

    def _add_spectra(self, spectra: dict, lead: str, guess: np.ndarray, target: np.ndarray) -> None:
        if self.spectrum is None:
            return
        for kind, fields in (("truth", target), ("forecast", guess)):
            new, old = self.spectrum.statistics(fields), spectra.get((lead, kind))
            spectra[lead, kind] = new if old is None else {k: old[k] + new[k] for k in new}

    def _spectra(self, spectra: dict) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if self.spectrum is None:
            return found
        label = {"zonal": "zonal wavenumber", "total": "total wavenumber", "radial": "waves over the longer side"}
        for lead in self.domain.leads:
            power = {kind: self.spectrum.finalize(spectra[lead, kind]) for kind in ("truth", "forecast")}
            for channel, variable in enumerate(self.spec.outputs):
                if channel not in self.spectrum.unavailable:
                    found.append({
                        "key": variable.key, "lead": lead, "wavenumber": self.spectrum.wavenumber,
                        "truth": power["truth"][:, channel], "forecast": power["forecast"][:, channel],
                        "units": f"({variable.units})²", "label": label[self.spectrum.kind],
                    })  # fmt: skip
        return found

    def _maps(
        self, chunk: np.ndarray, lead: str, guess: np.ndarray, target: np.ndarray, initial: np.ndarray
    ) -> list[dict[str, Any]]:
        """Every variable of one sample at the first and last lead, at most six variables."""
        if lead not in (next(iter(self.domain.leads)), list(self.domain.leads)[-1]):
            return []
        grid, maps = self.spec.grid, []
        for channel in _spread(len(self.spec.outputs), 6):
            variable = self.spec.outputs[channel]
            item: dict[str, Any] = {
                "key": variable.key, "units": variable.units + (" anomaly" if self.anomalies else ""), "kind": grid.kind,
                "latitude": np.asarray(grid.latitude), "longitude": np.asarray(grid.longitude),
                "truth": target[0, ..., channel], "forecast": guess[0, ..., channel], "lead": lead,
                "init_time": _date(initial[0]) if has_calendar(initial) else "",
            }  # fmt: skip
            forcings = self.spec.role("forcing")
            if not self.domain.is_forecast and forcings and grid.kind == "plane":
                number, index = chunk[0]
                item["input"] = self.source.read(number, np.array([index]))["forcing"][0, ..., 0]
                item["input_name"], item["input_units"] = forcings[0].key, forcings[0].units
            maps.append(item)
        return maps

    def _free_rollout(self, samples: np.ndarray, train: TrainingFields | None) -> tuple[dict | None, list[dict]]:
        if not self.config.rollout or not self.domain.is_forecast or train is None:
            return None, []
        length = Duration.parse(self.config.rollout)
        try:
            steps = length.steps_of(self.spec.time_step)
        except ValueError as error:
            raise UserError(f"evaluate.rollout: {error}") from None
        return free_rollout(self, samples[0], steps, length, train)


def _spread(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _date(time: Any) -> str:
    return str(np.datetime_as_string(time, unit="m")) if isinstance(time, np.datetime64) else str(time)


def later_times(start: Any, step: Duration, count: int) -> np.ndarray:
    """The ``count`` times that follow ``start``, in its calendar."""
    times = [advance(start, step, n) for n in range(1, count + 1)]
    return np.array(times, dtype=start.dtype if isinstance(start, np.datetime64) else object)
