"""One step, or several in one call, of a field surrogate as a function of arrays in physical units.

Normalisation, missing points, calendar and statics are inside: the function is what
``FieldSurrogate.rollout`` does between reading its data and writing its forecast, and takes the step
itself from :func:`surrogate.domains.forecast.field_step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from surrogate.core.spec import Spec, Variable
from surrogate.core.types import Array, PyTree, UserError
from surrogate.domains.fields_surrogate import FieldSurrogate
from surrogate.domains.fields_xarray import horizontal_dims
from surrogate.domains.forecast import field_step
from surrogate.exporting.dates import ProgramCalendar
from surrogate.exporting.function import Argument, Function

DATE = "date"
# Dates at which golden samples are taken to lie: possible in every calendar, with a clock that counts.
_GOLDEN_DATES = np.array([[2001, 1, 15, 0, 0, 0], [2004, 7, 2, 18, 30, 15]], np.int32)


def field_functions(surrogate: FieldSurrogate, golden: dict[str, np.ndarray], steps: Sequence[int]) -> list[Function]:
    """``step`` and, for each k > 1 of ``steps``, ``steps<k>``: k steps in one call, every one of them in the outputs.

    Args:
        golden: normalised ``state`` (N, H, W, history × P) and ``forcing`` (N, H, W, F), as the surrogate keeps them.

    Raises:
        UserError: for k below 1, for a map asked to step, and for anything the spec cannot express.
    """
    if not surrogate.frame.num_prognostic and set(steps) != {1}:
        raise UserError("steps= is for surrogates that advance a state; this one maps forcings to outputs")
    if not steps or min(steps) < 1 or len(set(steps)) != len(steps):
        raise UserError(f"steps={list(steps)} must be different whole numbers from 1")
    return [Fields(surrogate, k).function(golden) for k in sorted(steps)]


def groups(variables: Sequence[Variable]) -> list[tuple[str, list[int]]]:
    """Arguments that channels are grouped into: a variable's levels are one array, in the order of the spec.

    Where a name would stand for two things, each channel is an argument under its own key.
    """
    found: dict[tuple[str, str, bool, str, str], list[int]] = {}
    for index, v in enumerate(variables):
        found.setdefault((v.role, v.name, v.level is not None, v.units, v.level_units), []).append(index)
    count: dict[str, int] = {}
    for _, name, *_ in found:
        count[name] = count.get(name, 0) + 1
    result: list[tuple[str, list[int]]] = []
    for (_, name, *_), indices in found.items():
        if count[name] == 1:
            result.append((name, indices))
        else:
            result += [(variables[i].key, [i]) for i in indices]
    return result


class Fields:
    def __init__(self, surrogate: FieldSurrogate, steps: int) -> None:
        self.frame, self.steps = surrogate.frame, steps
        self.spec: Spec = surrogate.spec
        self.graphdef, self.params = surrogate.graphdef, surrogate.params
        self.history = self.spec.history if self.frame.num_prognostic else 1
        normalizer = self.frame.normalizer
        timed = set(self.frame.features) & {"season", "diurnal"}
        self.dated = bool(timed) or normalizer.climatology is not None
        self.calendar = ProgramCalendar(self.spec.calendar) if self.dated else None
        scales: dict[str, Any] = {
            name: {role: values for role, values in by_role.items() if role != "static"}
            for name, by_role in (("center", normalizer.center), ("scale", normalizer.scale))
        }
        if normalizer.climatology is not None:
            scales["climatology"] = normalizer.climatology
        tree = {"model": self.params, "constants": self.frame.constants(), "normalizer": scales}
        leaves, self.structure = jax.tree_util.tree_flatten_with_path(tree)
        self.leaves = {"/".join(str(k.key) for k in path): np.asarray(leaf) for path, leaf in leaves}
        # Roles that are absent have arrays without elements, which are no parameters of a program.
        self.parameters = {name: leaf for name, leaf in self.leaves.items() if leaf.size}

    # -- arguments -------------------------------------------------------------------------------

    def arguments(
        self, variables: Sequence[Variable], lead: tuple[tuple[str, int], ...], meaning: str
    ) -> list[Argument]:
        rows, columns = horizontal_dims(self.spec.grid.kind, [v.name for v in self.spec.variables])
        scale = {v.key: s for r in ("prognostic", "diagnostic") for v, s in zip(
            self.spec.role(r), self.frame.normalizer.scale[r], strict=True)}  # fmt: skip
        result = []
        for name, indices in groups(variables):
            first = variables[indices[0]]
            levels = (("level", len(indices)),) if first.level is not None and name == first.name else ()
            grid = ((rows, self.spec.grid.shape[0]), (columns, self.spec.grid.shape[1]))
            dims = (*lead, *levels, *grid)
            attrs: dict[str, Any] = {
                k: getattr(first, k) for k in ("standard_name", "long_name") if getattr(first, k)
            }  # fmt: skip
            if first.level is not None:
                attrs |= {"level": [variables[i].level for i in indices], "level_units": first.level_units}
            sizes = tuple(float(scale[variables[i].key]) for i in indices) if first.role != "forcing" else ()
            result.append(Argument(
                name, first.role, first.units, tuple(d for d, _ in dims), tuple(n for _, n in dims),
                description=meaning, attrs=attrs, sizes=sizes,
            ))  # fmt: skip
        return result

    def function(self, golden: dict[str, np.ndarray]) -> Function:
        ahead = (("step", self.steps),) if self.steps > 1 else ()
        past = (("history", self.history),) if self.history > 1 else ()
        before = f"the last {self.history} states, oldest first" if past else "the present state"
        after = f"the next {self.steps} times, in order" if ahead else "the time predicted"
        state = self.arguments(self.spec.role("prognostic"), past, before)
        forcing = self.arguments(self.spec.role("forcing"), ahead, f"at {after}")
        outputs = self.arguments(self.spec.outputs, ahead, f"at {after}")
        date = [Argument(
            DATE, "time", "1", ("date_field",), (6,), "int32",
            f"year, month, day, hour, minute, second of the {'present state' if state else 'sample'} "
            f"in the calendar {self.spec.calendar}",
        )] if self.dated else []  # fmt: skip
        inputs = [*state, *forcing, *date]
        if len({a.name for a in inputs}) != len(inputs):
            raise UserError(f"two inputs bear one name: {', '.join(a.name for a in inputs)}")
        return Function(
            name="step" if self.steps == 1 else f"steps{self.steps}",
            inputs=tuple(inputs), outputs=tuple(outputs), parameters=self.parameters, apply=self.apply,
            golden=self.golden(golden, state, forcing), steps=self.steps,
        )  # fmt: skip

    # -- computation -----------------------------------------------------------------------------

    def apply(self, parameters: tuple[Array, ...], inputs: tuple[Array, ...]) -> tuple[jax.Array, ...]:
        """Physical fields (B, [history,] [level,] H, W) and dates (B, 6) → physical fields at the new times."""
        return self.compute(self.tree(parameters), inputs)

    def tree(self, parameters: tuple[Array, ...]) -> PyTree:
        """The parameters of a program as ``model``, ``constants`` and ``normalizer``."""
        given = dict(zip(self.parameters, parameters, strict=True))
        leaves = [given.get(name, jnp.zeros(leaf.shape, leaf.dtype)) for name, leaf in self.leaves.items()]
        return jax.tree_util.tree_unflatten(self.structure, leaves)

    def compute(self, tree: PyTree, inputs: tuple[Array, ...]) -> tuple[jax.Array, ...]:
        """As :meth:`apply`."""
        constants, scales = tree["constants"], tree["normalizer"]
        prognostic, forcing = self.spec.role("prognostic"), self.spec.role("forcing")
        number = len(groups(prognostic))
        date = jnp.asarray(inputs[-1]) if self.dated else None
        batch = inputs[0].shape[0]
        model = nnx.merge(self.graphdef, tree["model"])
        mask = constants["mask"] > 0
        state = self._state(inputs[:number], batch, date, scales, mask)
        drive = channels_of(inputs[number : number + len(groups(forcing))], forcing, int(self.steps > 1))
        results = []
        for k in range(self.steps):
            now = drive if self.steps == 1 or drive is None else drive[:, k]
            inputs_now = self._forcing(now, batch, date, k + 1, scales)
            state, outputs = field_step(model, constants, state, inputs_now, len(prognostic))
            results.append(self._denormalize(outputs, date, k + 1, scales, mask))
        values = results[0] if self.steps == 1 else jnp.stack(results, axis=1)
        if date is not None and self.calendar is not None:
            possible = self.calendar.valid(date).reshape(-1, *(1,) * (values.ndim - 1))
            values = jnp.where(possible, values, jnp.float32(np.nan))
        return split_channels(values, self.spec.outputs)

    def _offset(self, role: str, date: Array | None, steps: int, scales: PyTree) -> jax.Array:
        """What is subtracted from a field ``steps`` from now: broadcasts against (B, H, W, C)."""
        if "climatology" not in scales:
            return scales["center"][role]
        assert self.calendar is not None
        assert date is not None
        month = self.calendar.month(self.calendar.advance(jnp.asarray(date), self.spec.time_step, steps))
        count = self.frame.num_prognostic
        part = scales["climatology"][..., :count] if role == "prognostic" else scales["climatology"][..., count:]
        return part[month] + scales["center"][role]

    def _state(
        self, arrays: Sequence[Array], batch: int, date: Array | None, scales: PyTree, mask: jax.Array
    ) -> jax.Array:
        """Normalised (B, H, W, history × P), oldest first. Points without a value may hold anything; others keep NaN."""
        count = self.frame.num_prognostic
        shape = self.spec.grid.shape
        values = channels_of(arrays, self.spec.role("prognostic"), int(self.history > 1))
        if values is None:
            return jnp.zeros((batch, *shape, 0), jnp.float32)
        values = values if self.history > 1 else values[:, None]
        whole = self.frame.normalizer.mask[..., :count].all()
        parts = []
        for h in range(self.history):
            normal = values[:, h] - self._offset("prognostic", date, h + 1 - self.history, scales)
            normal = normal / scales["scale"]["prognostic"]
            parts.append(normal if whole else jnp.where(mask[..., :count], normal, 0.0))
        return jnp.concatenate(parts, axis=-1)

    def _forcing(self, values: Array | None, batch: int, date: Array | None, steps: int, scales: PyTree) -> jax.Array:
        """Normalised forcings and time features at the time ``steps`` from now: (B, H, W, F)."""
        parts = []
        if values is not None:
            parts.append((values - scales["center"]["forcing"]) / scales["scale"]["forcing"])
        if self.calendar is not None and date is not None:
            when = self.calendar.advance(jnp.asarray(date), self.spec.time_step, steps)
            features = self.calendar.features(when, self.frame.features)[:, None, None, :]
            parts.append(jnp.broadcast_to(features, (batch, *self.spec.grid.shape, features.shape[-1])))
        if not parts:
            return jnp.zeros((batch, *self.spec.grid.shape, 0), jnp.float32)
        return jnp.concatenate(parts, axis=-1)

    def _denormalize(
        self, outputs: jax.Array, date: Array | None, steps: int, scales: PyTree, mask: jax.Array
    ) -> jax.Array:
        """Physical (B, H, W, P + D); NaN where the training data have no value."""
        count, parts = self.frame.num_prognostic, []
        for role, part in (("prognostic", outputs[..., :count]), ("diagnostic", outputs[..., count:])):
            if part.shape[-1]:
                parts.append(part * scales["scale"][role] + self._offset(role, date, steps, scales))
        values = jnp.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
        return values if self.frame.normalizer.mask.all() else jnp.where(mask, values, jnp.float32(np.nan))

    # -- golden samples --------------------------------------------------------------------------

    def golden(
        self, golden: dict[str, np.ndarray], state: list[Argument], forcing: list[Argument]
    ) -> dict[str, np.ndarray]:
        """The surrogate's own golden samples, in physical units and with dates: what a caller would hand over."""
        normalizer = self.frame.normalizer
        result: dict[str, np.ndarray] = {}
        count, channels = len(golden["forcing"]), self.frame.num_prognostic
        dates = np.resize(_GOLDEN_DATES, (count, 6))
        if channels:
            normal = golden["state"].reshape(count, *self.spec.grid.shape, self.history, channels)
            past = []
            for h in range(self.history):
                months = None
                if normalizer.climatology is not None and self.calendar is not None:
                    when = self.calendar.advance(jnp.asarray(dates), self.spec.time_step, h + 1 - self.history)
                    months = np.asarray(self.calendar.month(when))
                past.append(normalizer.denormalize("prognostic", normal[..., h, :], months))
            values = np.stack(past, axis=1) if self.history > 1 else past[0]
            result |= dict(
                zip([a.name for a in state], split_channels(values, self.spec.role("prognostic")), strict=True)
            )
        if forcing:
            variables = self.spec.role("forcing")
            normal = golden["forcing"][..., : len(variables)]
            values = (normal * normalizer.scale["forcing"] + normalizer.center["forcing"]).astype(np.float32)
            if self.steps > 1:
                values = np.repeat(values[:, None], self.steps, axis=1)
            result |= dict(zip([a.name for a in forcing], split_channels(values, variables), strict=True))
        if self.dated:
            result[DATE] = dates
        return {name: np.ascontiguousarray(value) for name, value in result.items()}


def channels_of(arrays: Sequence[Array], variables: Sequence[Variable], lead: int) -> jax.Array | None:
    """Arguments (B, [lead,] [level,] H, W) → (B, [lead,] H, W, C) in the order of the spec; None without variables."""
    if not variables:
        return None
    parts, order = [], []
    for array, (_, indices) in zip(arrays, groups(variables), strict=True):
        value = jnp.asarray(array)
        rank = 3 + lead
        value = value[..., None] if value.ndim == rank else jnp.moveaxis(value, 1 + lead, -1)
        parts.append(value)
        order += indices
    joined = jnp.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
    if order == sorted(order):
        return joined
    return joined[..., np.argsort(order)]


def split_channels(values: Any, variables: Sequence[Variable]) -> tuple[Any, ...]:
    """(B, [lead,] H, W, C) → arguments (B, [lead,] [level,] H, W)."""
    result = []
    for name, indices in groups(variables):
        first = variables[indices[0]]
        part = values[..., np.asarray(indices)]
        single = first.level is None or name != first.name
        numpy = isinstance(values, np.ndarray)
        move = np.moveaxis if numpy else jnp.moveaxis
        result.append(part[..., 0] if single else move(part, -1, -3))
    return tuple(result)
