"""Records that survive a kill, and hashes that another tool computes alike."""

import hashlib
import json
import os
from pathlib import Path
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest

from surrogate.core.types import UserError
from surrogate.run.provenance import (
    append_history,
    append_jsonl,
    collect,
    describe_file,
    git_revision,
    read_jsonl,
    sha256_file,
    truncate_jsonl,
    write_json_atomic,
)


def test_collect_is_json_and_says_what_matters(tmp_path: Path) -> None:
    data = tmp_path / "data.nc"
    data.write_bytes(b"abc")
    record = collect(
        {"train": {"lr": np.float32(0.5)}}, [{"path": str(data), "role": "train"}], {"seed": 3}, {"data": 1}
    )
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["data"] == [
        {"path": str(data), "size": 3, "sha256": hashlib.sha256(b"abc").hexdigest(), "role": "train"}
    ]
    assert record["packages"]["numpy"] == np.__version__
    assert record["config"] == {"train": {"lr": 0.5}}
    assert record["seeds"] == {"seed": 3}
    assert record["devices"]
    assert record["command"]
    assert record["cpu"]["model"]
    with pytest.raises(UserError, match=r"absent\.nc"):
        collect({}, [{"path": str(tmp_path / "absent.nc")}], {}, {})
    assert collect({}, [{"path": "gs://bucket/x.zarr"}], {}, {})["data"][0]["sha256"] is None


def test_git_revision_is_that_of_git() -> None:
    found = git_revision()
    here = Path(__file__).parents[2]
    head = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    tracked = subprocess.run(
        ["git", "-C", str(here), "ls-files", "--error-unmatch", "surrogate/run/provenance.py"],
        capture_output=True, check=False,
    )  # fmt: skip
    if head.returncode or tracked.returncode:
        assert found is None
    else:
        assert found is not None
        assert found["revision"] == head.stdout.strip()


def test_hash_of_a_store_is_what_sha256sum_says(tmp_path: Path) -> None:
    store = tmp_path / "x.zarr"
    (store / "c" / "0").mkdir(parents=True)
    (store / "zarr.json").write_bytes(b"{}")
    (store / "c" / "0" / "1").write_bytes(b"chunk")
    listing = "".join(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in [("c/0/1", b"chunk"), ("zarr.json", b"{}")]
    )
    assert describe_file(store) == {
        "path": str(store), "size": 7, "sha256": hashlib.sha256(listing.encode()).hexdigest(),
    }  # fmt: skip


def test_hash_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1")
    first = sha256_file(path)
    assert first == hashlib.sha256(b"1").hexdigest()
    path.write_bytes(b"2")
    os.utime(path, ns=(0, 12345))
    assert sha256_file(path) == hashlib.sha256(b"2").hexdigest()


def test_history_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "provenance.json"
    write_json_atomic(path, collect({}, [], {}, {}))
    append_history(path, {"event": "start", "step": 0})
    append_history(path, {"event": "resume", "step": 120})
    history = json.loads(path.read_text())["history"]
    assert [(e["event"], e["step"]) for e in history] == [("start", 0), ("resume", 120)]
    assert all(e["time"] and e["command"] for e in history)
    path.write_text("[]")
    with pytest.raises(UserError, match=r"provenance\.json is not a provenance record"):
        append_history(path, {})


def test_json_has_no_nan_and_a_failed_write_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    write_json_atomic(path, {"rmse": float("nan"), "acc": np.inf, "x": jnp.float32(1.5), "p": Path("a")})
    before = path.read_text()
    assert json.loads(before) == {"rmse": None, "acc": None, "x": 1.5, "p": "a"}
    with pytest.raises(TypeError, match="object"):
        write_json_atomic(path, {"x": object()})

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"summary\.json: the disk is full"):
        write_json_atomic(path, {"x": 1})
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_every_cut_of_the_last_line_is_survived(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "name": "é"}]
    for row in rows:
        append_jsonl(path, row)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = rows if length >= len(whole) - 1 else rows[:1]  # only the newline may be missing
        assert read_jsonl(path) == kept
        append_jsonl(path, {"step": 3})
        assert read_jsonl(path) == [*kept, {"step": 3}]
        assert path.read_bytes().endswith(b'{"step": 3}\n')


def test_damage_before_the_last_line_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2"):
        read_jsonl(path)


def test_rows_beyond_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert truncate_jsonl(path, 5) == 0
    for row in ({"note": "start"}, {"step": 4}, {"step": 5}, {"step": 6}, {"step": 7}):
        append_jsonl(path, row)
    with open(path, "ab") as file:
        file.write(b'{"step": 8, "lo')
    assert truncate_jsonl(path, 5) == 2
    assert path.read_bytes() == b'{"note": "start"}\n{"step": 4}\n{"step": 5}\n'
