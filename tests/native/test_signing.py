"""A signature over a Bundle holds for exactly its files and one key."""

from __future__ import annotations

from pathlib import Path
import shutil
import subprocess

import pytest

from surrogate.core.types import UserError
from surrogate.exporting.signing import command, default_signature, sign_bundle, verify_bundle
from surrogate.run.artefact import read_artefact, write_artefact

pytest.importorskip("model_signing", reason="the extra 'signing' is not installed")


def key_pair(directory: Path, name: str) -> tuple[Path, Path]:
    """Private and public key, as the documentation makes them."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    private, public = directory / f"{name}.pem", directory / f"{name}.pub.pem"
    for words in (
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(private)],
        ["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)],
    ):
        subprocess.run(words, check=True, capture_output=True)
    return private, public


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """An artefact of the form of a Bundle: signing looks at files alone."""
    write_artefact(tmp_path / "x.sg", {"a.bin": b"weights", "b.mlir": b"program"}, {"kind": "bundle"})
    return tmp_path / "x.sg"


def test_only_the_files_that_were_signed_pass(bundle: Path, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "mine")
    assert sign_bundle(bundle, private) == default_signature(bundle) == tmp_path / "x.sg.sig"
    read_artefact(bundle)  # the signature lies beside it
    verify_bundle(bundle, public)

    _, other = key_pair(tmp_path, "other")
    with pytest.raises(UserError, match=r"x\.sg\.sig was made with another key than .*other\.pub\.pem"):
        verify_bundle(bundle, other)
    with pytest.raises(UserError, match=r"cannot be used to verify.*give the public key"):
        verify_bundle(bundle, private)

    data = (bundle / "a.bin").read_bytes()
    (bundle / "a.bin").write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(UserError, match=r"is not what was signed: .*Hash mismatch for 'a\.bin'"):
        verify_bundle(bundle, public)
    (bundle / "a.bin").write_bytes(data)
    for extra in ("extra.so", ".gitignore"):
        (bundle / extra).write_bytes(b"x")
        with pytest.raises(UserError, match=rf"is not what was signed: .*Extra files.*{extra}"):
            verify_bundle(bundle, public)
        (bundle / extra).unlink()
    (bundle / "a.bin").unlink()
    with pytest.raises(UserError, match=r"is not what was signed: .*Missing files.*a\.bin"):
        verify_bundle(bundle, public)
    # Someone who makes manifest and hashes right again is found out all the same.
    write_artefact(bundle, {"a.bin": b"Weights", "b.mlir": b"program"}, {"kind": "bundle"})
    read_artefact(bundle)
    with pytest.raises(UserError, match="is not what was signed"):
        verify_bundle(bundle, public)


def test_a_damaged_signature_and_a_missing_one_are_told(bundle: Path, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "mine")
    with pytest.raises(UserError, match=r"has no signature .*x\.sg\.sig"):
        verify_bundle(bundle, public)
    signature = sign_bundle(bundle, private)
    good = signature.read_text()
    place = good.index('"sig"') + 12
    for bad in (
        "{}",
        "x",
        good[: len(good) // 2],
        good[:place] + ("A" if good[place] != "A" else "B") + good[place + 1 :],
    ):
        signature.write_text(bad)
        with pytest.raises(UserError):
            verify_bundle(bundle, public)
    with pytest.raises(UserError, match="lies inside the Bundle"):
        sign_bundle(bundle, private, bundle / "sig")
    (bundle / "a.bin").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"changed or damaged|the manifest says"):
        sign_bundle(bundle, private)


def test_the_command_signs_and_verifies(bundle: Path, tmp_path: Path, capsys) -> None:
    private, public = key_pair(tmp_path, "mine")
    assert command("sign", [f"bundle={bundle}", f"key={private}"]) == 0
    assert command("verify", [f"bundle={bundle}", f"key={public}"]) == 0
    assert "is what the holder of the key signed" in capsys.readouterr().out
    (bundle / "b.mlir").write_bytes(b"Program")
    assert command("verify", [f"bundle={bundle}", f"key={public}"]) == 2
    assert "is not what was signed" in capsys.readouterr().err
    assert command("sign", [f"bundle={bundle}"]) == 2
    assert command("sign", ["bundles=x"]) == 2
