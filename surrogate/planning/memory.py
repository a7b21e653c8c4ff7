"""Bytes that a step reads from and writes to a device's memory, from the text of its program."""

from __future__ import annotations

from surrogate.planning.hlo import Computation, Instruction, Program

# Names for what lies there already, and what runs elsewhere.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "after-all",
    "opt-barrier", "partition-id", "replica-id", "async-start", "async-update", "async-done", "copy-done", "add-dependency",
}  # fmt: skip


def traffic(program: Program) -> float:
    """Bytes read and written a step: operands and results of every kernel, each once, as often as it runs.

    A kernel that takes a slice of a large array reads the slice, and one that overwrites a slice in place writes
    the slice. What stays in a cache between two kernels is counted nevertheless: the estimate is an upper bound.
    """
    total = 0.0
    for use in program.uses():
        if use.fused or use.instruction.opcode in _FREE or use.instruction.opcode.endswith("-done"):
            continue
        total += use.times * _touched(program, use.computation, use.instruction)
    return total


def _touched(program: Program, where: Computation, i: Instruction) -> float:
    operands = [where.instructions[name] for name in i.operands if name in where.instructions]
    if i.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * i.bytes
    if i.opcode == "dynamic-update-slice":
        return 2 * operands[1].bytes if len(operands) > 1 else i.bytes
    if i.opcode.endswith("-start") and i.opcode != "all-reduce-start":
        return i.bytes  # of both: the operand is in the result's tuple; of a started all-reduce it is not
    if i.opcode == "fusion" and (names := i.called("calls")):
        return _fused(program.computations[names[0]], i, operands)
    return i.bytes + sum(o.bytes for o in operands)


def _fused(inside: Computation, i: Instruction, operands: list[Instruction]) -> float:
    users: dict[str, list[Instruction]] = {}
    for user in inside.instructions.values():
        for name in user.operands:
            users.setdefault(name, []).append(user)
    total = 0.0
    for p in inside.instructions.values():
        if p.opcode != "parameter":
            continue
        uses = _seen_through(p, users)
        if uses and all(first and u.opcode in ("dynamic-slice", "slice", "gather") for u, first in uses):
            total += sum(u.bytes for u, _ in uses)
        elif uses and all(first and u.opcode == "dynamic-update-slice" and u.bytes == p.bytes for u, first in uses):
            continue  # overwritten in part, in place
        else:
            total += p.bytes
    updates = [u for u in inside.instructions.values() if u.opcode == "dynamic-update-slice" and u.bytes >= i.bytes]
    if updates:
        return total + sum(2 * inside.instructions[u.operands[1]].bytes for u in updates)
    return total + i.bytes


def _seen_through(p: Instruction, users: dict[str, list[Instruction]]) -> list[tuple[Instruction, bool]]:
    """Who uses a value, and whether as the first operand: what is sliced, not where."""
    found: list[tuple[Instruction, bool]] = []
    for user in users.get(p.name, []):
        found += _seen_through(user, users) if user.opcode == "bitcast" else [(user, user.operands[0] == p.name)]
    return found
