"""The prepared store: what goes in comes out bit for bit, and nothing damaged or half-written passes for data."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
from typing import Any
import warnings

import cftime
import numpy as np
import pytest

from surrogate.core.durations import Duration
from surrogate.core.spec import Grid, Spec, Variable
from surrogate.core.types import UserError
from surrogate.data import store_format
from surrogate.data.source import DYNAMIC_ROLES, MemorySource, Timeline
from surrogate.data.store import StoreSource, verify_store, write_store

STATISTICS = {
    "center.prognostic": np.array([1.5, np.nan], np.float32),
    "center.forcing": np.zeros(0, np.float32),
    "mask": np.eye(3, dtype=np.uint8),
    "count": np.int64(7),
    "split": {"train": ["2001", "2002"]},
}


def timeline(length: int, name: str = "run", time: np.ndarray | None = None) -> Timeline:
    if time is None:
        time = np.datetime64("2001-01-01", "ns") + np.arange(length) * np.timedelta64(6, "h")
    number = np.arange(length)
    return Timeline(name, time, number // 5, number % 2, (f"{name}/a.nc", f"{name}/b.nc"))


def make_source(
    lengths: tuple[int, ...] = (11, 3),
    shape: tuple[int, int] = (3, 5),
    channels: tuple[int, ...] = (2, 1, 1, 2),
    **more: Any,
) -> MemorySource:
    """Random fields with NaN, −0, infinities and samples that are all zero or all NaN."""
    rng = np.random.default_rng(3)
    roles = ("prognostic", "diagnostic", "forcing", "static")
    variables = [
        Variable(f"{r[:3]}{i}", r, "K", level=i * 0.25) for r, n in zip(roles, channels, strict=True) for i in range(n)
    ]  # type: ignore[arg-type]
    grid = Grid(tuple(np.linspace(-60, 60, shape[0])), tuple(np.arange(shape[1]) * 360.0 / shape[1]))
    fields = []
    for length in lengths:
        arrays = {
            r: rng.normal(size=(length, *shape, n)).astype(np.float32)
            for r, n in zip(roles, channels[:3], strict=False)
        }
        for values in arrays.values():
            values[rng.random(values.shape) < 0.1] = np.nan
            values[1::7] = 0
            values[2::7] = np.nan
            values[3::7] = -0.0
            values[4::7, 0] = np.inf
        fields.append(arrays)
    static = rng.normal(size=(*shape, channels[3])).astype(np.float32)
    timelines = more.pop("timelines", tuple(timeline(n, f"run{i}") for i, n in enumerate(lengths)))
    spec = Spec(tuple(variables), grid, Duration.parse("12h"), attrs={"title": "é"})
    files = [{"path": "a.nc", "size": 12, "sha256": "ab"}]
    return MemorySource(spec, timelines, fields, static, stride=2, files=files)


def bits(fields: dict[str, np.ndarray]) -> dict[str, tuple[tuple[int, ...], bytes]]:
    return {role: (values.shape, values.astype("<f4").tobytes()) for role, values in fields.items()}


def assert_same(store: StoreSource, source: MemorySource) -> None:
    assert store.spec == source.spec
    assert store.spec.attrs == source.spec.attrs
    assert store.stride == source.stride
    assert store.provenance() == source.provenance()
    np.testing.assert_array_equal(store.static, source.static)
    assert len(store.timelines) == len(source.timelines)
    for number, (one, other) in enumerate(zip(store.timelines, source.timelines, strict=True)):
        assert (one.name, one.files) == (other.name, other.files)
        np.testing.assert_array_equal(one.time, other.time)
        assert one.time.dtype == other.time.dtype
        np.testing.assert_array_equal(one.segment, other.segment)
        np.testing.assert_array_equal(one.source, other.source)
        everything = np.arange(len(other))
        assert bits(store.read(number, everything)) == bits(source.read(number, everything))


def tree(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def shards(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("trajectory_*/*/c/*/0/0/0"))


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, MemorySource]:
    source = make_source()
    return write_store(tmp_path / "a.zarr", source, statistics=STATISTICS, shard_bytes=1200), source


# --- round trip ------------------------------------------------------------------------------------------------------


def test_round_trip_is_exact(written: tuple[Path, MemorySource]) -> None:
    path, source = written
    store = StoreSource(path)
    assert_same(store, source)
    assert len(shards(path)) == 3 * (3 + 1)  # 5 samples of 240 bytes a shard, three roles
    assert store.statistics is not None
    assert store.statistics.keys() == STATISTICS.keys()
    for name, value in STATISTICS.items():
        np.testing.assert_array_equal(store.statistics[name], value)
    assert store.statistics["mask"].dtype == np.uint8
    assert verify_store(path) == 3 * (11 + 3)


@pytest.mark.parametrize(
    ("lengths", "shape", "channels", "shard_bytes"),
    [
        ((1,), (1, 1), (1, 0, 0, 0), 1),
        ((2, 0, 1), (1, 7), (0, 1, 3, 0), 10),
        ((13,), (4, 1), (1, 0, 2, 1), 10**9),
        ((64,), (2, 3), (3, 0, 0, 0), 24 * 3 * 7),
        ((0,), (2, 2), (1, 1, 1, 1), 100),
    ],
)
def test_tiny_and_odd_sizes(tmp_path: Path, lengths: tuple, shape: tuple, channels: tuple, shard_bytes: int) -> None:
    empty = tuple(timeline(n, f"run{i}", None if n else np.zeros(0, np.int64)) for i, n in enumerate(lengths))
    source = make_source(lengths, shape, channels, timelines=empty)
    store = StoreSource(write_store(tmp_path / "s", source, statistics=None, shard_bytes=shard_bytes))
    assert_same(store, source)
    assert store.statistics is None
    verify_store(tmp_path / "s")


def test_zarr_python_reads_the_same(written: tuple[Path, MemorySource]) -> None:
    """An independent implementation agrees with what tensorstore wrote, checksums included."""
    import zarr

    path, source = written
    group = zarr.open_group(path, mode="r", zarr_format=3)
    for number in range(2):
        fields = source.read(number, np.arange(len(source.timelines[number])))
        for role in DYNAMIC_ROLES:
            array = group[f"trajectory_{number:05d}/{role}"]
            assert array.metadata.dimension_names == ("time", "latitude", "longitude", "channel")
            assert np.asarray(array[:]).tobytes() == fields[role].tobytes()
    time = group["trajectory_00000/time"]
    dates = cftime.num2date(time[:], time.attrs["units"], time.attrs["calendar"])
    assert str(dates[3]) == "2001-01-01 18:00:00"
    assert group["trajectory_00001"].attrs["title"] == "run1"


CALENDARS = ["standard", "noleap", "all_leap", "360_day", "julian", "proleptic_gregorian"]


@pytest.mark.parametrize("calendar", CALENDARS)
@pytest.mark.parametrize("step", ["1 day", "1 microsecond"])
def test_cftime_calendars_round_trip(tmp_path: Path, calendar: str, step: str) -> None:
    units = "days" if step == "1 day" else "microseconds"
    numbers = np.arange(70)
    for year in (-40, 1582, 2000):
        origin = f"{units} since {year:05d}-02-{26 if calendar != '360_day' else 29} 12:00:00"
        with warnings.catch_warnings(action="ignore"):  # of years before 1
            time = cftime.num2date(numbers, origin, calendar, only_use_cftime_datetimes=True)
        encoded, attributes = store_format.encode_time(np.array(time, dtype=object))
        decoded = store_format.decode_time(encoded, json.loads(json.dumps(attributes)))
        assert encoded.dtype == np.int64
        assert decoded.tolist() == time.tolist()
        assert [repr(t) for t in decoded] == [repr(t) for t in time]
    source = make_source((70,), (1, 2), timelines=(timeline(70, time=np.array(time, dtype=object)),))
    assert_same(StoreSource(write_store(tmp_path / "s", source, statistics=None)), source)


@pytest.mark.parametrize("text", ["2001-01-01", "2001-01-01T00:00:00.000000001", "1677-10-01T01"])
@pytest.mark.parametrize("unit", ["ns", "us", "s", "D"])
def test_datetimes_and_sample_numbers_round_trip(text: str, unit: str) -> None:
    time = np.datetime64(text).astype(f"datetime64[{unit}]") + np.arange(3)
    numbers, attributes = store_format.encode_time(time)
    decoded = store_format.decode_time(numbers, attributes)
    np.testing.assert_array_equal(decoded, time)
    assert decoded.dtype == time.dtype
    index = np.arange(4)
    np.testing.assert_array_equal(store_format.decode_time(*store_format.encode_time(index)), index)


def test_random_parallel_reads(tmp_path: Path) -> None:
    source = make_source((97, 40), (4, 6))
    store = StoreSource(write_store(tmp_path / "s", source, statistics=None, shard_bytes=4000))

    def one(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        trajectory = int(rng.integers(2))
        indices = rng.integers(0, len(source.timelines[trajectory]), size=rng.integers(0, 20))  # repeats, any order
        return bits(store.read(trajectory, indices)) == bits(source.read(trajectory, indices))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(100)))


@pytest.mark.parametrize("indices", [[-1], [11], [0, 40]])
def test_times_outside_are_refused(written: tuple[Path, MemorySource], indices: list[int]) -> None:
    with pytest.raises(IndexError, match="outside 0 to 10"):
        StoreSource(written[0]).read(0, np.array(indices))


# --- damage ----------------------------------------------------------------------------------------------------------


def test_a_flipped_byte_anywhere_in_a_shard_is_noticed(written: tuple[Path, MemorySource]) -> None:
    """In chunks, in their checksums, in the index at the end: reading names the file, and so does verifying."""
    path, source = written
    for number, shard in enumerate(shards(path)):
        trajectory = int(shard.relative_to(path).parts[0].removeprefix("trajectory_"))
        everything = np.arange(len(source.timelines[trajectory]))
        good = shard.read_bytes()
        places = {*range(0, len(good), 13), *range(len(good) - 84, len(good), 3)} if number == 0 else {len(good) // 2}
        for place in sorted(places):
            shard.write_bytes(good[:place] + bytes([good[place] ^ 0x40]) + good[place + 1 :])
            with pytest.raises(UserError) as caught:
                StoreSource(path).read(trajectory, everything)
            assert str(shard) in str(caught.value)
        with pytest.raises(UserError, match="SHA-256") as caught:
            verify_store(path)
        assert str(shard) in str(caught.value)
        shard.write_bytes(good)
    assert verify_store(path) == 42


def test_every_other_file_is_verified_at_open(written: tuple[Path, MemorySource]) -> None:
    path, _ = written
    others = [p for p in path.rglob("*") if p.is_file() and p not in shards(path)]
    assert {"manifest.json", "zarr.json"} < {p.name for p in others}
    for file in others:
        good = file.read_bytes()
        file.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
        with pytest.raises(UserError, match="damaged") as caught:
            StoreSource(path)
        assert str(file) in str(caught.value)
        file.write_bytes(good)
    StoreSource(path)


def test_a_missing_or_short_file_is_noticed_at_open(written: tuple[Path, MemorySource]) -> None:
    path, _ = written
    for file in [p for p in path.rglob("*") if p.is_file() and p.name != "manifest.json"]:
        good = file.read_bytes()
        file.unlink()
        with pytest.raises(UserError, match="is missing") as caught:
            StoreSource(path)
        assert str(file) in str(caught.value)
        file.write_bytes(good[:-1])
        with pytest.raises(UserError, match=f"has {len(good) - 1} bytes instead of {len(good)}"):
            StoreSource(path)
        file.write_bytes(good)


def test_a_shard_that_vanishes_after_opening_is_not_read_as_fill(written: tuple[Path, MemorySource]) -> None:
    path, _ = written
    store = StoreSource(path)
    victim = path / "trajectory_00000/forcing/c/1/0/0/0"
    victim.unlink()
    store.read(0, np.arange(5))  # another shard
    with pytest.raises(UserError) as caught:
        store.read(0, np.array([0, 7]))
    assert str(victim) in str(caught.value)


def test_a_shard_exchanged_for_another_is_found_by_verifying(tmp_path: Path) -> None:
    """Four bytes do not compress: the shards have one size and valid checksums, and only their hashes differ."""
    path = write_store(tmp_path, make_source((3,), (1, 1), (1, 0, 0, 0)), statistics=None, shard_bytes=4)
    one, other, _ = shards(path)
    content = one.read_bytes(), other.read_bytes()
    assert len(content[0]) == len(content[1])
    one.write_bytes(content[1])
    other.write_bytes(content[0])
    with pytest.raises(UserError, match=r"2 problem\(s\)") as caught:
        verify_store(path)
    assert str(one) in str(caught.value)
    assert str(other) in str(caught.value)


def rewrite_manifest(path: Path, change: Any) -> None:
    """As somebody would who means to deceive: with the right digest."""
    manifest = store_format.unseal(path)
    change(manifest)
    (path / "manifest.json").write_bytes(store_format.seal(manifest))


def test_codecs_that_are_not_on_the_list_are_refused(written: tuple[Path, MemorySource]) -> None:
    path, _ = written
    file = path / "trajectory_00000/prognostic/zarr.json"
    metadata = json.loads(file.read_text())
    metadata["codecs"][0]["configuration"]["codecs"].insert(1, {"name": "numcodecs.pickle"})
    file.write_text(json.dumps(metadata))
    record = list(store_format.file_record(file))
    rewrite_manifest(path, lambda m: m["files"].__setitem__("trajectory_00000/prognostic/zarr.json", record))
    with pytest.raises(UserError, match=r"prognostic/zarr.json uses the codec 'numcodecs.pickle'"):
        StoreSource(path)


def test_a_manifest_cannot_leave_the_store_or_hide_files(written: tuple[Path, MemorySource]) -> None:
    path, _ = written
    good = (path / "manifest.json").read_bytes()
    for name in ("../secret", "/etc/passwd"):
        rewrite_manifest(path, lambda m, name=name: m["files"].__setitem__(name, [1, "x"]))
        with pytest.raises(UserError, match="outside the store"):
            StoreSource(path)
        (path / "manifest.json").write_bytes(good)
    for name in ("trajectory_00001/diagnostic/zarr.json", "trajectory_00000/forcing/c/2/0/0/0"):
        rewrite_manifest(path, lambda m, name=name: m["files"].pop(name))
        with pytest.raises(UserError, match=f"does not list {name}"):
            StoreSource(path)
        (path / "manifest.json").write_bytes(good)
    rewrite_manifest(path, lambda m: m.__setitem__("version", 99))
    with pytest.raises(UserError, match="store version 99"):
        StoreSource(path)


def test_what_is_not_a_store_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing does not exist"):
        StoreSource(tmp_path / "nothing")
    with pytest.raises(UserError, match="is not a prepared store"):
        StoreSource(tmp_path)


# --- interruptions ---------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


class FailingSource(MemorySource):
    """Fails at the ``allowed``-th read."""

    allowed = 10**9

    def read(self, trajectory: int, indices: np.ndarray) -> dict[str, np.ndarray]:
        if self.allowed == 0:
            raise Interrupted
        self.allowed -= 1
        return super().read(trajectory, indices)


def failing(source: MemorySource, allowed: int) -> FailingSource:
    failing = FailingSource.__new__(FailingSource)
    failing.__dict__.update(source.__dict__, allowed=allowed)
    return failing


@pytest.mark.parametrize("allowed", [0, 1, 2, 3])
def test_an_interrupted_store_is_finished_with_the_same_bytes(written: tuple, tmp_path: Path, allowed: int) -> None:
    whole, source = written
    path = tmp_path / "b.zarr"
    with pytest.raises(Interrupted):
        write_store(path, failing(source, allowed), statistics=STATISTICS, shard_bytes=1200)
    with pytest.raises(UserError, match="unfinished"):
        StoreSource(path)
    finished = [p for p in shards(path) if str(p.relative_to(path)) in (path / ".done.jsonl").read_text()]
    assert len(finished) >= 3 * (allowed - 1)
    before = {p: p.stat().st_mtime_ns for p in finished}
    calls: list[tuple[int, int]] = []
    write_store(path, source, statistics=STATISTICS, shard_bytes=1200, progress=lambda *c: calls.append(c))
    assert {p: p.stat().st_mtime_ns for p in finished} == before  # not written again
    assert calls[0] == (0, 14)
    assert calls[-1] == (14, 14)
    assert sorted(calls) == calls
    assert tree(path) == tree(whole)


def test_a_shard_damaged_between_runs_is_written_again(written: tuple[Path, MemorySource], tmp_path: Path) -> None:
    whole, source = written
    path = tmp_path / "b.zarr"
    with pytest.raises(Interrupted):
        write_store(path, failing(source, 3), statistics=STATISTICS, shard_bytes=1200)
    first, second = shards(path)[0], path / "trajectory_00000/forcing/c/0/0/0/0"
    first.write_bytes(first.read_bytes()[:-20])  # half a shard
    second.unlink()
    (path / "trajectory_00000/forcing/c/0/0/0/0.__lock").write_bytes(b"of a killed process")
    log = path / ".done.jsonl"
    log.write_bytes(log.read_bytes()[:-7])  # a line cut off
    write_store(path, source, statistics=STATISTICS, shard_bytes=1200)
    assert tree(path) == tree(whole)


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from test_store import *
source = make_source((400,), (8, 16))
read = source.read
source.read = lambda *a: (time.sleep(0.02), read(*a))[1]
write_store({path!r}, source, statistics=STATISTICS, shard_bytes=20000, progress=lambda d, t: print(d, flush=True))
"""


def test_a_killed_process_leaves_a_store_that_can_be_finished(tmp_path: Path) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), path=str(tmp_path / "killed"))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert process.stdout
    for line in process.stdout:
        if int(line) > 100:
            break
    with pytest.raises(UserError, match="being written by another process"):
        write_store(tmp_path / "killed", make_source((400,), (8, 16)), statistics=STATISTICS, shard_bytes=20000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "killed/manifest.json").exists()
    source = make_source((400,), (8, 16))
    for name in ("killed", "whole"):
        write_store(tmp_path / name, source, statistics=STATISTICS, shard_bytes=20000)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert_same(StoreSource(tmp_path / "killed"), source)


def test_other_content_is_never_mixed_in(written: tuple[Path, MemorySource], tmp_path: Path) -> None:
    path, source = written
    before = tree(path)
    write_store(path, source, statistics=STATISTICS, shard_bytes=1200)  # the same: nothing to do
    other = make_source(shape=(3, 6))
    sly = make_source()  # the same description, other numbers
    sly._fields[0]["prognostic"][5] += 1
    for source_, statistics in ((other, STATISTICS), (source, None), (sly, STATISTICS)):
        with pytest.raises(UserError, match="already holds a store of other content") as caught:
            write_store(path, source_, statistics=statistics, shard_bytes=1200)
        assert str(path) in str(caught.value)
    assert tree(path) == before
    part = tmp_path / "part"
    with pytest.raises(Interrupted):
        write_store(part, failing(source, 2), statistics=None, shard_bytes=1200)
    with pytest.raises(UserError, match="unfinished store of other content"):
        write_store(part, other, statistics=None, shard_bytes=1200)
    sly._fields[0]["prognostic"][0] += 1
    with pytest.raises(UserError, match="unfinished store of other content"):
        write_store(part, sly, statistics=None, shard_bytes=1200)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and not a store"):
        write_store(tmp_path / "full", source, statistics=None)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]


# --- places that cannot be written -----------------------------------------------------------------------------------


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the store .*file/s: Not a directory"):
        write_store(tmp_path / "file" / "s", make_source(), statistics=None)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_read_only_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"cannot write the store .*Permission denied"):
        write_store(tmp_path / "s", make_source(), statistics=None)


LIMITED = """
import resource, sys
sys.path.insert(0, {tests!r})
from test_store import *
resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000))
try:
    write_store({path!r}, make_source((200,), (8, 16)), statistics=None)
except UserError as error:
    print(error)
    raise SystemExit(2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_is_one_sentence_and_can_be_continued(tmp_path: Path) -> None:
    """A limit on the size of a file fails a write as a full disk does, with EFBIG instead of ENOSPC."""
    path = tmp_path / "s"
    code = LIMITED.format(tests=str(Path(__file__).parent), path=str(path))
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith(f"cannot write the store {path}: ")
    assert len(done.stdout.splitlines()) == 1
    source = make_source((200,), (8, 16))
    assert_same(StoreSource(write_store(path, source, statistics=None)), source)
    shutil.rmtree(path)


def test_the_errors_of_the_source_stay_its_own(tmp_path: Path) -> None:
    source = make_source()
    source.read = lambda *_: (_ for _ in ()).throw(OSError("input.nc is damaged"))  # type: ignore[method-assign]
    with pytest.raises(OSError, match=r"input\.nc is damaged"):
        write_store(tmp_path / "s", source, statistics=None)
