"""A published directory is exactly what was written, or is refused with the file's name."""

import hashlib
import json
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest

from surrogate.core.types import UserError
from surrogate.run import artefact
from surrogate.run.artefact import decode_tensors, encode_tensors, read_artefact, seal, unseal, write_artefact

FILES = {"weights.safetensors": bytes(range(64)), "MODEL_CARD.md": b"# A model\n"}
MANIFEST = {"format_version": 1, "spec": {"names": ["z500", "t850"], "center": [5.4e4, 273.25]}}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_artefact(tmp_path / "model", FILES, MANIFEST)
    return tmp_path / "model"


def reseal(directory: Path, **changes: object) -> None:
    """What someone who knows the format could write: a manifest whose own digest is right."""
    manifest = unseal((directory / "manifest.json").read_bytes(), "manifest")
    del manifest["digest"]
    (directory / "manifest.json").write_bytes(seal({**manifest, **changes}))


def test_round_trip(model: Path) -> None:
    manifest, files = read_artefact(model)
    assert files == FILES
    assert {key: manifest[key] for key in MANIFEST} == MANIFEST
    assert set(manifest) == {*MANIFEST, "files", "digest"}
    assert json.loads((model / "manifest.json").read_text()) == manifest
    assert [p.name for p in model.parent.iterdir()] == ["model"]  # nothing temporary stays


def test_a_flipped_bit_in_any_byte_is_noticed(model: Path) -> None:
    silent = []
    for path in model.iterdir():
        original = path.read_bytes()
        changed = bytearray(original)
        for position in range(len(original)):
            bit = 1 << (position % 8)
            changed[position] ^= bit
            path.write_bytes(changed)
            try:
                read_artefact(model)
            except UserError:
                pass
            else:
                silent.append((path.name, position))
            changed[position] ^= bit
        path.write_bytes(original)
    assert silent == []
    read_artefact(model)


def test_cut_missing_extra(model: Path) -> None:
    weights = model / "weights.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1])
    with pytest.raises(UserError, match=r"weights\.safetensors has 63 bytes.*64"):
        read_artefact(model)
    weights.unlink()
    with pytest.raises(UserError, match=r"lacks.*weights\.safetensors"):
        read_artefact(model)
    weights.write_bytes(data)
    (model / ".hidden").write_bytes(b"")
    with pytest.raises(UserError, match=r"does not name: '\.hidden'"):
        read_artefact(model)
    (model / ".hidden").unlink()
    (model / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"no manifest\.json"):
        read_artefact(model)
    with pytest.raises(UserError, match="nowhere"):
        read_artefact(model.parent / "nowhere")


def test_links_folders_and_pipes_are_refused(model: Path) -> None:
    card = model / "MODEL_CARD.md"
    outside = model.parent / "outside"
    outside.write_bytes(FILES[card.name])  # the same content: the link itself is what is refused
    card.unlink()
    card.symlink_to(outside)
    with pytest.raises(UserError, match=r"MODEL_CARD\.md is a link"):
        read_artefact(model)
    card.unlink()
    os.mkfifo(card)
    with pytest.raises(UserError, match="not a plain file"):
        read_artefact(model)
    card.unlink()
    card.mkdir()
    with pytest.raises(UserError, match="not a plain file"):
        read_artefact(model)
    card.rmdir()
    card.write_bytes(FILES[card.name])
    manifest = model / "manifest.json"
    manifest.rename(outside)
    manifest.symlink_to(outside)
    with pytest.raises(UserError, match=r"manifest\.json is a link"):
        read_artefact(model)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "a/b", "..", ".hidden", "", "a\0b", "a\nb", "manifest.json"]
)
def test_names_that_lead_elsewhere_are_refused(model: Path, name: str) -> None:
    table = unseal((model / "manifest.json").read_bytes(), "manifest")["files"]
    reseal(model, files={**table, name: {"sha256": "0" * 64, "size": 0}})
    with pytest.raises(UserError, match="not allowed"):
        read_artefact(model)
    with pytest.raises(UserError, match="not allowed"):
        write_artefact(model.parent / "other", {name: b""}, MANIFEST)


@pytest.mark.parametrize(
    "entry",
    [
        {"sha256": "0" * 64, "size": -1},
        {"sha256": "0" * 64, "size": True},
        {"sha256": "0" * 64, "size": 1.0},
        {"sha256": "0" * 63, "size": 1},
        {"sha256": None, "size": 1},
        {"sha256": "0" * 64},
        {"sha256": "0" * 64, "size": 1, "target": "x"},
        [],
    ],
)
def test_malformed_entries_are_refused(model: Path, entry: object) -> None:
    reseal(model, files={"x": entry})
    with pytest.raises(UserError, match="x"):
        read_artefact(model)


def test_oversize_is_refused_before_reading(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="74 bytes, more than the 73"):
        read_artefact(model, max_bytes=73)
    monkeypatch.setattr(artefact, "MAX_MANIFEST_BYTES", 100)
    with pytest.raises(UserError, match=r"manifest\.json has \d+ bytes, more than the 100"):
        read_artefact(model)


def test_deeply_nested_manifest_is_refused(model: Path) -> None:
    body = b'{\n "files": ' + b"[" * 200_000 + b"}\n"
    digest = hashlib.sha256(body).hexdigest().encode()
    (model / "manifest.json").write_bytes(b'{\n "digest": "' + digest + b'",' + body[1:])
    with pytest.raises(UserError, match="not valid JSON"):
        read_artefact(model)


def test_replaces_an_artefact_and_nothing_else(model: Path) -> None:
    write_artefact(model, {"a": b"1"}, MANIFEST)
    assert read_artefact(model)[1] == {"a": b"1"}
    home = model.parent / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a model"):
        write_artefact(home, FILES, MANIFEST)
    assert (home / "thesis.tex").exists()


def test_failed_write_leaves_the_old_one(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full"):
        write_artefact(model, {"a": b"1"}, MANIFEST)
    assert read_artefact(model)[1] == FILES
    assert [p.name for p in model.parent.iterdir()] == ["model"]


def test_reading_runs_no_code(model: Path) -> None:
    write_artefact(model, {"weights.safetensors": encode_tensors({"w": np.ones((2, 3), np.float32)})}, MANIFEST)
    script = """
import sys
from pathlib import Path
from surrogate.run.artefact import read_artefact, decode_tensors
seen, watching = [], False
watched = ("import", "exec", "compile", "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn",
           "pickle.", "marshal.", "ctypes.", "code.__new__")
def hook(event, args):
    if watching and event.startswith(watched):
        seen.append((event, str(args)[:80]))
sys.addaudithook(hook)
watching = True
try:
    import xml.dom.minidom  # the hook must be able to see
finally:
    assert seen, "the hook is blind"
seen.clear()
manifest, files = read_artefact(Path(sys.argv[1]))
tensors = decode_tensors(files["weights.safetensors"])
watching = False
assert tensors["w"].shape == (2, 3)
print(seen)
"""
    run = subprocess.run([sys.executable, "-c", script, str(model)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_tensors_round_trip() -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "strided": rng.normal(size=(4, 6)).astype(np.float32)[::2, ::3],
        "transposed": rng.normal(size=(3, 5)).T,
        "big_endian": np.arange(4, dtype=">i4"),
        "scalar": np.float32(2.5),
        "empty": np.zeros((0, 3), np.int8),
        "flags": np.array([True, False]),
    }
    back = decode_tensors(encode_tensors(tensors))
    assert set(back) == set(tensors)
    for name, value in tensors.items():
        np.testing.assert_array_equal(back[name], value)
        assert back[name].shape == np.shape(value)
        assert back[name].dtype == np.asarray(value).dtype.newbyteorder("=")
    assert encode_tensors(tensors) == encode_tensors(dict(reversed(tensors.items())))
    with pytest.raises(UserError, match=r"'names'.*object"):
        encode_tensors({"names": np.array([object()])})


def header(table: object, payload: bytes = b"") -> bytes:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + payload


def entry(dtype: str = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        (2**63).to_bytes(8, "little"),
        header(b"{"),
        header(b"[" * 100_000),
        header([]),
        header(b'{"a": {}, "a": {}}'),
        header({"__metadata__": {"x": "y"}}),
        header({"a": entry("BF16", (2,))}, bytes(4)),
        header({"a": entry("pickle")}, bytes(4)),
        header({"a": entry(shape=(2,))}, bytes(4)),
        header({"a": entry(shape=(-1,))}, bytes(4)),
        header({"a": entry(shape=(2**62, 2**62))}, bytes(4)),
        header({"a": entry(shape=(True,))}, bytes(4)),
        header({"a": entry(offsets=(0, 4, 8))}, bytes(4)),
        header({"a": entry(offsets=(4, 8))}, bytes(8)),
        header({"a": entry(), "b": entry()}, bytes(4)),
        header({"a": entry()}, bytes(3)),
        header({"a": entry()}, bytes(5)),
        header({"a": {**entry(), "run": "x"}}, bytes(4)),
    ],
)
def test_malformed_tensor_files_are_refused(data: bytes) -> None:
    with pytest.raises(UserError, match="tensor"):
        decode_tensors(data)
