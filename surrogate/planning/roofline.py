"""The time of a step by a roofline: arithmetic, memory, and every level of the network (Williams et al. 2009).

    compute  = FLOPs of a device / (peak · efficiency)
    memory   = bytes of its memory that kernels touch / bandwidth
    level    = Σ bytes it sends on that level / the level's bandwidth
    step     = max(compute, memory) + (communication − hidden),
               communication = Σ levels,  hidden = min(overlap · communication, max(compute, memory))

With ``overlap`` 0 and 1 the same expression bounds the step from above and below. No latency is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from surrogate.planning.collectives import Traffic
from surrogate.planning.target import Chip


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step; ``levels`` by name of the network's level, ``fastest`` and ``slowest`` by the overlap."""

    compute: float
    memory: float
    levels: dict[str, float]
    step: float
    fastest: float
    slowest: float

    @property
    def communication(self) -> float:
        return sum(self.levels.values())

    @property
    def bound(self) -> str:
        """What takes longest."""
        parts = {"compute": self.compute, "memory": self.memory, **self.levels}
        return max(parts, key=lambda name: parts[name])


def step_time(
    flops: float,
    touched: float,
    traffic: Sequence[Traffic],
    chip: Chip,
    *,
    dtype: str,
    efficiency: float,
    overlap: float,
) -> StepTime:
    """The roofline of one device.

    Args:
        flops: floating-point operations of a device and step, those computed again included.
        touched: bytes of its memory that are read and written.
    """
    compute = flops / (chip.peak[dtype] * efficiency)
    memory = touched / chip.bandwidth
    levels = network_times(traffic, chip)
    work, communication = max(compute, memory), sum(levels.values())

    def total(share: float) -> float:
        return work + communication - min(share * communication, work)

    return StepTime(compute, memory, levels, total(overlap), total(1.0), total(0.0))


def network_times(traffic: Sequence[Traffic], chip: Chip) -> dict[str, float]:
    """Seconds on the links within a node (or slice) and on the network between nodes.

    A group that spans nodes with m members on each sends in m rings side by side: each of its network adapters
    carries 1/m of what a single ring would, and the links inside of a node carry all of it. In an all-to-all of n
    every device has n parts of its own, of which those for the n − m on other nodes leave by its adapter.
    """
    levels = {"node": 0.0, "network": 0.0}
    for row in traffic:
        crosses = row.within < row.group
        if crosses and "all-to-all" in row.kind:
            part = row.payload / row.group
            levels["node"] += part * (row.within - 1) / chip.node
            levels["network"] += part * (row.group - row.within) / chip.network
            continue
        if row.within > 1 or not crosses:
            levels["node"] += row.wire / chip.node
        if crosses:
            levels["network"] += row.wire / row.within / chip.network
    return levels
