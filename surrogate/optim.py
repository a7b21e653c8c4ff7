"""The optimizer: AdamW with clipping, linear warm-up and cosine decay."""

from __future__ import annotations

import jax
import optax

from surrogate.config import OptimConfig
from surrogate.core.types import PyTree


def learning_rate(config: OptimConfig, steps: int) -> optax.Schedule:
    """Learning rate by update number: linear warm-up, then cosine decay to ``end`` × the peak."""
    warmup = round(config.warmup * steps)
    if warmup >= steps:
        warmup = max(steps - 1, 0)
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / 10 if warmup else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
        end_value=config.learning_rate * config.end,
    )


def make_optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019) after clipping by the global norm.

    Only matrices and kernels decay: biases, gains and other vectors are left alone.
    """

    def decayed(params: PyTree) -> PyTree:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config, steps), b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=decayed
        ),
    )
