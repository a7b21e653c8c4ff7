"""Who made a Bundle: a signature over every file of it, by the package model-signing and an elliptic-curve key.

The hashes inside a Bundle tell damage; a signature tells that the holder of a key vouches for what is there. It lies
beside the Bundle (``NAME.sg.sig``), since a Bundle holds nothing that its manifest does not name. The same serves for
a Surrogate's ``model/``.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
import sys
from typing import Any

from surrogate.core.types import UserError
from surrogate.run.artefact import read_artefact

# The environment variable for the password of an encrypted key: a command line is for everyone to see.
PASSWORD = "SURROGATE_KEY_PASSWORD"


def default_signature(bundle: str | Path) -> Path:
    """``NAME.sg.sig`` beside ``NAME.sg``."""
    path = Path(os.path.abspath(Path(bundle).expanduser()))
    return path.with_name(path.name + ".sig")


def sign_bundle(bundle: str | Path, key: str | Path, signature: str | Path = "") -> Path:
    """Sign every file of a Bundle.

    Args:
        key: a private key on the curve P-256, P-384 or P-521, PEM; its password, where it has one, in ``$SURROGATE_KEY_PASSWORD``.
        signature: where to; beside the Bundle by default.

    Returns:
        The signature's path.

    Raises:
        UserError: for a Bundle that is damaged, a key that cannot be used, or without model-signing.
    """
    directory, key, target = _paths(bundle, key, signature)
    signing = _model_signing("signing")
    read_artefact(directory)  # what is damaged is not vouched for
    password = os.environ.get(PASSWORD)
    try:
        config = signing.Config().use_elliptic_key_signer(
            private_key=key, password=password.encode() if password else None
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{key} cannot be used to sign: {_short(error)}") from error
    config.set_hashing_config(_everything())
    try:
        config.sign(directory, target)
    except OSError as error:
        raise UserError(f"the signature {target} cannot be written: {error.strerror or error}") from error
    return target


def verify_bundle(bundle: str | Path, key: str | Path, signature: str | Path = "") -> None:
    """Check that the holder of a key signed exactly the files that are there.

    Args:
        key: the public key, PEM.

    Raises:
        UserError: for a Bundle that is damaged, files that were changed, added or taken away since, another key, or a
            signature that is missing or none.
    """
    directory, key, target = _paths(bundle, key, signature)
    verifying = _model_signing("verifying")
    if not target.is_file():
        raise UserError(f"{directory} has no signature {target}")
    from cryptography.exceptions import InvalidSignature

    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{key} cannot be used to verify: {_short(error)}; give the public key") from error
    config.set_hashing_config(_everything())
    try:
        config.verify(directory, target)
    except InvalidSignature as error:
        raise UserError(f"{target} was not made by the holder of {key}, or was changed") from error
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OSError) as error:
        text = _short(error)
        if text.startswith("Key mismatch"):
            raise UserError(f"{target} was made with another key than {key}") from error
        if text.startswith("Signature mismatch"):
            raise UserError(f"{directory} is not what was signed: {text.partition(': ')[2]}") from error
        raise UserError(f"{target} is no signature of {directory}: {text}") from error
    read_artefact(directory)  # links, folders, and that it is an artefact at all


def command(verb: str, words: list[str]) -> int:
    """``sign`` or ``verify`` with the words of a command line; the exit code."""
    given = {w.partition("=")[0]: w.partition("=")[2] for w in words}
    try:
        if unknown := set(given) - {"bundle", "key", "signature"}:
            raise UserError(f"{verb} takes bundle=, key= and signature=, not {sorted(unknown)[0]}")
        if not given.get("bundle") or not given.get("key"):
            raise UserError(f"{verb} needs bundle=DIRECTORY.sg and key=FILE.pem")
        if verb == "sign":
            print(f"{sign_bundle(given['bundle'], given['key'], given.get('signature', ''))} signs {given['bundle']}")
        else:
            verify_bundle(given["bundle"], given["key"], given.get("signature", ""))
            print(f"{given['bundle']} is what the holder of the key signed")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _paths(bundle: str | Path, key: str | Path, signature: str | Path) -> tuple[Path, Path, Path]:
    directory = Path(bundle).expanduser()
    if not directory.is_dir():
        raise UserError(f"{directory} is not a Bundle: it is not a directory")
    key = Path(key).expanduser()
    if not key.is_file():
        raise UserError(f"the key {key} is not a file")
    target = Path(signature).expanduser() if signature else default_signature(directory)
    if target.resolve().parent == directory.resolve():
        raise UserError(f"{target} lies inside the Bundle, which holds nothing that its manifest does not name")
    return directory, key, target


def _everything() -> Any:
    # By default the package leaves out .git and its like, of which a Bundle has none.
    return _model_signing("hashing").Config().set_ignored_paths(paths=[], ignore_git_paths=False)


def _model_signing(module: str) -> Any:
    try:
        return importlib.import_module(f"model_signing.{module}")
    except ImportError as error:
        raise UserError(f"signing needs model-signing: pip install 'surrogate[signing]' ({error})") from error


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__
