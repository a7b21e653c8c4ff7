"""One function over many blocks of a source: in this process, or in others.

Statistics and stores are made of blocks that are worked on one by one and put together in their order, so that the
result has the same bits wherever the blocks were worked on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np

from surrogate.core.spec import Spec
from surrogate.data.source import DYNAMIC_ROLES, Source

Block = TypeVar("Block")
Result = TypeVar("Result")

BLOCK_BYTES = 256 * 2**20
"""Of fields in memory at once in a pass over the data."""
_MOST_TIMES = 64


class Blocks(Protocol):
    """Where blocks are worked on."""

    def each(self, function: Callable[[Source, Block], Result], blocks: Sequence[Block]) -> Iterator[Result]:
        """``function(source, block)`` of every block, in the order of ``blocks``."""
        ...


class Here:
    """In this process, one after the other."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def each(self, function: Callable[[Source, Block], Result], blocks: Sequence[Block]) -> Iterator[Result]:
        return (function(self.source, block) for block in blocks)


def sample_bytes(spec: Spec) -> int:
    """Of the fields of one time."""
    return 4 * sum(v.role in DYNAMIC_ROLES for v in spec.variables) * spec.grid.shape[0] * spec.grid.shape[1]


def in_blocks(times: np.ndarray, size: int) -> list[np.ndarray]:
    """Times of ``size`` bytes each in runs that fit into ``BLOCK_BYTES``; at most 64 of them, one at least."""
    length = int(np.clip(BLOCK_BYTES // max(1, size), 1, _MOST_TIMES))
    return [times[i : i + length] for i in range(0, len(times), length)]


def samples_in_blocks(samples: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """(trajectory, times) of samples (N, 2), in :func:`in_blocks` of every trajectory."""
    for number in np.unique(samples[:, 0]):
        for block in in_blocks(samples[samples[:, 0] == number, 1], size):
            yield int(number), block
