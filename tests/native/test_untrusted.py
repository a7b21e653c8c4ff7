"""Bundles of strangers: what opening one does to the process, and that every bit of every file counts."""

from __future__ import annotations

import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

import numpy as np
import pytest
from test_files import BUNDLE, PLUGIN, copy, opens, original  # noqa: F401

from surrogate.core.types import UserError
from surrogate.exporting import open_bundle
from surrogate.run.artefact import MANIFEST, read_artefact, seal, unseal, write_artefact

WATCH = """
import json, sys
import jax, numpy
jax.device_put(numpy.ones(1)).block_until_ready()  # JAX looks for its backends, and loads what it puts arrays with
from surrogate.exporting import open_bundle

bundle, warm, check = sys.argv[1], sys.argv[2], sys.argv[3] == "check"
if check:
    open_bundle(warm)  # what JAX loads when it first compiles, it loads here
else:
    import surrogate.exporting.caller
events, watching = [], False

def hook(event, arguments):
    if watching:
        events.append((event, [str(a) for a in arguments[:2]]))

sys.addaudithook(hook)
watching = True
opened = open_bundle(bundle, check=check)
watching = False
print(json.dumps(events))
"""
# What would let a file act: running or fetching code, processes, the network, changes to files.
FORBIDDEN = (
    "import", "exec", "compile", "marshal.", "pickle.", "code.__new__", "ctypes.", "subprocess.", "os.exec", "os.fork",
    "os.posix_spawn", "os.spawn", "os.system", "socket.", "urllib.", "http.", "shutil.", "os.remove", "os.rename",
    "os.mkdir", "os.chmod", "os.link", "os.symlink", "os.truncate", "os.putenv",
)  # fmt: skip


@pytest.mark.parametrize("check", ["no", pytest.param("check", marks=pytest.mark.slow)])
def test_opening_a_bundle_runs_fetches_and_touches_nothing(original: Path, tmp_path: Path, check: str) -> None:  # noqa: F811
    """An audit hook sees every file that is opened and everything that could run code."""
    warm = shutil.copytree(original, tmp_path / "warm.sg")
    done = subprocess.run(
        [sys.executable, "-c", WATCH, str(original), str(warm), check], capture_output=True, text=True, cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_CACHE")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    events = json.loads(done.stdout)
    bad = [e for e in events if e[0].startswith(FORBIDDEN)]
    assert bad == []
    names = {p.name for p in original.iterdir()} | {str(original)}
    opened = [arguments for event, arguments in events if event == "open"]
    assert {a[0] for a in opened if not a[0].isdigit()} == names  # numbers are handles of these
    assert all(a[1] in ("None", "r", "rb") for a in opened)


def test_a_flipped_bit_anywhere_is_noticed_in_python(copy: Path) -> None:  # noqa: F811
    rng = np.random.default_rng(1)
    silent = []
    for path in sorted(copy.iterdir()):
        data = path.read_bytes()
        dense = set(range(0, 120)) if path.name == MANIFEST else set()
        for position in sorted(dense | {int(p) for p in rng.integers(0, len(data), 12)} | {0, len(data) - 1}):
            changed = bytearray(data)
            changed[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(changed)
            try:
                open_bundle(copy, check=False)
                silent.append((path.name, position))
            except UserError:
                pass
        path.write_bytes(data)
    assert silent == []
    open_bundle(copy, check=False)


def change_files(directory: Path, change) -> None:  # type: ignore[no-untyped-def]
    """What someone who knows the format could write into the table of files."""
    path = directory / MANIFEST
    manifest = unseal(path.read_bytes(), "manifest")
    del manifest["digest"]
    change(manifest["files"])
    path.write_bytes(seal(manifest))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"../outside": {"sha256": "0" * 64, "size": 0}}, "may not name"),
        ({"a/b": {"sha256": "0" * 64, "size": 0}}, "may not name"),
        ({"golden.bin": {"sha256": "0" * 64, "size": 2**53}}, "size"),
        ({"golden.bin": {"sha256": "0" * 64, "size": 7 * 2**30}, "parameters.bin": {"sha256": "0" * 64, "size": 7 * 2**30}},
         "more bytes than are allowed"),
        ({"golden.bin": {"sha256": "0" * 64, "size": -1}}, "SHA-256 and size"),
        ({"golden.bin": {"sha256": "0" * 63, "size": 1}}, "SHA-256 and size"),
        ({f"f{i}": {"sha256": "0" * 64, "size": 0} for i in range(1001)}, "no proper table"),
    ],
)  # fmt: skip
def test_tables_of_files_that_lead_astray_are_refused(copy: Path, opens, entry, words: str) -> None:  # noqa: F811
    change_files(copy, lambda files: files.update(entry))
    status, sentence = opens(copy)
    assert (status, words in sentence) == (BUNDLE, True), sentence
    with pytest.raises(UserError):
        open_bundle(copy, check=False)


def test_oversize_files_are_refused_unread(copy: Path, opens) -> None:  # noqa: F811
    """A sparse file of a terabyte, and a manifest beyond its limit."""
    good = (copy / "golden.bin").read_bytes()
    with open(copy / "golden.bin", "r+b") as file:
        file.truncate(2**40)
    status, sentence = opens(copy)
    assert status == BUNDLE
    assert "where the manifest says" in sentence
    with pytest.raises(UserError, match="the manifest says"):
        open_bundle(copy, check=False)
    (copy / "golden.bin").write_bytes(good)
    with open(copy / MANIFEST, "r+b") as file:
        file.truncate(2**25)
    assert opens(copy)[0] == BUNDLE
    with pytest.raises(UserError):
        open_bundle(copy, check=False)


def test_a_bundle_that_is_itself_a_link_to_elsewhere_still_counts_every_file(copy: Path, opens, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "link.sg").symlink_to(copy)
    assert opens(tmp_path / "link.sg")[0] == PLUGIN
    (copy / "extra.bin").symlink_to("/etc/hostname")
    assert opens(tmp_path / "link.sg")[0] == BUNDLE
    with pytest.raises(UserError, match=r"extra\.bin"):
        open_bundle(tmp_path / "link.sg", check=False)


def set_guard(**changes):  # type: ignore[no-untyped-def]
    def change(manifest):  # type: ignore[no-untyped-def]
        manifest["functions"][0]["guard"].update(changes)

    return change


def set_guard_input(**changes):  # type: ignore[no-untyped-def]
    def change(manifest):  # type: ignore[no-untyped-def]
        manifest["functions"][0]["guard"]["inputs"][0].update(changes)

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_guard(threshold=-1), set_guard(threshold="x"), set_guard(margin=-0.1), set_guard(mean=[]), set_guard(mean=[0] * 9),
        set_guard(std=[0] * 3), set_guard(std=[1]), set_guard(factor="nothing"), set_guard(factor="step/weights"),
        set_guard(inputs=[]), set_guard(inputs=[{}]), set_guard_input(name="nothing"), set_guard_input(block=0),
        set_guard_input(block=1), set_guard_input(block=10**15), set_guard_input(features=[]),
        set_guard_input(features=[10**6]), set_guard_input(features=[0] * 100), set_guard_input(weights="step/factor"),
        set_guard_input(weights=""), set_guard_input(low=[]), set_guard_input(high=["x"]), set_guard_input(low=None),
    ],
)  # fmt: skip
def test_a_guard_that_makes_no_sense_is_refused_in_c(copy: Path, opens, change) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    manifest, files = read_artefact(copy)
    for key in ("digest", "files"):
        del manifest[key]
    change(manifest)
    write_artefact(copy, files, manifest)
    status, sentence = opens(copy)
    assert (status, "describes the guard of step improperly" in sentence) == (BUNDLE, True), sentence
