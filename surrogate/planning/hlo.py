"""Compiled programs as text (HLO), read back: computations, their instructions, and how often each runs.

Only the text is the same on every platform: ``cost_analysis`` counts the body of a loop once, whatever its trips.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
import functools
import math
import re

_BITS = {
    "pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64,
    "u64": 64, "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128, "token": 0, "opaque": 0,
    "f4e2m1fn": 4, "f8e8m0fnu": 8, "f8e5m2": 8, "f8e4m3": 8, "f8e4m3fn": 8, "f8e4m3b11fnuz": 8, "f8e5m2fnuz": 8,
    "f8e4m3fnuz": 8, "f8e3m4": 8,
}  # fmt: skip
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_HEAD = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(r"\b(calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclass(frozen=True)
class Instruction:
    """One line: ``name = shape opcode(operands), attributes``; ``text`` is what the parentheses hold, for constants."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    text: str
    root: bool = False

    @functools.cached_property
    def bytes(self) -> int:
        return shape_bytes(self.shape)

    def called(self, *kinds: str) -> list[str]:
        """Names of computations that it calls in these ways."""
        found = [name for kind, name in _CALLED.findall(self.attributes) if kind in kinds]
        if "branches" in kinds and (match := _BRANCHES.search(self.attributes)):
            found += [name.strip().lstrip("%") for name in match[1].split(",")]
        return found


@dataclass
class Computation:
    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        last = list(self.instructions.values())
        return next((i for i in last if i.root), last[-1])


@dataclass(frozen=True)
class Use:
    """An instruction that runs ``times`` times a step; ``fused`` inside of a kernel, without memory of its own."""

    instruction: Instruction
    computation: Computation
    times: int
    fused: bool


class Program:
    """The text of one compiled module.

    Attributes:
        unknown: names of loops whose trips could not be found and were taken as one.
    """

    def __init__(self, text: str) -> None:
        self.computations: dict[str, Computation] = {}
        self.unknown: list[str] = []
        self.entry = ""
        current: Computation | None = None
        for line in text.splitlines():
            if current is None or not line.startswith(" "):
                if match := _COMPUTATION.match(line):
                    current = self.computations.setdefault(match[2], Computation(match[2]))
                    self.entry = match[2] if match[1] else self.entry
                elif line.startswith("}"):
                    current = None
                continue
            if instruction := _parse(line):
                current.instructions[instruction.name] = instruction
        if not self.entry:
            raise ValueError("this text has no ENTRY computation")

    def uses(self) -> Iterator[Use]:
        """Every instruction that runs, with its number of times; the functions of reductions left out."""
        yield from self._walk(self.computations[self.entry], 1, fused=False)

    def _walk(self, computation: Computation, times: int, fused: bool) -> Iterator[Use]:
        for instruction in computation.instructions.values():
            yield Use(instruction, computation, times, fused)
            if instruction.opcode == "while":
                trips = self._trips(computation, instruction)
                for name in instruction.called("body"):
                    yield from self._walk(self.computations[name], times * trips, fused)
            elif instruction.opcode in ("fusion", "call", "conditional", "async-start"):
                kinds = ("calls", "to_apply", "true_computation", "false_computation", "branches")
                for name in instruction.called(*kinds):
                    inner = fused or instruction.opcode == "fusion"
                    yield from self._walk(self.computations[name], times, inner)

    # -- loops -----------------------------------------------------------------------------------

    def _trips(self, outside: Computation, loop: Instruction) -> int:
        if match := _KNOWN.search(loop.attributes):
            return int(match[1])
        found = self._counted(outside, loop)
        if found is None and loop.name not in self.unknown:
            self.unknown.append(loop.name)
        return 1 if found is None else found

    def _counted(self, outside: Computation, loop: Instruction) -> int | None:
        """Trips of ``for (i = start; i < bound; i += step)`` with constants, which is what ``lax.scan`` becomes."""
        condition = self.computations[loop.called("condition")[0]]
        body = self.computations[loop.called("body")[0]]
        compare = self._find(condition, "compare")
        if compare is None or "direction=LT" not in compare[1].attributes:
            return None
        where, found = compare
        bound = next((v for o in found.operands if (v := self._constant(condition, where, o)) is not None), None)
        place = next((p for o in found.operands if (p := self._element(condition, where, o)) is not None), None)
        if bound is None or place is None:
            return None
        start, step = self._start(outside, loop, place), self._step(body, place)
        return None if start is None or not step else max(0, math.ceil((bound - start) / step))

    def _find(self, computation: Computation, opcode: str) -> tuple[Computation, Instruction] | None:
        for i in computation.instructions.values():
            if i.opcode == opcode:
                return computation, i
            for name in i.called("calls") if i.opcode == "fusion" else ():
                if inner := self._find(self.computations[name], opcode):
                    return inner
        return None

    def _outer(self, outer: Computation, inner: Computation, name: str) -> Instruction | None:
        """The instruction behind ``name`` of a computation that is ``outer`` or fused into it, copies seen through."""
        i = inner.instructions.get(name)
        while i is not None and i.opcode in ("copy", "bitcast", "convert"):
            i = inner.instructions.get(i.operands[0])
        if i is None or inner is outer or i.opcode != "parameter":
            return i
        fusion = next((f for f in outer.instructions.values() if inner.name in f.called("calls")), None)
        return None if fusion is None else self._outer(outer, outer, fusion.operands[int(i.text)])

    def _constant(self, outer: Computation, inner: Computation, name: str) -> int | None:
        i = self._outer(outer, inner, name)
        return int(i.text) if i is not None and i.opcode == "constant" and re.fullmatch(r"-?\d+", i.text) else None

    def _element(self, outer: Computation, inner: Computation, name: str) -> int | None:
        i = self._outer(outer, inner, name)
        if i is None or i.opcode != "get-tuple-element":
            return None
        match = re.search(r"index=(\d+)", i.attributes)
        return int(match[1]) if match else None

    def _start(self, outside: Computation, loop: Instruction, place: int) -> int | None:
        given = outside.instructions.get(loop.operands[0])
        while given is not None and given.opcode in ("copy", "opt-barrier"):
            given = outside.instructions.get(given.operands[0])
        if given is None or given.opcode != "tuple":
            return 0
        return self._constant(outside, outside, given.operands[place]) or 0

    def _step(self, body: Computation, place: int) -> int:
        root = body.root
        if root.opcode != "tuple":
            return 1
        found = self._outer(body, body, root.operands[place])
        add = (body, found) if found is not None and found.opcode == "add" else None
        if found is not None and found.opcode == "fusion":
            add = self._find(self.computations[found.called("calls")[0]], "add")
        if add is None:
            return 1
        values = [self._constant(body, add[0], o) for o in add[1].operands]
        return next((v for v in values if v is not None), 1)


def shape_bytes(shape: str) -> int:
    """Bytes of ``f32[2,3]{1,0}`` or of all arrays of a tuple, without padding."""
    total = 0
    for kind, dims in _ARRAY.findall(shape):
        if kind not in _BITS:
            continue
        count = math.prod(int(d.lstrip("<=")) for d in dims.split(",") if d)
        total += -(-count * _BITS[kind] // 8)
    return total


def _parse(line: str) -> Instruction | None:
    head = _HEAD.match(line)
    if head is None:
        return None
    rest = line[head.end() :]
    if rest.startswith("("):
        end = _closing(rest, 0) + 1
        shape, rest = rest[:end], rest[end:].lstrip()
    else:
        shape, _, rest = rest.partition(" ")
    opcode, bracket, _ = rest.partition("(")
    if not bracket:
        return None
    end = _closing(rest, len(opcode))
    text = rest[len(opcode) + 1 : end]
    operands = tuple(re.findall(r"%([\w.\-]+)", text))
    return Instruction(head[2], shape, opcode, operands, rest[end + 1 :], text.strip(), bool(head[1]))


def _closing(text: str, start: int) -> int:
    depth = 0
    for i in range(start, len(text)):
        if text[i] == "(":
            depth += 1
        elif text[i] == ")":
            depth -= 1
            if not depth:
                return i
    return len(text)
