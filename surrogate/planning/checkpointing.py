"""How often to save, and what is left of the time: Young (1974) and Daly (2006).

J. W. Young, A first order approximation to the optimum checkpoint interval, Comm. ACM 17, 530 (1974).
J. T. Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, Future Generation Computer
Systems 22, 303–312 (2006). Failures are a Poisson process of mean time M between them.
"""

from __future__ import annotations

from dataclasses import dataclass
import math


@dataclass(frozen=True)
class Checkpointing:
    """Seconds, and ``bytes`` of one checkpoint.

    Attributes:
        write: until it is on disk; the loop waits for ``stall`` of it.
        restart: from an interruption to where the run was saved: reading, compiling, and a checkpoint under way that is lost.
        mean_time: between interruptions of the whole run.
        interval: of computation between saves that loses least; ``young`` its first approximation.
        goodput: share of time spent on steps that count.
    """

    bytes: float
    write: float
    stall: float
    restart: float
    mean_time: float
    interval: float
    young: float
    goodput: float


def young_interval(stall: float, mean_time: float) -> float:
    """√(2 δ M)"""
    return math.sqrt(2 * stall * mean_time)


def daly_interval(stall: float, mean_time: float) -> float:
    """Daly's equation 37: √(2 δ M) (1 + ⅓ √(δ/2M) + ⅑ δ/2M) − δ; M where saving takes longer than 2M."""
    if stall >= 2 * mean_time:
        return mean_time
    ratio = stall / (2 * mean_time)
    return young_interval(stall, mean_time) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - stall


def goodput(interval: float, stall: float, restart: float, mean_time: float) -> float:
    """Share of time that counts: τ / (M e^{R/M} (e^{(τ+δ)/M} − 1)), the inverse of Daly's equation 20."""
    lost = restart / mean_time + math.log(mean_time)
    exponent = (interval + stall) / mean_time
    if exponent > 500:
        return 0.0
    return interval / math.exp(lost) / math.expm1(exponent)


def plan_checkpoints(
    size: float,
    *,
    hosts: int,
    devices: int,
    failures: float,
    restart: float,
    storage: float,
    storage_total: float,
    host_copy: float,
) -> Checkpointing:
    """The interval that loses least.

    Args:
        size: bytes of a checkpoint, which the hosts write side by side.
        failures: interruptions per device and hour.
        restart: seconds, without reading.
        storage, storage_total, host_copy: bytes/s of a host, of the file system, of a host from its devices.
    """
    write = size / min(hosts * storage, storage_total)
    stall = min(size / hosts / host_copy, write)
    mean_time = 3600 / (failures * devices)
    again = restart + 2 * write  # it is read as fast as written, and one being written is lost
    interval = max(daly_interval(stall, mean_time), write)  # the next one begins when the last is on disk
    share = goodput(interval, stall, again, mean_time)
    return Checkpointing(size, write, stall, again, mean_time, interval, young_interval(stall, mean_time), share)
