"""Products of an equivariant density with itself, as powers of a function on the sphere.

A channel's coefficients A_lm are a function u(Ω) = Σ A_lm Y_lm(Ω) around the atom, and u², u³ … projected
back on the harmonics are its couplings of higher body order (Drautz 2019; Batatia et al., "MACE: Higher
order equivariant message passing neural networks", 2022, sums the same terms over tables of generalised
Clebsch–Gordan coefficients). Here u is evaluated on a cubature rule that is exact for the degree needed,
so that all couplings of an order are a pointwise product between two matrix products; the even and the
odd part of u are kept apart, which halves the points and tells the couplings of even and odd degrees
apart. What weights of single couplings would add comes from the matrices that mix channels before,
separately for each l, and after.
"""

from __future__ import annotations

import math

from flax import nnx
import jax
import jax.numpy as jnp

from surrogate.models.sphere import parity_transforms


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: float, dtype: jnp.dtype, scale: float = 1.0) -> nnx.Param:
    """A parameter of independent normal values with standard deviation ``scale`` / √``fan_in``."""
    return nnx.Param((scale / math.sqrt(fan_in) * jax.random.normal(rngs.params(), shape)).astype(dtype))


def terms(correlation: int, degree: int) -> list[tuple[int, int]]:
    """Powers (of the even part, of the odd part) of order 2 … ``correlation`` that have a projection on ``degree``."""
    return [
        (order - odd, odd) for order in range(2, correlation + 1) for odd in range(order + 1) if (odd - degree) % 2 == 0
    ]


def gaussian_rms(a: int, b: int) -> float:
    """Root mean square of x^a y^b for independent standard normal values: keeps products of all orders alike."""
    return math.sqrt(math.prod(range(2 * a - 1, 0, -2)) * math.prod(range(2 * b - 1, 0, -2)))


class Products(nnx.Module):
    """Mix the channels for each l, then take all products up to an order.

    Args:
        inputs: channels of each degree l = 0 … l_max.
        channels: of which products are taken.
        correlation: highest order of a product; neighbors that interact at once, as many.
        l_out: degrees 1 … ``l_out`` to return beside the invariants.
        num_species: each species scales the mixed channels with factors of its own, where there are several.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        channels: int,
        correlation: int,
        l_out: int,
        num_species: int,
        dtype: jnp.dtype,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        l_max = len(inputs) - 1
        self.correlation, self.l_out, self.l_max, self.channels = correlation, l_out, l_max, channels
        # The even and the odd part of the function are of mean square 1 where the coefficients are.
        parts = [(l_max - degree % 2) // 2 + 1 for degree in range(l_max + 1)]
        self.mix = nnx.List(
            [normal(rngs, (q, channels), q * (2 * n + 1) * parts[n], dtype) for n, q in enumerate(inputs)]
        )
        if num_species > 1:
            self.species_scale = nnx.Param(jnp.zeros((num_species, (l_max + 1) * channels), dtype))
        parity_transforms(l_max, self.degree)  # raises here and not in a trace

    @property
    def degree(self) -> int:
        """Of the polynomials that the cubature has to integrate."""
        return self.correlation * self.l_max + self.l_out

    @property
    def num_invariants(self) -> int:
        return self.channels * (1 + len(terms(self.correlation, 0)))

    def num_equivariants(self, degree: int) -> int:
        return self.channels * (1 + len(terms(self.correlation, degree)))

    def __call__(self, density: list[jax.Array], species: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """Products of [(2l + 1, N, q_l)]; ``species`` is the one-hot (N, S).

        Returns:
            Invariants (N, num_invariants), and for l = 1 … l_out (2l + 1, N, num_equivariants(l)).
        """
        n, c = density[0].shape[1], self.channels
        mixed = [d @ w[...] for d, w in zip(density, self.mix, strict=True)]
        if hasattr(self, "species_scale"):
            scale = (1 + species @ self.species_scale[...]).reshape(n, self.l_max + 1, c)
            mixed = [d * scale[:, degree] for degree, d in enumerate(mixed)]
        even_matrix, odd_matrix, weights = (
            jnp.asarray(t, mixed[0].dtype) for t in parity_transforms(self.l_max, self.degree)
        )

        def on_axes(matrix: jax.Array, parts: list[jax.Array]) -> jax.Array:
            return (matrix @ jnp.concatenate(parts).reshape(matrix.shape[1], n * c)).reshape(-1, n, c)

        even, odd = on_axes(even_matrix, mixed[0::2]), on_axes(odd_matrix, mixed[1::2])
        powers = {(a, b): even**a * odd**b / gaussian_rms(a, b) for a, b in self._pairs()}

        def projected(degree: int, matrix: jax.Array) -> jax.Array:
            back = (matrix * weights[:, None]).T
            parts = [
                (back @ powers[pair].reshape(-1, n * c)).reshape(-1, n, c) for pair in terms(self.correlation, degree)
            ]
            return jnp.concatenate([mixed[degree], *parts], axis=-1)

        invariants = projected(0, jnp.ones((len(weights), 1), weights.dtype))[0]
        equivariants = []
        for degree in range(1, self.l_out + 1):
            # Columns of one parity are in order of l: 0, 2 and 1, 3; what comes before l is l(l − 1)/2 of them.
            start = degree * (degree - 1) // 2
            columns = (odd_matrix if degree % 2 else even_matrix)[:, start : start + 2 * degree + 1]
            equivariants.append(projected(degree, columns))
        return invariants, equivariants

    def _pairs(self) -> set[tuple[int, int]]:
        return {pair for degree in range(self.l_out + 1) for pair in terms(self.correlation, degree)}


def products_flops(inputs: tuple[int, ...], channels: int, correlation: int, l_out: int) -> float:
    """Operations of one atom's :class:`Products` in matrix products; multiply-add is 2, powers not counted."""
    l_max = len(inputs) - 1
    axes = len(parity_transforms(l_max, correlation * l_max + l_out)[2])
    mixing = sum((2 * degree + 1) * q for degree, q in enumerate(inputs))
    back = sum((2 * degree + 1) * len(terms(correlation, degree)) for degree in range(l_out + 1))
    return 2.0 * channels * (mixing + axes * ((l_max + 1) ** 2 + back))
