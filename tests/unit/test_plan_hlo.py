"""Reading compiled programs: loops, groups of devices and bytes, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from surrogate.planning.collectives import collectives, costs, device_groups, spanned
from surrogate.planning.hlo import Instruction, Program, shape_bytes
from surrogate.planning.memory import traffic

# A loop of 24 trips without a stated count, as a TPU's compiler leaves it: the comparison is fused, the step is 1.
LOOP = """HloModule jit_step, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%compared (p0: s32[], p1: s32[]) -> pred[] {
  %p0 = s32[]{:T(128)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  ROOT %lt = pred[]{:T(512)} compare(%p0, %p1), direction=LT
}

%condition (arg: (s32[], f32[64,32], bf16[24,8,32])) -> pred[] {
  %arg = (s32[]{:T(128)}, f32[64,32]{1,0:T(8,128)}, bf16[24,8,32]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %bound = s32[] constant(24)
  ROOT %less = pred[] fusion(%i, %bound), kind=kLoop, calls=%compared
}

%sliced (q0: bf16[24,8,32], q1: s32[]) -> bf16[1,8,32] {
  %q0 = bf16[24,8,32]{2,1,0} parameter(0)
  %q1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = bf16[1,8,32]{2,1,0} dynamic-slice(%q0, %q1, %zero, %zero), dynamic_slice_sizes={1,8,32}
}

%body (arg.1: (s32[], f32[64,32], bf16[24,8,32])) -> (s32[], f32[64,32], bf16[24,8,32]) {
  %arg.1 = (s32[], f32[64,32]{1,0}, /*index=2*/bf16[24,8,32]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%arg.1), index=0
  %x = f32[64,32]{1,0} get-tuple-element(%arg.1), index=1
  %w = bf16[24,8,32]{2,1,0} get-tuple-element(%arg.1), index=2
  %one = s32[] constant(1)
  %next = s32[] add(%i.1, %one)
  %layer = bf16[1,8,32]{2,1,0} fusion(%w, %i.1), kind=kLoop, calls=%sliced
  %gather = bf16[1,32,32]{2,1,0} all-gather(%layer), channel_id=1, replica_groups=[2,4]<=[8], dimensions={1}, use_global_device_ids=true
  %start = (f32[64,32]{1,0}, f32[64,32]{1,0}) collective-permute-start(%x), channel_id=2, source_target_pairs={{0,4},{4,0},{1,5},{5,1},{2,6},{6,2},{3,7},{7,3}}
  %done = f32[64,32]{1,0} collective-permute-done(%start)
  ROOT %out = (s32[], f32[64,32]{1,0}, bf16[24,8,32]{2,1,0}) tuple(%next, %done, %w)
}

ENTRY %main (x.0: f32[64,32], w.0: bf16[24,8,32]) -> f32[64,32] {
  %x.0 = f32[64,32]{1,0} parameter(0)
  %w.0 = bf16[24,8,32]{2,1,0} parameter(1)
  %begin = s32[] constant(0)
  %init = (s32[], f32[64,32]{1,0}, bf16[24,8,32]{2,1,0}) tuple(%begin, %x.0, %w.0)
  %loop = (s32[], f32[64,32]{1,0}, bf16[24,8,32]{2,1,0}) while(%init), condition=%condition, body=%body
  %y = f32[64,32]{1,0} get-tuple-element(%loop), index=1
  ROOT %total = f32[64,32]{1,0} all-reduce(%y), channel_id=3, replica_groups=[4,2]<=[2,4]T(1,0), use_global_device_ids=true, to_apply=%add
}
"""
MESH = {"data": 2, "fsdp": 4, "lat": 1, "lon": 1}


def test_collectives_are_counted_as_often_as_the_loop_runs_along_their_axes() -> None:
    program = Program(LOOP)
    rows = {(r.kind, r.axes): r for r in collectives(program, MESH)}
    assert program.unknown == []
    gather = rows["all-gather", "fsdp"]
    # 8 × 32 bfloat16 of each of 4 devices, 24 times: 3 parts are received and sent on.
    assert (gather.count, gather.group) == (24, 4)
    assert gather.payload == 24 * 4 * 8 * 32 * 2
    assert gather.wire == 24 * 3 * 8 * 32 * 2
    permute = rows["collective-permute", "data"]
    assert (permute.count, permute.wire) == (24, 24 * 64 * 32 * 4)
    reduce = rows["all-reduce", "data"]
    # A ring sends 2 (n − 1) / n of the operand: all of it for two devices.
    assert (reduce.count, reduce.payload, reduce.wire) == (1, 64 * 32 * 4, 64 * 32 * 4)
    assert len(rows) == 3


def test_the_stated_number_of_trips_wins_and_an_unknown_one_is_named() -> None:
    stated = LOOP.replace("body=%body\n", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}\n')
    assert {r.count for r in collectives(Program(stated), MESH)} == {7, 1}
    odd = Program(LOOP.replace("%bound = s32[] constant(24)", "%bound = s32[] custom-call()"))
    assert {r.count for r in collectives(odd, MESH)} == {1}
    assert odd.unknown == ["loop"]
    later = Program(LOOP.replace("%begin = s32[] constant(0)", "%begin = s32[] constant(4)"))
    assert max(r.count for r in collectives(later, MESH)) == 20
    two = Program(LOOP.replace("%one = s32[] constant(1)", "%one = s32[] constant(2)"))
    assert max(r.count for r in collectives(two, MESH)) == 12


def test_memory_touched_counts_slices_of_what_a_kernel_slices() -> None:
    # A trip: the counter 4 + 4 + 4, the slice 512 read and written with its index 4, the gather 512 in and 2048 out,
    # the permutation 8192 in and out. After the loop 8192 in and out.
    trip = 12 + (512 + 512 + 4) + (512 + 2048) + 2 * 8192
    assert traffic(Program(LOOP)) == 24 * trip + 2 * 8192


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("{}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("mesh['a'=2,'b'=4] {'b'}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("mesh['a'=2,'b'=4] {'a'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("mesh['a'=8] {'a':(2)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("mesh['a'=2,'b'=4], device_ids=([2,2,2]T(1,0,2)) {'a'}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("mesh['a'=2,'b'=2], device_ids=(3,2,1,0) {'b'}", [[3, 2], [1, 0]]),
        ("mesh['a'=2,'b'=4] {'a','b':(1)2}", [[0, 2, 4, 6], [1, 3, 5, 7]]),
    ],
)
def test_groups_of_devices_in_every_notation(groups: str, expected: list[list[int]]) -> None:
    found = device_groups(_gather(f", replica_groups={groups}, dimensions={{0}}"), 8)
    assert found.tolist() == expected


def test_axes_of_groups_and_their_part_on_a_node() -> None:
    mesh = {"data": 2, "fsdp": 2, "lat": 1, "lon": 2}
    both = _gather(", replica_groups={{0,2,4,6},{1,3,5,7}}, dimensions={0}")
    assert spanned(both, mesh, node=8) == ("data+fsdp", 4, 4)
    assert spanned(both, mesh, node=4) == ("data+fsdp", 4, 2)
    # Rows of 5 on nodes of 8: the first row lies on one node, the second is cut after three.
    rows = _gather(", replica_groups=[8,5]<=[40], dimensions={0}")
    assert spanned(rows, {"data": 8, "lon": 5}, node=8) == ("lon", 5, 3)
    line = Instruction("p", "f32[2]", "collective-permute", (), ", source_target_pairs={{0,1},{1,0},{2,3},{3,2}}", "")
    assert spanned(line, mesh, node=2) == ("lon", 2, 2)
    # One pair on another node is enough to wait for the network.
    wide = Instruction("p", "f32[2]", "collective-permute", (), ", source_target_pairs={{0,1},{1,2}}", "")
    assert spanned(wide, {"data": 8}, node=2)[2] == 1


def test_sizes_of_arrays_and_tuples() -> None:
    assert shape_bytes("(f32[2,3]{1,0:T(8,128)(2,1)S(1)}, bf16[4]{0}, pred[], u4[3]{0})") == 24 + 8 + 1 + 2
    assert shape_bytes("f32[]{:T(128)}") == 4


@pytest.mark.parametrize("size", [2, 4, 8])
def test_the_bytes_of_a_ring_are_those_that_a_simulated_ring_sends(size: int) -> None:
    parts = np.ones((size, size))  # device × part
    sent = 0
    for _ in range(size - 1):  # reduce-scatter: every device sends one part a round
        parts = np.roll(parts, 1, axis=0)
        sent += 1
    scatter = sent * 10.0  # parts of 10 bytes
    assert costs("reduce-scatter", 10.0 * size, size)[1] == pytest.approx(scatter)
    assert costs("all-gather", 10.0, size) == (10.0 * size, pytest.approx(scatter))
    assert costs("all-reduce", 10.0 * size, size)[1] == pytest.approx(2 * scatter)


def _gather(attributes: str) -> Instruction:
    return Instruction("g", "f32[8]", "all-gather", (), attributes, "")
