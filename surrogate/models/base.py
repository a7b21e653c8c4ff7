"""The contract of a field model, and the registry that maps names to models.

A field model is an ``nnx.Module`` built as ``Model(geometry, config, rngs=rngs)`` and called as
``model(state, forcing, static)``:

- ``state`` (B, H, W, history × P): normalised prognostic fields, oldest first;
- ``forcing`` (B, H, W, F): normalised forcings at the time that is predicted;
- ``static`` (H, W, S): normalised static fields and position features;
- returns (B, H, W, P + D): normalised increments of the P prognostic fields and normalised
  values of the D diagnostic fields, float32 whatever the compute dtype.

The last axis of an absent role has size 0, never a missing argument.
"""

from __future__ import annotations

from dataclasses import dataclass
import importlib
from importlib.metadata import entry_points
from typing import Any, Protocol

from flax import nnx
import jax
import jax.numpy as jnp

from surrogate.core.spec import Grid
from surrogate.core.types import Array, UserError

# Name → module and class; imported on first use so that naming one model never loads the others.
_MODELS = {
    "unet": ("surrogate.models.unet", "UNet"),
    "fno": ("surrogate.models.fno", "FNO"),
    "sfno": ("surrogate.models.sfno", "SFNO"),
    "transformer": ("surrogate.models.transformer", "Transformer"),
    "mlp": ("surrogate.models.mlp", "MLP"),
    "potential": ("surrogate.models.potential", "Potential"),
    "descriptor": ("surrogate.models.descriptor", "Descriptor"),
}


@dataclass(frozen=True)
class FieldGeometry:
    """What a field model may know of its data: grid and channel counts."""

    grid: Grid
    num_state: int  # history × P
    num_forcing: int
    num_static: int
    num_outputs: int  # P + D

    @property
    def num_inputs(self) -> int:
        return self.num_state + self.num_forcing + self.num_static


class FieldModel(Protocol):
    """Structural type of every class in the registry."""

    Config: type[Any]

    def __call__(self, state: Array, forcing: Array, static: Array) -> jax.Array: ...


def join_inputs(state: Array, forcing: Array, static: Array) -> jax.Array:
    """Concatenate the three roles along channels, repeating ``static`` over the batch: (B, H, W, inputs)."""
    batch = state.shape[0]
    repeated = jnp.broadcast_to(static, (batch, *static.shape))
    parts = [jnp.asarray(p) for p in (state, forcing, repeated) if p.shape[-1]]
    return jnp.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


# Classes that a person has named in a configuration or handed to ``surrogate.load`` in this process.
_CHOSEN: dict[str, type[nnx.Module]] = {}


def find_model(name: str) -> type[nnx.Module]:
    """The model class registered as ``name`` here or in the ``surrogate.models`` entry points, or ``module:Class``.

    The form ``module:Class`` is for a person's own configuration; a file that travels with a model
    never reaches it (see :func:`find_registered_model`).

    Raises:
        UserError: for a name that does not exist, with the names that do, or a class that is no model.
    """
    if ":" not in name:
        return find_registered_model(name)
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"model {name!r} cannot be imported: {error}") from error
    allow_model(name, found)
    return found


def allow_model(name: str, model: Any) -> None:
    """Let saved surrogates of this process use a class of a person's own.

    Raises:
        UserError: when ``model`` is not an ``nnx.Module`` with a ``Config``.
    """
    if not (isinstance(model, type) and issubclass(model, nnx.Module) and hasattr(model, "Config")):
        raise UserError(f"model {name!r} is not an nnx.Module class with a Config")
    _CHOSEN[name] = model


def find_registered_model(name: str) -> type[nnx.Module]:
    """As :func:`find_model`, for what is installed or was chosen in this process: what an artefact may ask for."""
    if name in _MODELS:
        module, attribute = _MODELS[name]
        return getattr(importlib.import_module(module), attribute)
    if name in _CHOSEN:
        return _CHOSEN[name]
    installed = {e.name: e for e in entry_points(group="surrogate.models")}
    if name in installed:
        return installed[name].load()
    hint = "; hand its class to surrogate.load(..., model=)" if ":" in name else ""
    raise UserError(f"model {name!r} does not exist; there are {', '.join(sorted({*_MODELS, *installed}))}{hint}")
