"""What a trained field model needs to be called: spec, normalisation, static fields, features.

The training domain and a loaded surrogate both hold one, so that they feed a model the same inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from surrogate.core.calendars import month_of
from surrogate.core.spec import Spec
from surrogate.core.types import PyTree
from surrogate.data.normalize import Normalizer
from surrogate.domains.features import num_time_features, position_features, time_features
from surrogate.models.base import FieldGeometry, find_model


@dataclass(frozen=True)
class FieldFrame:
    """Attributes:

    static: (H, W, S) physical units.
    features: names of position and time features.
    symmetry: ``transpose`` where a forecast is the mean of the network's for a sample and for the sample with rows
        and columns exchanged, turned back: what a network has learnt of a symmetry by example is not exact.
    """

    spec: Spec
    normalizer: Normalizer
    static: np.ndarray
    features: tuple[str, ...]
    symmetry: Literal["none", "transpose"] = "none"

    @property
    def num_prognostic(self) -> int:
        return len(self.spec.role("prognostic"))

    @property
    def num_forcing(self) -> int:
        return len(self.spec.role("forcing")) + num_time_features(self.features)

    def bound_to_places(self) -> str:
        """What makes equal inputs at two grid points give unequal outputs, as half a sentence; '' where nothing does."""
        if "position" in self.features:
            return "its features hold the position; train with data.features=[] or [season,diurnal]"
        if not self.normalizer.mask.all():
            return "points without a value (land) are an input of the model"
        if self.normalizer.climatology is not None:
            return "it subtracts each point's climatology; train with data.anomaly=none"
        if self.normalizer.base is not None:
            return "its increments are added to a forecast fitted for each point; train with data.base=persistence"
        return ""

    def geometry(self) -> FieldGeometry:
        return FieldGeometry(
            grid=self.spec.grid,
            num_state=self.spec.history * self.num_prognostic,
            num_forcing=self.num_forcing,
            num_static=self.static_inputs().shape[-1],
            num_outputs=len(self.spec.outputs),
        )

    def static_inputs(self) -> np.ndarray:
        """The base's memory where there is one, normalised static fields, position features, the land mask where there is one: (H, W, S) float32."""
        parts: list[np.ndarray] = []
        if self.normalizer.base is not None:
            parts.append(self.normalizer.base.memory)
        if self.static.shape[-1]:
            parts.append(self.normalizer.normalize("static", self.static[None])[0])
        if "position" in self.features:
            parts.append(position_features(self.spec.grid))
        # Land is an input of its own: after normalisation a missing point looks like an average one.
        if not self.normalizer.mask.all():
            parts.append(np.asarray(self.normalizer.mask.any(-1, keepdims=True), np.float32))
        return np.concatenate(parts, axis=-1) if parts else np.zeros((*self.spec.grid.shape, 0), np.float32)

    def forcing_inputs(self, time: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Normalised forcings, then time features: (N, H, W, F) from physical ``values`` (N, H, W, forcings)."""
        calendar = time_features(time, self.features)[:, None, None, :]
        calendar = np.broadcast_to(calendar, (*values.shape[:3], calendar.shape[-1]))
        if not values.shape[-1]:
            return calendar
        return np.concatenate([self.normalizer.normalize("forcing", values), calendar], axis=-1)

    def state_inputs(self, values: np.ndarray) -> np.ndarray:
        """(N, history, H, W, P) normalised → (N, H, W, history × P), oldest first."""
        count, history, height, width, channels = values.shape
        return np.moveaxis(values, 1, 3).reshape(count, height, width, history * channels)

    def months(self, time: np.ndarray) -> np.ndarray | None:
        """Calendar months where the normalisation needs them."""
        return month_of(time) if self.normalizer.climatology is not None else None

    def denormalize(self, outputs: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Normalised outputs (N, H, W, P + D) → physical units, missing points NaN."""
        count, months = self.num_prognostic, self.months(time)
        return np.concatenate(
            [
                self.normalizer.denormalize("prognostic", outputs[..., :count], months),
                self.normalizer.denormalize("diagnostic", outputs[..., count:], months),
            ],
            axis=-1,
        )

    def constants(self) -> PyTree:
        """The arrays of :func:`surrogate.domains.forecast.field_step`."""
        base = self.normalizer.base
        return {
            "static": jnp.asarray(self.static_inputs()),
            "increment": jnp.asarray(self.normalizer.target_scale[0]),
            "mask": jnp.asarray(self.normalizer.mask, jnp.float32),
            # Structure, not values: what is in there is compiled in.
            "symmetry": {"transpose": {}} if self.symmetry == "transpose" else {},
            "base": jax.tree.map(jnp.asarray, base.arrays() if base is not None else {}),
        }

    def build_model(self, name: str, config: Any, rngs: nnx.Rngs) -> nnx.Module:
        return find_model(name)(self.geometry(), config, rngs=rngs)  # type: ignore[call-arg]

    def empty_model(self, name: str, config: Any) -> nnx.Module:
        """A model whose parameters are shapes alone, to be filled."""
        return nnx.eval_shape(lambda: self.build_model(name, config, nnx.Rngs(0)))
