"""Sending values along neighbor slots, and collecting them, without a scatter in either direction.

Every atom has the same number M of neighbor slots, and every real slot (i, m), where atom j is a
neighbor of i, has its reverse (j, m'), where i is the neighbor of j through the opposite shift. The
transpose of "fetch from the sender" is then "sum over the reverse slots of my own": a gather and a
dense sum. A scatter of the same values takes XLA's CPU code about twenty times longer.

The two are each other's derivative, so any order of reverse-mode differentiation stays free of
scatters; forward mode (``jax.jvp``, ``jacfwd``) does not pass through them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from surrogate.core.types import Array


@jax.custom_vjp
def fetch(x: Array, senders: Array, reverse: Array, mask: Array) -> jax.Array:
    """(N, F) values of atoms → (N, M, F) values of each slot's sender, 0 in padding slots."""
    return jnp.where(mask[..., None], jnp.take(x, senders, axis=0, mode="clip"), 0)


@jax.custom_vjp
def collect(e: Array, senders: Array, reverse: Array, mask: Array) -> jax.Array:
    """(N, M, F) values of slots → (N, F) sums over the slots of which each atom is the sender."""
    n, m, f = e.shape
    back = jnp.take(e.reshape(n * m, f), reverse, axis=0, mode="clip")
    return jnp.sum(jnp.where(mask[..., None], back, 0), axis=1)


def _fetch_fwd(x, senders, reverse, mask):
    return fetch(x, senders, reverse, mask), (senders, reverse, mask)


def _fetch_bwd(saved, g):
    return collect(g, *saved), None, None, None


def _collect_fwd(e, senders, reverse, mask):
    return collect(e, senders, reverse, mask), (senders, reverse, mask)


def _collect_bwd(saved, g):
    return fetch(g, *saved), None, None, None


fetch.defvjp(_fetch_fwd, _fetch_bwd)
collect.defvjp(_collect_fwd, _collect_bwd)
