"""Flip every bit of a checkpoint and of a published surrogate, one at a time: nothing changed may ever be loaded.

    python benchmarks/bits.py [every=100] [sample=0] [seed=0] [keep=DIRECTORY]

A small training through the loop leaves two checkpoints and the published surrogate. Then every bit of every file of the
newest checkpoint (arrays, Orbax' own files, the manifest) is flipped, the question asked that decides whether it is
trusted, and the bit flipped back. The answer must be no, or the content the same. For one flip in ``every`` the whole
``restore_newest`` runs as well: it must come back with the bits of the older checkpoint as they were when it was saved.
Orbax then reads every file while it is hashed, which otherwise is so of large files alone.

The same for the surrogate: every flip must be refused by what ``surrogate.load`` reads a directory with, or leave the same
content, and for one flip in ``every`` ``surrogate.load`` must raise ``UserError``. ``sample`` flips a random choice of so many
bits instead of all. Exit code 1 where anything wrong was loaded.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
from dataclasses import dataclass
import io
import logging
import os
from pathlib import Path
import random
import sys
import tempfile
import time
from typing import Any

from kills import make_data, state_hash


@dataclass
class Row:
    """What became of the flips in one file."""

    name: str
    bits: int = 0
    refused: int = 0
    loads: int = 0
    walked_back: int = 0
    harmless: int = 0
    wrong: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        numbers = (self.bits, self.refused, self.loads, self.walked_back, self.harmless, self.wrong)
        return f"{self.name:58.58} " + " ".join(f"{n:9}" for n in numbers) + f" {self.seconds:8.1f}"


HEADINGS = (
    f"{'file':58} {'bits':>9} {'refused':>9} {'loads':>9} {'to older':>9} {'harmless':>9} {'wrong':>9} {'seconds':>8}"
)
Trusted = Callable[[], bool]
Load = Callable[[], str]
"""``older``, ``refused``, ``same`` or ``wrong``."""


def sweep(
    folder: Path, chosen: Callable[[int], list[int]], every: int, trusted: Trusted, load: Load, otherwise: str
) -> list[Row]:
    """Flip bits of all files below ``folder``.

    Args:
        chosen: from the number of a file's bits those to flip.
        every: one flip in so many is loaded as a whole, and each that is trusted.
        otherwise: what loading must come to where a flip is not trusted.
    """
    rows, count = [], 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        row, began = Row(path.relative_to(folder).as_posix()), time.perf_counter()
        whole = path.read_bytes()
        handle = os.open(path, os.O_RDWR)
        try:
            for bit in chosen(8 * len(whole)):
                place = bit // 8
                os.pwrite(handle, bytes([whole[place] ^ 1 << bit % 8]), place)
                believed, count = trusted(), count + 1
                row.bits += 1
                row.refused += not believed
                if believed or count % every == 0:
                    outcome = load()
                    row.loads += 1
                    row.walked_back += outcome == "older"
                    row.harmless += believed and outcome == "same"
                    row.wrong += outcome != ("same" if believed else otherwise)
                os.pwrite(handle, whole[place : place + 1], place)
        finally:
            os.close(handle)
        assert path.read_bytes() == whole, "every bit was flipped back"
        row.seconds = time.perf_counter() - began
        print(row, flush=True)
        rows.append(row)
    return rows


def train(root: Path) -> tuple[Path, dict[int, str], Any]:
    """The run's directory, the hash of the state at every save, and the state's shapes."""
    import jax

    from surrogate.cli import load_experiment
    from surrogate.run import loop

    make_data(root / "data.nc")
    hashes, shapes = {}, []

    class Store(loop.Checkpoints):
        def save(self, step: int, state: Any, extra: dict) -> None:
            hashes[step] = state_hash(state)
            shapes.append(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state))
            super().save(step, state, extra)

    loop.Checkpoints = Store  # type: ignore[misc]
    words = [
        f"data.paths=[{root / 'data.nc'}]", "data.variables=[a]", "data.leads=[1D]",
        "data.split={train:[0.0,0.8],valid:null,test:[0.8,1.0]}", "model=mlp", "model.hidden=4", "model.layers=0",
        "train.steps=4", "train.checkpoint_every=2", "train.batch_size=2", "train.curriculum=[{start:0,rollout:1}]",
        f"run.dir={root / 'run'}",
    ]  # fmt: skip
    with jax.transfer_guard("allow"):
        result = loop.run_training(load_experiment("", words), quiet=True)
    assert sorted(hashes) == [2, 4], "two checkpoints, so that there is an older one"
    return result.directory, hashes, shapes[0]


def sweep_checkpoint(
    directory: Path, hashes: dict[int, str], like: Any, chosen: Callable[[int], list[int]], every: int
) -> list[Row]:
    from surrogate.core.types import UserError
    from surrogate.run import checkpoint, checkpoint_manifest

    folder = directory / "checkpoints" / "4"
    checkpoint_manifest.SMALL = 0
    store = checkpoint.Checkpoints(folder.parent)

    def trusted() -> bool:
        try:
            checkpoint_manifest.verify(folder, 4)
        except checkpoint_manifest.Rejected:
            return False
        return True

    def load() -> str:
        try:
            found = store.restore_newest(like)
        except UserError:
            return "refused"
        if found is None or state_hash(found[1]) != hashes[found[0]]:
            return "wrong"
        return "same" if found[0] == 4 else "older"

    assert trusted()
    assert load() == "same", "the newest checkpoint is whole"
    with contextlib.redirect_stderr(io.StringIO()):  # what Orbax has to say about files that are damaged indeed
        rows = sweep(folder, chosen, every, trusted, load, otherwise="older")
    assert load() == "same", "nothing was left behind"
    store.close()
    return rows


def sweep_surrogate(directory: Path, chosen: Callable[[int], list[int]], every: int) -> list[Row]:
    import surrogate as sg
    from surrogate.core.types import UserError
    from surrogate.run.artefact import read_artefact

    folder = directory / "model"
    expected = read_artefact(folder)

    def trusted() -> bool:
        try:
            read_artefact(folder)
        except UserError:
            return False
        return True

    def load() -> str:
        try:
            sg.load(directory)
        except UserError:
            return "refused"
        return "same" if trusted() and read_artefact(folder) == expected else "wrong"

    assert load() == "same"
    rows = sweep(folder, chosen, every, trusted, load, otherwise="refused")
    assert load() == "same", "nothing was left behind"
    return rows


def campaign(root: Path, every: int, sample: int, seed: int) -> bool:
    """Whether nothing wrong was loaded."""
    directory, hashes, like = train(root)
    logging.getLogger("surrogate").setLevel(logging.ERROR)  # a warning for every flip would be the most of the work
    random_bits = random.Random(seed)

    def chooser(folder: Path) -> Callable[[int], list[int]]:
        total = 8 * sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if not sample:
            return lambda bits: list(range(bits))
        return lambda bits: sorted(random_bits.sample(range(bits), -(-sample * bits // total)))

    wrong = 0
    for title, folder, run in (
        ("checkpoint", directory / "checkpoints" / "4", lambda pick: sweep_checkpoint(directory, hashes, like, pick, every)),
        ("surrogate", directory / "model", lambda pick: sweep_surrogate(directory, pick, every)),
    ):  # fmt: skip
        print(f"{title}\n{HEADINGS}")
        rows = run(chooser(folder))
        total = Row(f"{title}: {len(rows)} files")
        for row in rows:
            for name in ("bits", "refused", "loads", "walked_back", "harmless", "wrong", "seconds"):
                setattr(total, name, getattr(total, name) + getattr(row, name))
        print(f"{total}\n", flush=True)
        wrong += total.wrong
    return not wrong


def main() -> None:
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        return
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    if unknown := set(given) - {"every", "sample", "seed", "keep"}:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; see --help")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(given.get("keep", scratch)).absolute()
        root.mkdir(parents=True, exist_ok=True)
        numbers = {
            name: int(given.get(name, default)) for name, default in (("every", 100), ("sample", 0), ("seed", 0))
        }
        sys.exit(not campaign(root, **numbers))


if __name__ == "__main__":
    main()
