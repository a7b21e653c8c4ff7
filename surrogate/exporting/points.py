"""A field surrogate that acts on every grid point apart, as a function of columns: what a parameterisation is called with.

A sample is one column (a point with its levels), any number of them make a call, and where they come from is the
caller's business. The computation is that of :mod:`surrogate.exporting.fields` on a grid of one point. That the
surrogate does not look at neighbours or at its place is not taken on trust: it is tried before anything is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from surrogate.core.spec import Grid, Spec, Variable
from surrogate.core.types import Array, PyTree, UserError
from surrogate.domains.fields_surrogate import FieldSurrogate
from surrogate.exporting.fields import DATE, Fields, channels_of, split_channels
from surrogate.exporting.function import Argument, Function, compare, tolerances
from surrogate.exporting.stablehlo import reference

# Points of the golden fields: enough to fill the smaller programs with different columns, and for the comparison.
_GOLDEN, _COMPARED = 64, 4096
_REMEDY = "a point function needs a model that acts on every point apart, such as model=mlp with model.scope=point"


def point_functions(
    surrogate: FieldSurrogate, golden: dict[str, np.ndarray], steps: Sequence[int], tolerance: float = 1e-6
) -> list[Function]:
    """``point`` and, for each k > 1 of ``steps``, ``point_steps<k>``: columns in, columns out.

    Inputs are those of the field functions without latitude and longitude, then the static fields, which belong
    to a column like everything else, then the date.

    Args:
        golden: as for :func:`surrogate.exporting.fields.field_functions`.
        tolerance: of the comparison with the whole field, as in :func:`surrogate.exporting.function.tolerances`.

    Raises:
        UserError: for a surrogate that knows where it is, or that mixes points.
    """
    if reason := surrogate.frame.bound_to_places():
        raise UserError(f"{surrogate.manifest['name']} is no point function: {reason}")
    if not surrogate.frame.num_prognostic and set(steps) != {1}:
        raise UserError("steps= is for surrogates that advance a state; this one maps forcings to outputs")
    if not steps or min(steps) < 1 or len(set(steps)) != len(steps):
        raise UserError(f"steps={list(steps)} must be different whole numbers from 1")
    result = []
    for k in sorted(steps):
        whole = Fields(surrogate, k).function(golden)
        _refuse_mixing(whole)
        points = _Points(surrogate, k)
        every = points.columns(whole.golden, surrogate.frame.static)
        function = points.function(whole, every)
        _compare(function, whole, every, tolerance)
        result.append(function)
    return result


def _refuse_mixing(whole: Function) -> None:
    """Change the inputs of one grid point at a time: the outputs of every other one must keep their bits."""
    compiled = jax.jit(whole.apply)
    parameters = tuple(whole.parameters.values())
    inputs = tuple(whole.golden[a.name] for a in whole.inputs)
    before = [np.asarray(v) for v in compiled(parameters, inputs)]
    height, width = whole.outputs[0].shape[-2:]
    if height * width == 1:
        return
    for row, column in {(0, 0), (height // 2, width // 2), (height - 1, width // 3)}:
        changed = []
        for argument, value in zip(whole.inputs, inputs, strict=True):
            other = value.copy()
            if argument.name != DATE:
                other[..., row, column] += 0.3 * (value.std() or 1)
            changed.append(other)
        after = [np.asarray(v) for v in compiled(parameters, tuple(changed))]
        for argument, old, new in zip(whole.outputs, before, after, strict=True):
            differs = (old != new).reshape(-1, height, width).any(0)
            differs[row, column] = False
            if differs.any():
                r, c = np.argwhere(differs)[0]
                raise UserError(
                    f"the surrogate mixes points: a change at row {row}, column {column} changes {argument.name!r} "
                    f"at row {r}, column {c}; {_REMEDY}"
                )


def _compare(function: Function, whole: Function, every: dict[str, np.ndarray], tolerance: float) -> None:
    """The columns of the golden fields must give what the whole fields give at their points."""
    number = len(next(iter(every.values())))
    chosen = np.unique(np.linspace(0, number - 1, min(number, _COMPARED)).astype(int))
    got = reference(replace(function, golden={name: value[chosen] for name, value in every.items()}))
    for argument, output in zip(function.outputs, whole.outputs, strict=True):
        expected = _flat(reference(whole)[output.name])[chosen]
        limit, block = tolerances(argument, expected, tolerance, 10 * function.steps)
        error, allowed = compare({"tolerance": limit, "block": block}, expected, got[argument.name])
        if not error <= allowed:
            raise UserError(
                f"{argument.name!r} of a column differs from that of the whole field by {error:.3g} {argument.units}: "
                f"the surrogate knows the place of a point; {_REMEDY}"
            )


def _flat(values: np.ndarray) -> np.ndarray:
    """(N, ..., H, W) → (N × H × W, ...)."""
    moved = np.moveaxis(values, (-2, -1), (1, 2))
    return np.ascontiguousarray(moved.reshape(-1, *moved.shape[3:]))


class _Points(Fields):
    """The field functions on a grid of one point, a column a sample."""

    def __init__(self, surrogate: FieldSurrogate, steps: int) -> None:
        frame = surrogate.frame
        spec: Spec = replace(surrogate.spec, grid=Grid((0.0,), (0.0,), "plane", False))
        normalizer = replace(frame.normalizer, spec=spec, mask=np.ones((1, 1, len(spec.outputs)), bool))
        small = replace(
            frame, spec=spec, normalizer=normalizer, static=np.zeros((1, 1, frame.static.shape[-1]), np.float32)
        )
        super().__init__(FieldSurrogate(surrogate.manifest, small, surrogate.graphdef, surrogate.params), steps)
        self.statics = self.spec.role("static")
        self.parameters.pop("constants/static", None)  # a column brings its own
        self.static_arguments = self.arguments(self.statics, (), "a constant of the column")

    def arguments(
        self, variables: Sequence[Variable], lead: tuple[tuple[str, int], ...], meaning: str
    ) -> list[Argument]:
        found = super().arguments(
            [v if v.role != "static" else replace(v, role="forcing") for v in variables], lead, meaning
        )
        role = {v.name: v.role for v in variables}
        return [
            replace(a, dims=a.dims[:-2], shape=a.shape[:-2], role=role.get(a.name, a.role)) for a in found
        ]  # fmt: skip

    def columns(self, golden: dict[str, np.ndarray], static: np.ndarray) -> dict[str, np.ndarray]:
        """Every point of golden fields (N, ..., H, W) as a sample, with its static fields ``static`` (H, W, S)."""
        count = len(next(iter(golden.values())))
        result = {name: _flat(value) for name, value in golden.items() if name != DATE}
        values = np.broadcast_to(static, (count, *static.shape)).astype(np.float32)
        parts = split_channels(values, self.statics)
        result |= {a.name: _flat(part) for a, part in zip(self.static_arguments, parts, strict=True)}
        if DATE in golden:
            result[DATE] = np.repeat(golden[DATE], static.shape[0] * static.shape[1], axis=0)
        return result

    def function(self, whole: Function, every: dict[str, np.ndarray]) -> Function:  # type: ignore[override]
        """``whole`` as a function of columns; its golden samples are spread over the points of ``every``."""
        number = len(next(iter(every.values())))
        chosen = np.unique(np.linspace(0, number - 1, min(number, _GOLDEN)).astype(int))

        def column(argument: Argument) -> Argument:
            return replace(argument, dims=argument.dims[:-2], shape=argument.shape[:-2])

        fields = [column(a) for a in whole.inputs if a.name != DATE]
        inputs = (*fields, *self.static_arguments, *(a for a in whole.inputs if a.name == DATE))
        if len({a.name for a in inputs}) != len(inputs):
            raise UserError(f"two inputs bear one name: {', '.join(a.name for a in inputs)}")
        return Function(
            name="point" if self.steps == 1 else f"point_steps{self.steps}",
            inputs=inputs, outputs=tuple(column(a) for a in whole.outputs), parameters=self.parameters, apply=self.apply,
            golden={name: value[chosen] for name, value in every.items()}, steps=self.steps, kind="point",
        )  # fmt: skip

    def apply(self, parameters: tuple[Array, ...], inputs: tuple[Array, ...]) -> tuple[jax.Array, ...]:
        """Physical columns (N, [history,] [level]) and dates (N, 6) → physical columns (N, [level])."""
        tree = self.tree(parameters)
        # A column is a field of one point; XLA joins the mapped columns into one matrix product.
        return jax.vmap(lambda *column: self._column(tree, column))(*inputs)

    def _column(self, tree: PyTree, inputs: tuple[Array, ...]) -> tuple[jax.Array, ...]:
        date = [jnp.asarray(inputs[-1])[None]] if self.dated else []
        fields: list[Any] = [jnp.asarray(x)[None, ..., None, None] for x in inputs[: len(inputs) - len(date)]]
        count = len(self.static_arguments)
        dynamic, static = fields[: len(fields) - count], fields[len(fields) - count :]
        constants = dict(tree["constants"])
        if count:
            values = channels_of(static, self.statics, 0)
            normalizer = self.frame.normalizer
            constants["static"] = ((values - normalizer.center["static"]) / normalizer.scale["static"])[0]
        outputs = self.compute({**tree, "constants": constants}, (*dynamic, *date))
        return tuple(value[0, ..., 0, 0] for value in outputs)
