"""What a step sends between devices: bytes of every kind of collective operation along every mesh axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import itertools
import re

import numpy as np

from surrogate.planning.hlo import Instruction, Program, Use

KINDS = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:,\s*device_ids=\(([^)]*(?:\([\d,]+\))?)\))?\s*\{([^}]*)\}")
_LISTED = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?\s*)*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?\s*)*)\}")


@dataclass(frozen=True)
class Traffic:
    """One kind of operation along one combination of mesh axes, a step and device.

    Attributes:
        axes: mesh axes that the groups span, such as ``fsdp`` or ``data+fsdp``.
        group: devices in a group.
        count: operations a step.
        payload: bytes of the whole operand (of all-gather: of the result) that a device takes part with.
        wire: bytes that a device sends in a ring, which is the least that the operation needs.
        within: of a group's devices, those on one node; ``group`` where none of it crosses the network.
    """

    kind: str
    axes: str
    group: int
    count: int
    payload: float
    wire: float
    within: int


def collectives(program: Program, mesh: Mapping[str, int], node: int = 0) -> list[Traffic]:
    """All operations of ``program``, which runs on the devices of ``mesh`` (axis → size, in the order of the devices).

    Args:
        node: consecutive devices that make a node; 0 for all.
    """
    found: dict[tuple[str, str, int, int], list[float]] = {}
    groups: dict[str, tuple[str, int, int]] = {}
    node = node or int(np.prod(tuple(mesh.values())))
    for use in program.uses():
        kind = use.instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        key = _group_text(use.instruction)
        if key not in groups:
            groups[key] = spanned(use.instruction, mesh, node)
        axes, size, within = groups[key]
        if size == 1:
            continue
        kind = "reduce-scatter" if kind == "all-reduce" and _scatters(use) else kind
        operand = _operand_bytes(use)
        payload, wire = costs(kind, operand, size)
        entry = found.setdefault((kind, axes, size, within), [0, 0.0, 0.0])
        entry[0] += use.times
        entry[1] += use.times * payload
        entry[2] += use.times * wire
    rows = [Traffic(k, a, n, int(c), p, w, m) for (k, a, n, m), (c, p, w) in found.items()]
    return sorted(rows, key=lambda r: -r.wire)


def costs(kind: str, operand: float, size: int) -> tuple[float, float]:
    """(payload, wire) of an operation of ``operand`` bytes a device in a group of ``size`` (Chan et al. 2007, §4)."""
    share = (size - 1) / size
    if kind == "all-gather":
        return operand * size, operand * (size - 1)
    if kind == "all-reduce":
        return operand, 2 * operand * share
    if kind in ("reduce-scatter", "all-to-all", "ragged-all-to-all"):
        return operand, operand * share
    return operand, operand


def spanned(instruction: Instruction, mesh: Mapping[str, int], node: int) -> tuple[str, int, int]:
    """The mesh axes that the groups of an operation span, the size of a group, and its largest part on one node."""
    shape = tuple(mesh.values())
    groups = device_groups(instruction, int(np.prod(shape)))
    places = np.stack(np.unravel_index(groups, shape), axis=-1)  # (groups, members, axes)
    varies = (places != places[:, :1]).any((0, 1))
    names = [name for name, moves in zip(mesh, varies, strict=True) if moves]
    nodes = groups // node
    # All groups wait for the one that the nodes' boundaries cut into the smallest parts.
    return "+".join(names) or "none", groups.shape[1], min(_share(group) for group in nodes)


def _share(nodes: np.ndarray) -> int:
    return int(np.unique(nodes, return_counts=True)[1].max())


def device_groups(instruction: Instruction, devices: int) -> np.ndarray:
    """(groups, members): the devices that exchange with each other; of a permutation the pairs that differ."""
    text = instruction.attributes
    if match := _PAIRS.search(text):
        pairs = np.array(re.findall(r"\{(\d+),(\d+)\}", match[1]), int).reshape(-1, 2)
        moved = pairs[pairs[:, 0] != pairs[:, 1]]
        return moved if len(moved) else np.zeros((1, 1), int)
    if match := _IOTA.search(text):
        to, of = (tuple(map(int, g.split(","))) for g in (match[1], match[2]))
        order = np.arange(int(np.prod(of))).reshape(of)
        if match[3]:
            order = order.transpose(tuple(map(int, match[3].split(","))))
        return order.reshape(to)
    if match := _NAMED.search(text):
        return _named_groups(match[1], match[2] or "", match[3])
    if match := _LISTED.search(text):
        listed = [list(map(int, g.split(","))) for g in re.findall(r"\{([\d,]+)\}", match[1])]
        return np.array(listed) if listed else np.arange(devices)[None]
    raise ValueError(f"no groups of devices are given for {instruction.name}: {text[:200]}")


def _named_groups(mesh: str, order: str, axes: str) -> np.ndarray:
    """Groups along ``{'a', 'b':(2)4}`` of ``mesh['a'=2,'b'=8]``: all of a, and of b the factor of 4 below the leading 2."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    parts = {name: [size] for name, size in sizes.items()}
    chosen: dict[str, list[tuple[int, int]]] = {}
    wanted = [(n, int(b or 1), int(s or sizes[n])) for n, b, s in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes)]
    for name, before, size in wanted:
        chosen.setdefault(name, []).append((before, before * size))
    for name, spans in chosen.items():
        cuts = sorted({1, sizes[name], *(c for span in spans for c in span)})
        parts[name] = [b // a for a, b in itertools.pairwise(cuts)] or [1]
    starts: list[tuple[str, int, int]] = []
    shape: list[int] = []
    for name, factors in parts.items():
        before = 1
        for factor in factors:
            starts.append((name, before, before * factor))
            shape.append(factor)
            before *= factor
    inside = [
        i
        for n, low, size in wanted
        for i, (name, start, end) in enumerate(starts)
        if name == n and low <= start and end <= low * size
    ]
    outside = [i for i in range(len(shape)) if i not in inside]
    ids = _device_order(order, int(np.prod(shape))).reshape(shape)
    return ids.transpose(outside + inside).reshape(-1, int(np.prod([shape[i] for i in inside])))


def _device_order(text: str, count: int) -> np.ndarray:
    """Devices in the order of a mesh: listed, ``[8]``, or ``[2,4]T(1,0)``: counted over these sizes, then transposed."""
    if match := re.fullmatch(r"(?:\[[\d,]+\]<=)?\[([\d,]+)\](?:T\(([\d,]+)\))?", text.strip()):
        order = np.arange(count).reshape(tuple(map(int, match[1].split(","))))
        return order.transpose(tuple(map(int, match[2].split(",")))).ravel() if match[2] else order.ravel()
    listed = [int(n) for n in re.findall(r"\d+", text)]
    if text and len(listed) != count:
        raise ValueError(f"the order of {count} devices is not understood: {text[:200]}")
    return np.array(listed) if listed else np.arange(count)


def _group_text(instruction: Instruction) -> str:
    text = instruction.attributes
    match = _PAIRS.search(text) or _IOTA.search(text) or _NAMED.search(text) or _LISTED.search(text)
    return match[0] if match else instruction.name


def _scatters(use: Use) -> bool:
    """Whether an all-reduce is the first half of a fusion that keeps one part of the sum alone."""
    return use.fused and "all-reduce-scatter" in use.computation.name


def _operand_bytes(use: Use) -> int:
    inside = use.computation.instructions
    return sum(inside[name].bytes for name in use.instruction.operands if name in inside)
