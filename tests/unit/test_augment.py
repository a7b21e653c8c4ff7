"""Augmentation keeps input and output together."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surrogate.core.spec import Grid
from surrogate.core.types import UserError
from surrogate.data.augment import check_square, random_transpose
from surrogate.domains.forecast import exchange, field_step


def test_rows_and_columns_are_exchanged_in_all_fields_or_in_none() -> None:
    rng = np.random.default_rng(0)
    batch = {"forcing": rng.normal(size=(2, 1, 4, 4, 1)), "target": rng.normal(size=(2, 1, 4, 4, 2))}
    seen = set()
    for seed in range(20):
        result = random_transpose(batch, jax.random.key(seed))
        exchanged = not np.allclose(result["forcing"], batch["forcing"])
        seen.add(exchanged)
        for name, value in batch.items():
            expected = value.transpose(0, 1, 3, 2, 4) if exchanged else value
            np.testing.assert_allclose(result[name], expected, rtol=1e-6)
    assert seen == {True, False}


def test_only_a_square_plane_can_be_transposed() -> None:
    check_square(Grid((0.0, 1.0), (0.0, 1.0), "plane", False))
    for grid in (Grid((0.0, 1.0), (0.0, 1.0)), Grid((0.0, 1.0), (0.0, 1.0, 2.0), "plane", False)):
        with pytest.raises(UserError, match="square plane"):
            check_square(grid)


def test_a_forecast_of_both_orientations_commutes_with_the_exchange() -> None:
    rng = np.random.default_rng(1)
    weight = jnp.asarray(rng.normal(size=(4, 4, 1)), jnp.float32)

    def network(state: jax.Array, forcing: jax.Array, static: jax.Array) -> jax.Array:
        return jnp.tanh(jnp.cumsum(forcing, axis=1) * weight) + static  # tells rows from columns

    constants = {
        "static": jnp.asarray(rng.normal(size=(4, 4, 1)), jnp.float32), "increment": jnp.ones(1), "base": {},
        "mask": jnp.ones((4, 4, 1)),
    }  # fmt: skip
    forcing = jnp.asarray(rng.normal(size=(2, 4, 4, 1)), jnp.float32)
    state = jnp.zeros((2, 4, 4, 0))

    def forecast(symmetry: dict, fields: jax.Array) -> jax.Array:
        return field_step(network, constants | {"symmetry": symmetry}, state, fields, 0)[1]

    both = {"transpose": {}}
    np.testing.assert_allclose(
        forecast(both, exchange(forcing)), exchange(forecast(both, forcing)), rtol=1e-6, atol=1e-6
    )
    assert not np.allclose(forecast({}, exchange(forcing)), exchange(forecast({}, forcing)), atol=0.1)
