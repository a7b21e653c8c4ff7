"""The hardware that a plan is for: chips, how many, how they are joined."""

from __future__ import annotations

from dataclasses import dataclass, field
import math
import re

from surrogate.config import PlanConfig
from surrogate.core.types import UserError

_GIB = 2.0**30


@dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
        peak: FLOP/s of matrix products by the dtype of the computation.
        memory: bytes; 0 where there is no limit of its own.
        bandwidth: bytes/s of that memory.
        node, network: bytes/s that one device sends, at best, to others of its node (of a TPU slice: along one axis of
            the torus, both ways round) and to other nodes.
        price: $ an hour; watts: with the share of the host.
        source: of the numbers.
    """

    name: str
    peak: dict[str, float]
    memory: float
    bandwidth: float
    node: float
    network: float
    price: float
    watts: float
    source: str


_ASSUMED = "price and power are assumptions (no figure is published for power)"
CHIPS = {
    "tpu": {
        "v5p": Chip("v5p", {"bfloat16": 459e12, "float32": 459e12}, 95 * _GIB, 2765e9, 200e9, 6.25e9 / 4, 4.2, 600.0,
                    "cloud.google.com/tpu/docs/v5p: 459 TFLOP/s, 95 GiB, 2765 GB/s, links of 1200 GB/s a chip over 6 "
                    f"links both ways, so 200 GB/s along one axis; {_ASSUMED}"),
        "v5e": Chip("v5e", {"bfloat16": 197e12, "float32": 197e12}, 16 * _GIB, 800e9, 100e9, 3.1e9, 1.2, 300.0,
                    "cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, 16 GB, 800 GB/s, links of 400 GB/s a chip over 4 links "
                    f"both ways, so 100 GB/s along one axis; {_ASSUMED}"),
        "v6e": Chip("v6e", {"bfloat16": 918e12, "float32": 918e12}, 32 * _GIB, 1600e9, 200e9, 3.1e9, 2.7, 500.0,
                    "cloud.google.com/tpu/docs/v6e: 918 TFLOP/s, 32 GB, 1600 GB/s, links of 800 GB/s a chip over 4 links "
                    f"both ways, so 200 GB/s along one axis; {_ASSUMED}"),
    },
    "gpu": {
        "h100": Chip("h100", {"bfloat16": 989e12, "float32": 494e12}, 80e9, 3350e9, 450e9, 50e9, 3.0, 1275.0,
                     "NVIDIA H100 SXM datasheet: 989 TFLOP/s bf16 (TF32 494) dense, 80 GB, 3.35 TB/s, NVLink 900 GB/s both "
                     "ways; one 400 Gbit/s adapter a GPU; DGX H100: 10.2 kW for 8; the price is an assumption"),
        "a100": Chip("a100", {"bfloat16": 312e12, "float32": 156e12}, 80e9, 2039e9, 300e9, 25e9, 1.8, 812.0,
                     "NVIDIA A100 SXM datasheet: 312 TFLOP/s bf16 (TF32 156) dense, 80 GB, 2.04 TB/s, NVLink 600 GB/s both "
                     "ways; one 200 Gbit/s adapter a GPU; DGX A100: 6.5 kW for 8; the price is an assumption"),
    },
    "cpu": {
        "cpu": Chip("cpu", {"bfloat16": 5e10, "float32": 5e10}, 0.0, 1e10, 5e9, 1e9, 0.05, 5.0,
                    "one core of a server, assumed: 50 GFLOP/s, 10 GB/s; plan.calibrate=true measures this machine"),
    },
}  # fmt: skip

# Chips of a slice by number, in shapes that are offered (cloud.google.com/tpu/docs/v5p, /v5e, /v6e), and the whole pod of v5p.
_FLAT: dict[int, tuple[int, ...]] = {
    1: (1, 1),
    4: (2, 2),
    8: (2, 4),
    16: (4, 4),
    32: (4, 8),
    64: (8, 8),
    128: (8, 16),
    256: (16, 16),
}
_SHAPES: dict[str, dict[int, tuple[int, ...]]] = {
    "v5p": {
        4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4), 64: (4, 4, 4), 128: (4, 4, 8), 256: (4, 8, 8), 512: (8, 8, 8),
        1024: (8, 8, 16), 2048: (8, 16, 16), 4096: (16, 16, 16), 6144: (16, 16, 24), 8960: (16, 20, 28),
    },
    "v5e": _FLAT, "v6e": _FLAT,
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """Attributes:

    shape: chips along the axes of the torus; nodes and devices of one; the devices.
    node: devices that share a host's fast links; 0 for all of them.
    per_host: devices of one host, which writes their part of a checkpoint.
    """

    kind: str
    chip: Chip
    shape: tuple[int, ...]
    node: int = 0
    per_host: int = 1
    text: str = field(default="", compare=False)

    @property
    def num_devices(self) -> int:
        return math.prod(self.shape)

    @property
    def words(self) -> str:
        return f"{self.num_devices:,} × {self.chip.name} ({' × '.join(map(str, self.shape))})"

    def with_devices(self, count: int) -> Target:
        """The same chips, ``count`` of them."""
        if self.kind == "tpu":
            return parse_target(f"tpu:{self.chip.name}:{count}")
        if self.kind == "gpu":
            if count > self.node and count % self.node:
                raise UserError(f"{count} devices are no whole nodes of {self.node}")
            return parse_target(f"gpu:{self.chip.name}:{-(-count // self.node)}x{min(self.node, count)}")
        return parse_target(f"cpu:{count}")


def parse_target(text: str) -> Target:
    """``tpu:v5p:16x20x28``, ``tpu:v5p:512``, ``gpu:h100:140x8`` or ``cpu:512``.

    Raises:
        UserError: for anything else, with the chips that are known.
    """
    known = ", ".join(f"{k}:{c}" for k in ("tpu", "gpu") for c in CHIPS[k])
    forms = "tpu:v5p:16x20x28, gpu:h100:140x8 or cpu:512"
    parts = text.split(":")
    if parts[0] not in CHIPS or len(parts) != (2 if parts[0] == "cpu" else 3):
        raise UserError(f"plan.target={text!r} is not of the form {forms}; chips: {known}, cpu")
    kind, name = parts[0], parts[1] if parts[0] != "cpu" else "cpu"
    if name not in CHIPS[kind]:
        raise UserError(f"plan.target={text!r}: {kind}:{name} is not in the table of chips: {known}, cpu")
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", parts[-1]):
        raise UserError(f"plan.target={text!r}: {parts[-1]!r} is not a number of devices; write {forms}")
    shape = tuple(map(int, parts[-1].split("x")))
    chip = CHIPS[kind][name]
    if kind == "cpu":
        if len(shape) > 1:
            raise UserError(f"plan.target={text!r}: give one number of CPU devices, cpu:{math.prod(shape)}")
        return Target(kind, chip, shape, text=text)
    if kind == "gpu":
        if len(shape) == 1:
            if shape[0] > 8 and shape[0] % 8:
                raise UserError(
                    f"plan.target={text!r}: {shape[0]} GPUs are no whole nodes of 8; write nodes x GPUs of a node"
                )
            shape = (-(-shape[0] // 8), min(8, shape[0]))
        if len(shape) != 2:
            raise UserError(f"plan.target={text!r}: give nodes x GPUs of a node, such as gpu:{name}:140x8")
        return Target(kind, chip, shape, node=shape[1], per_host=shape[1], text=text)
    if len(shape) == 1:
        slices = _SHAPES[name]
        if shape[0] not in slices:
            raise UserError(
                f"plan.target={text!r}: no slice of {shape[0]} chips; there are {', '.join(map(str, slices))}, "
                f"or give its shape, such as {'4x4x12' if name == 'v5p' else '4x8'}"
            )
        shape = slices[shape[0]]
    return Target(kind, chip, shape, per_host=4, text=text)


def priced(chip: Chip, config: PlanConfig) -> tuple[float, float, float]:
    """($ an hour, watts, bytes of memory) of a device: the settings', else the table's."""
    memory = config.memory_gb * 1e9 if config.memory_gb is not None else chip.memory
    price = chip.price if config.price is None else config.price
    return price, chip.watts if config.watts is None else config.watts, memory
