"""From the invariants of an atom to its energy."""

from __future__ import annotations

from flax import nnx
import jax
import jax.numpy as jnp

from surrogate.models.products import normal


class Readout(nnx.Module):
    """A linear function, plus a perceptron of one hidden layer that knows the species of the atom.

    Args:
        inputs: number of invariants.
        hidden: width of the hidden layer; 0 leaves the linear function alone.
        num_species: S of the one-hot species.
    """

    def __init__(self, inputs: int, hidden: int, num_species: int, dtype: jnp.dtype, *, rngs: nnx.Rngs) -> None:
        # Small at first: an untrained potential is nearly the reference energies.
        self.linear = normal(rngs, (inputs, 1), inputs, dtype, 0.1)
        self.offset = nnx.Param(jnp.zeros((num_species, 1), dtype))
        self.hidden = hidden
        if hidden:
            self.weight_in = normal(rngs, (inputs, hidden), inputs, dtype)
            self.bias = nnx.Param(jnp.zeros((num_species, hidden), dtype))
            self.weight_out = normal(rngs, (hidden, 1), hidden, dtype, 0.1)

    def __call__(self, invariants: jax.Array, species: jax.Array) -> jax.Array:
        """(N, inputs) and one-hot (N, S) → (N,)."""
        out = invariants @ self.linear[...] + species @ self.offset[...]
        if self.hidden:
            inner = jax.nn.silu(invariants @ self.weight_in[...] + species @ self.bias[...])
            out = out + inner @ self.weight_out[...]
        return out[:, 0]
