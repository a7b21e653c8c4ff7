"""One optimizer update as a pure function of (state, constants, batch)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from surrogate.config import TrainConfig
from surrogate.core.types import PyTree
from surrogate.domains.base import Domain
from surrogate.parallel.mesh import batch_shards
from surrogate.parallel.rules import Dims


def initial_state(params: PyTree, optimizer: optax.GradientTransformation, config: TrainConfig) -> dict[str, Any]:
    """The train state: everything that a resumed run needs besides the seed.

    Of an ensemble, parameters and moments have a leading axis of members.
    ``step`` counts updates tried; ``skipped`` those that a non-finite value cancelled in all and
    ``streak`` the latest of them in a row.
    """
    state = {
        "params": params,
        "opt_state": (jax.vmap(optimizer.init) if config.ensemble > 1 else optimizer.init)(params),
        "step": jnp.zeros((), jnp.int32),
        "skipped": jnp.zeros((), jnp.int32),
        "streak": jnp.zeros((), jnp.int32),
    }
    if config.ema:
        state["ema"] = jax.tree.map(jnp.copy, params)
    if config.select == "best":
        state["best"] = jax.tree.map(jnp.copy, params)
        state["best_loss"] = jnp.full((), jnp.inf, jnp.float32)
    return state


def make_train_step(
    domain: Domain, graphdef: Any, optimizer: optax.GradientTransformation, config: TrainConfig, stage: Hashable
) -> Callable[[dict[str, Any], PyTree, PyTree], tuple[dict[str, Any], dict[str, jax.Array]]]:
    """Build ``(state, constants, batch) -> (state, scalars)`` for one stage of the curriculum.

    The gradient is averaged over ``accumulate`` equal parts of the batch. A non-finite loss or
    gradient leaves parameters, moments and averages as they were. The averaged weights follow
    ``min(decay, (1 + n) / (10 + n))`` after n updates, so that early ones are forgotten. Members of an
    ensemble are clipped and updated each by itself; one that is not finite stops all.
    """
    parts = config.accumulate

    def loss_fn(params: PyTree, constants: PyTree, batch: PyTree, key: jax.Array) -> tuple[jax.Array, dict]:
        return domain.loss(nnx.merge(graphdef, params), constants, batch, key, stage)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def gradients(params: PyTree, constants: PyTree, batch: PyTree, key: jax.Array) -> tuple[Any, Any, Any]:
        if parts == 1:
            (loss, extra), grads = grad_fn(params, constants, batch, key)
            return loss, extra, grads
        split = jax.tree.map(lambda x: _split(x, parts), batch)

        def body(total: Any, item: Any) -> tuple[Any, None]:
            part, part_key = item
            (loss, extra), grads = grad_fn(params, constants, part, part_key)
            return jax.tree.map(lambda t, v: t + v / parts, total, (loss, extra, grads)), None

        first = jax.tree.map(lambda x: x[0], split)
        shapes = jax.eval_shape(lambda p, c, b, k: grad_fn(p, c, b, k), params, constants, first, key)
        (loss_s, extra_s), grads_s = shapes
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (loss_s, extra_s, grads_s))
        (loss, extra, grads), _ = jax.lax.scan(body, zero, (split, jax.random.split(key, parts)))
        return loss, extra, grads

    def train_step(
        state: dict[str, Any], constants: PyTree, batch: PyTree
    ) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed), state["step"])
        if config.ensemble > 1:
            keys = jax.random.split(key, config.ensemble)
            losses, each, grads = jax.vmap(gradients, (0, None, None, 0))(state["params"], constants, batch, keys)
            loss, extra = losses.mean(), mean_of_members(each)
            norm = jax.vmap(optax.tree.norm)(grads).max()
            updates, opt_state = jax.vmap(optimizer.update)(grads, state["opt_state"], state["params"])
        else:
            loss, extra, grads = gradients(state["params"], constants, batch, key)
            norm = optax.tree.norm(grads)
            updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        good = jnp.isfinite(loss) & jnp.isfinite(norm)
        params = optax.apply_updates(state["params"], updates)

        def keep(new: PyTree, old: PyTree) -> PyTree:
            return jax.tree.map(lambda n, o: jax.lax.select_n(good, o, n), new, old)

        new = dict(state)
        new["params"] = keep(params, state["params"])
        new["opt_state"] = keep(opt_state, state["opt_state"])
        new["step"] = state["step"] + 1
        new["skipped"] = state["skipped"] + ~good
        new["streak"] = jnp.where(good, 0, state["streak"] + 1)
        if config.ema:
            done = (state["step"] - state["skipped"]).astype(jnp.float32)
            decay = jnp.minimum(config.ema, (1 + done) / (10 + done))
            averaged = jax.tree.map(lambda e, p: e * decay + p * (1 - decay), state["ema"], new["params"])
            new["ema"] = keep(averaged, state["ema"])
        scalars = {"loss": loss, "grad_norm": norm, "skipped": new["skipped"], "streak": new["streak"], **extra}
        return new, scalars

    return train_step


def _split(x: jax.Array, parts: int) -> jax.Array:
    """(B, ...) → (parts, B / parts, ...). Under a mesh the rows come in the order of ``Placement.row_order``."""
    devices = batch_shards()
    if devices == 1:
        return x.reshape(parts, x.shape[0] // parts, *x.shape[1:])
    own = x.reshape(devices, parts, x.shape[0] // (devices * parts), *x.shape[1:])
    return jnp.swapaxes(own, 0, 1).reshape(parts, x.shape[0] // parts, *x.shape[1:])


def parameter_names(variables: Any) -> dict[str, Dims]:
    """Logical dims of those parameters that name them, by path."""
    found = {}
    for path, variable in nnx.to_flat_state(variables):
        # A leaf may be a bare array, without metadata.
        dims = variable.get_metadata().get("out_sharding") if hasattr(variable, "get_metadata") else None
        if dims:
            found["/".join(map(str, path))] = tuple(dims)
    return found


def mean_of_members(scalars: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Means of (E,) scalars; of those whose name ends in ``rmse`` the root of the mean square."""
    return {n: jnp.sqrt(jnp.mean(v * v)) if n.endswith("rmse") else jnp.mean(v) for n, v in scalars.items()}


def evaluated_params(state: dict[str, Any], config: TrainConfig) -> PyTree:
    """The weights to score and save: the best by validation, the averaged, or the last ones."""
    if config.select == "best":
        return state["best"]
    return state["ema"] if config.ema else state["params"]
