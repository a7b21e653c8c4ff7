"""Batches for the devices of a run: every process reads the rows and the parts of fields that its own need."""

from __future__ import annotations

from collections.abc import Hashable

import jax
import numpy as np

from surrogate.config import TrainConfig
from surrogate.core.types import PyTree, UserError
from surrogate.data.pipeline import batch_indices
from surrogate.domains.base import Domain
from surrogate.parallel.placement import Placement


def place(domain: Domain, placement: Placement) -> Domain:
    """``domain``, told of the devices of its run; before it is opened.

    Raises:
        UserError: for a domain that cannot be divided.
    """
    spatial = [f"mesh.{axis}={placement.sizes[axis]}" for axis in ("lat", "lon") if placement.sizes[axis] > 1]
    if domain.packs and spatial:
        name = domain.experiment.domain
        raise UserError(f"{' '.join(spatial)}: samples of the domain {name!r} have no latitude and longitude to divide")
    if domain.packs:
        train = domain.experiment.train
        placement.check_batch(train.batch_size, train.accumulate)
    domain.placement = placement
    return domain


class Batches:
    """Attributes:

    bytes_read: of samples that this process has read so far, as float32 arrays.
    """

    def __init__(self, domain: Domain, config: TrainConfig, placement: Placement) -> None:
        self.domain, self.config, self.placement = domain, config, placement
        self.bytes_read = 0
        # Of a domain that packs, what is divided over the devices are the packs.
        self.packs = config.accumulate * placement.batch_shards if domain.packs else 0
        placement.check_batch(config.batch_size, config.accumulate)
        placement.box(config.batch_size, domain.space())  # refuses a grid that the mesh does not divide

    def train(self, step: int) -> PyTree:
        """The batch of a step, on the devices. What is in it depends on seed and step alone, not on the mesh."""
        config, stage = self.config, self.domain.stage(step)
        size = self.domain.num_samples("train", stage)
        indices = batch_indices(config.seed, step, config.batch_size, size)
        return self.read("train", indices[self.placement.row_order(config.batch_size, config.accumulate)], stage)

    def read(self, split: str, indices: np.ndarray, stage: Hashable) -> PyTree:
        """Samples ``indices`` (B,), on the devices."""
        if self.placement.mesh is None:
            batch = self.domain.batch(split, indices, stage)
            self._count(batch)
            return jax.device_put(batch)
        count, space = len(indices), self.domain.space()
        if self.packs:
            packed = indices.reshape(self.packs if split == "train" else 1, -1)
            count, box = len(packed), self.placement.box(len(packed), space)
            part = self.domain.batch(split, packed[box.rows].ravel(), stage)
            self._count(part)
            return self.placement.assemble(part, self.domain.batch_dims(part), count, space, box)
        box = self.placement.box(count, space)
        part = self.domain.batch_part(split, indices[box.rows], stage, box.window)
        self._count(part)
        return self.placement.assemble(part, self.domain.batch_dims(part), count, space, box)

    def _count(self, part: PyTree) -> None:
        self.bytes_read += sum(leaf.nbytes for leaf in jax.tree.leaves(part))
