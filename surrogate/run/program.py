"""From an opened domain to its compiled step: the program that a run executes and a plan compiles for other hardware."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from surrogate.config import TrainConfig
from surrogate.core.types import PyTree
from surrogate.domains.base import Domain
from surrogate.parallel.placement import Placement
from surrogate.run.step import initial_state, parameter_names


class StateBuilder:
    """Called, or traced, gives the state before the first update; by then the attributes are set.

    Attributes:
        graphdef: the network's graph, the same for traced values as for real ones.
        names: logical dims of the parameters that name them, by path.
    """

    graphdef: Any

    def __init__(self, domain: Domain, optimizer: optax.GradientTransformation, config: TrainConfig) -> None:
        self.domain, self.optimizer, self.config = domain, optimizer, config
        self.names: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        domain, config = self.domain, self.config
        self.graphdef, variables = nnx.split(domain.build_model(nnx.Rngs(config.seed)))
        self.names.update(parameter_names(variables))
        params = nnx.to_pure_dict(variables)
        if config.ensemble > 1:
            key = jax.random.key(config.seed)
            others = [domain.build_model(nnx.Rngs(jax.random.fold_in(key, n))) for n in range(1, config.ensemble)]
            pure = [nnx.to_pure_dict(nnx.split(model)[1]) for model in others]
            params = jax.tree.map(lambda *members: jnp.stack(members), params, *pure)
        return initial_state(params, self.optimizer, config)

    def shardings(self, placement: Placement, shapes: PyTree) -> PyTree | None:
        """Where the arrays of a state of these shapes lie; None without a mesh. After a first trace."""
        return None if placement.mesh is None else placement.state_shardings(shapes, self.names)


def lower_step(
    step: Callable[..., Any], placement: Placement, shardings: PyTree | None, arguments: tuple[Any, ...]
) -> jax.stages.Lowered:
    """The step for ``arguments`` (state first, given away), arrays or shapes with their shardings."""
    options: dict[str, Any] = {} if placement.mesh is None else {"out_shardings": (shardings, placement.whole)}
    with placement.active():
        return jax.jit(step, donate_argnums=0, **options).lower(*arguments)
