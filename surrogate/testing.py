"""Checks that any domain of a user's own should pass: ``sg.testing.check_domain(MyDomain(experiment))``."""

from __future__ import annotations

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from surrogate.data.pipeline import batch_indices
from surrogate.domains.base import Domain


def check_domain(domain: Domain) -> None:
    """Open ``domain`` and check shapes, determinism, leakage, gradients and the artefact it writes.

    Raises:
        AssertionError: naming what is wrong.
    """
    domain.open()
    stage = domain.stage(0)
    hash(stage)
    size = domain.num_samples("train", stage)
    assert size > 0, "the training split has no samples"
    train = domain.experiment.train
    # A stage of a domain that packs has the shape of its own whole batch.
    indices = batch_indices(train.seed, 0, train.batch_size, size) if domain.packs else np.arange(min(4, size))
    batch = domain.batch("train", indices, stage)
    again = domain.batch("train", indices, stage)
    leaves = jax.tree.leaves(batch)
    assert leaves, "a batch holds no arrays"
    rows = train.accumulate if domain.packs else len(indices)
    for leaf in leaves:
        assert leaf.shape[0] == rows, f"a batch of {len(indices)} has an array of shape {leaf.shape}"
        assert np.isfinite(np.asarray(leaf, np.float64)).all(), "a training batch holds values that are not finite"
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), batch, again)
    assert all(jax.tree.leaves(same)), "the same indices gave another batch: batch() must be deterministic"
    if not domain.packs:
        whole = jax.tree.map(lambda x: x[1:2], batch)
        alone = domain.batch("train", indices[1:2], stage)
        same = jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-6), whole, alone)
        assert all(jax.tree.leaves(same)), "a sample depends on the others in its batch"
    if not domain.packs:  # packs of different shapes never look alike
        _check_leakage(domain, stage)
    _check_learning(domain, batch, stage)
    meaning, arrays = domain.artefact()
    assert isinstance(meaning, dict), "artefact() must give a dict of JSON values first"
    assert all(isinstance(v, np.ndarray) for v in arrays.values()), "artefact() must give NumPy arrays second"


def _check_leakage(domain: Domain, stage: Any) -> None:
    """No sample of one split may equal one of another."""
    seen: dict[bytes, str] = {}
    for split in ("train", "valid", "test"):
        size = domain.num_samples(split, stage)
        chosen: Any = np.unique(np.linspace(0, size - 1, min(size, 32)).round().astype(int)) if size else []
        for index in chosen:
            leaves = jax.tree.leaves(domain.batch(split, np.array([index]), stage))
            key = b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in leaves)
            assert seen.get(key, split) == split, f"a sample of {split} is also one of {seen[key]}: the splits leak"
            seen[key] = split


def _check_learning(domain: Domain, batch: Any, stage: Any) -> None:
    model = domain.build_model(nnx.Rngs(0))
    graphdef, variables = nnx.split(model)
    params = nnx.to_pure_dict(variables)
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(params)), "parameters must be float32"
    constants, key = domain.constants(), jax.random.key(0)

    def loss(p: Any) -> jax.Array:
        return domain.loss(nnx.merge(graphdef, p), constants, batch, key, stage)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert value.shape == (), f"the loss has shape {value.shape}, it must be one number"
    assert value.dtype == jnp.float32, f"the loss is {value.dtype}, it must be float32"
    assert np.isfinite(value), f"the loss of an untrained model is {value}"
    norm = sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(gradient))
    assert np.isfinite(norm), "a gradient is not finite"
    assert norm > 0, "every gradient is zero: the loss does not depend on the parameters"
