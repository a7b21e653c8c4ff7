"""The cache of compiled programs: found again, and never trusted when it is not as it was written."""

from __future__ import annotations

from collections.abc import Callable
import hashlib
import os
from pathlib import Path
import re
import shutil
import subprocess

import pytest

from surrogate.exporting import native

MAGIC = b"surrogate executable 1\n"
HEAD = len(MAGIC) + 128


@pytest.fixture(scope="module")
def run_checker(bundle: Path, library: native.Library, plugin: Path) -> Callable[..., dict[str, str]]:
    """Check the bundle with a cache: what the checker found, and how many programs were found and stored."""

    def run_checker(place: object, **extra: str) -> dict[str, str]:
        command = [str(library.checker), str(bundle), "--plugin", str(plugin), "--cache", str(place)]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SURROGATE")}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**clean, **extra})
        if done.returncode:
            return {"refused": done.stderr}
        found = dict(line.split("\t", 1) for line in done.stdout.splitlines())
        return {k: v for k, v in found.items() if not k.endswith("/microseconds")}

    return run_checker


@pytest.fixture(scope="module")
def filled(run_checker: Callable[..., dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the first check has filled."""
    place = tmp_path_factory.mktemp("filled") / "cache"
    first = run_checker(place)
    if "cannot store programs" in first["cache"]:
        pytest.skip(f"this plugin does not serialise: {first['cache']}")
    assert ": 0 found, 2 stored" in first["cache"]
    return place


@pytest.fixture
def cached(run_checker: Callable[..., dict[str, str]], filled: Path, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """``run_checker`` with a filled cache of the test's own."""
    shutil.copytree(filled, tmp_path / "cache")
    return lambda place=tmp_path / "cache", **extra: run_checker(place, **extra)


def entries(directory: Path) -> list[Path]:
    """Programs, without the remembered hash of the plugin."""
    return sorted(p for p in directory.iterdir() if p.stat().st_size > HEAD + 64)


@pytest.mark.slow
def test_programs_are_found_again_and_compute_the_same(cached, tmp_path: Path) -> None:
    second = cached()
    assert second["cache"].endswith(": 2 found, 0 stored"), second
    uncached = cached("off")
    assert uncached["cache"] == "off"
    assert {k: v for k, v in second.items() if k != "cache"} == {k: v for k, v in uncached.items() if k != "cache"}
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in (tmp_path / "cache").iterdir())
    assert len(entries(tmp_path / "cache")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("where", ["magic", "key", "hash", "content", "end", "cut", "empty", "swapped"])
def test_a_damaged_entry_is_compiled_again_and_replaced(cached, tmp_path: Path, where: str) -> None:
    one, other = entries(tmp_path / "cache")
    data = bytearray(one.read_bytes())
    at = {"magic": 0, "key": len(MAGIC), "hash": len(MAGIC) + 64, "content": HEAD, "end": len(data) - 1}.get(where)
    if at is not None:
        data[at] ^= 1
    one.write_bytes({"cut": data[:-1], "empty": b"", "swapped": other.read_bytes()}.get(where, bytes(data)))
    again = cached()
    assert re.search(rf": 1 found, 1 stored; {one.name} is damaged, and was not used", again["cache"]), again
    assert cached()["cache"].endswith(": 2 found, 0 stored")


@pytest.mark.slow
def test_an_entry_that_the_plugin_cannot_read_is_compiled_again(cached, tmp_path: Path) -> None:
    """Whole by its hash, and no program: as an entry of a plugin that calls itself the same might be."""
    one, _ = entries(tmp_path / "cache")
    content = b"no executable"
    digest = hashlib.sha256(content).hexdigest().encode()
    one.write_bytes(one.read_bytes()[: len(MAGIC) + 64] + digest + content)
    again = cached()
    assert "1 stored; the plugin cannot read what it stored" in again["cache"]
    assert cached()["cache"].endswith(": 2 found, 0 stored")


@pytest.mark.slow
def test_links_and_files_that_others_can_write_are_not_read(cached, tmp_path: Path) -> None:
    one, other = entries(tmp_path / "cache")
    other.chmod(0o666)
    assert re.search(r": 1 found, 1 stored; \S+ is not your own file", cached()["cache"])
    moved = tmp_path / "elsewhere"
    one.rename(moved)
    one.symlink_to(moved)
    assert ": 1 found, 1 stored" in cached()["cache"]
    assert not one.is_symlink()
    before = moved.read_bytes()
    assert cached()["cache"].endswith(": 2 found, 0 stored")
    assert moved.read_bytes() == before


@pytest.mark.slow
def test_a_directory_that_others_can_write_is_refused(cached, tmp_path: Path) -> None:
    (tmp_path / "cache").chmod(0o770)
    assert f"the cache directory {tmp_path / 'cache'} cannot be used: it is not yours alone" in cached()["refused"]
    assert 'neither "user", "off" nor a path' in cached("nonsense")["refused"]
    (tmp_path / "file").write_text("")
    assert "cannot be used" in cached(tmp_path / "file" / "below")["refused"]


@pytest.mark.slow
def test_where_the_user_keeps_it(cached, tmp_path: Path) -> None:
    found = cached("user", XDG_CACHE_HOME=str(tmp_path / "xdg"))
    assert found["cache"].startswith(f"{tmp_path}/xdg/surrogate/executables: 0 found, 2 stored")
    found = cached("user", XDG_CACHE_HOME="", HOME=str(tmp_path / "home"))
    assert found["cache"].startswith(f"{tmp_path}/home/.cache/surrogate/executables: 0 found, 2 stored")


@pytest.mark.slow
def test_another_setting_of_the_compiler_is_another_entry(cached) -> None:
    assert ": 0 found, 2 stored" in cached(XLA_FLAGS="--xla_cpu_enable_fast_math=false")["cache"]
    assert cached()["cache"].endswith(": 2 found, 0 stored")
