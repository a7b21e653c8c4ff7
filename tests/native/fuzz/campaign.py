"""A fuzzing campaign over the C reader of Bundles, under AddressSanitizer and UndefinedBehaviorSanitizer.

Usage: python tests/native/fuzz/campaign.py [SECONDS] [SEED]

With clang it is libFuzzer's, guided by coverage; without, mutate.c changes the manifest of a Bundle blindly for as many
rounds as the time allows. It ends with 1 where something was found, and leaves the input that shows it.
"""

from __future__ import annotations

import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from surrogates import make  # noqa: E402

from surrogate.exporting import native  # noqa: E402
from surrogate.exporting.write import export_bundle  # noqa: E402
from surrogate.run.artefact import read_artefact, write_artefact  # noqa: E402

SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
DIGEST = 14 + 64 + 2  # bytes at the manifest's beginning, up to what the digest covers
# Words that a blind change of bytes would not find.
TOKENS = (
    "guard", "factor", "features", "weights", "block", "low", "high", "mean", "std", "threshold", "margin", "inputs",
    "outputs", "shape", "dims", "dtype", "float32", "int32", "tolerance", "offset", "size", "batch", "programs",
    "parameters", "golden", "golden_samples", "attrs", "level", "grid", "latitude", "longitude", "files", "sha256",
)  # fmt: skip


def seeds(directory: Path) -> dict[str, Path]:
    """Small Bundles of both kinds, with nearly everything that a manifest can say."""
    found = {}
    for kind, name in (("field", "a"), ("point", "b")):
        surrogate = make(
            directory / name, shape=(2, 3), history=2 if kind == "field" else 1, monthly=False, features=(), land=False,
            based=False, settings={"hidden": 2, "layers": 0},
        )  # fmt: skip
        out = export_bundle(surrogate, directory / f"{name}.sg", kind=kind, batches=(1, 2), unverified=("cpu",))
        manifest, files = read_artefact(out)
        for key in ("digest", "files"):
            del manifest[key]
        # Little to hash in every round.
        kept = {n: d for n, d in files.items() if n.endswith(".bin")} | {
            n: b"program" for n in files if n.endswith((".mlir", ".jax"))
        }
        write_artefact(out, kept, manifest)
        found[kind] = out
    return found


def fuzz_with_clang(work: Path, seconds: int, seed: int) -> int:
    target = work / "fuzz_manifest"
    command = ["clang", "-std=c11", "-O1", "-g", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all",
               f"-I{native.HERE}", *map(str, native.library_sources()), str(HERE / "fuzz_manifest.c"), "-o", str(target),
               *native.LIBRARIES]  # fmt: skip
    subprocess.run(command, check=True)
    codes = []
    for kind, bundle in seeds(work).items():
        corpus = work / f"corpus-{kind}"
        corpus.mkdir()
        (corpus / "honest").write_bytes((bundle / "manifest.json").read_bytes()[DIGEST:])
        words = work / "words"
        words.write_text("".join(f'"\\"{t}\\""\n' for t in TOKENS))
        done = subprocess.run(
            [str(target), str(corpus), f"-max_total_time={seconds // 2}", f"-seed={seed}", f"-dict={words}", "-timeout=300",
             "-rss_limit_mb=2048", "-max_len=20000", f"-artifact_prefix={Path.cwd()}/", "-print_final_stats=1"],
            env={**os.environ, "BUNDLE": str(bundle)}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        for name in ("number_of_executed_units", "average_exec_per_sec", "new_units_added", "peak_rss_mb"):
            if value := re.search(rf"stat::{name}: *(\d+)", done.stderr):
                print(f"{kind}: {name} {value[1]}")
        covered = re.findall(r"cov: (\d+)", done.stderr)
        print(f"{kind}: edges covered {covered[-1] if covered else '?'}, exit code {done.returncode}", flush=True)
        if done.returncode:
            print(done.stderr[-4000:])
        codes.append(done.returncode)
    return int(any(codes))


def fuzz_blindly(work: Path, seconds: int, seed: int) -> int:
    bundle = seeds(work)["field"]
    target = work / "mutate"
    command = ["cc", "-std=c11", "-O1", "-g", *SANITIZERS, f"-I{native.HERE}", *map(str, native.library_sources()),
               str(HERE.parent / "mutate.c"), "-o", str(target), *native.LIBRARIES]  # fmt: skip
    subprocess.run(command, check=True)
    end, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        seed += 1
        done = subprocess.run([str(target), str(bundle), "2000", str(seed)], capture_output=True, text=True)
        if done.returncode:
            print(done.stderr[-4000:])
            return 1
        rounds += 2000
    print(f"rounds {rounds}")
    return 0


def main() -> int:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as work:
        fuzz = fuzz_with_clang if shutil.which("clang") else fuzz_blindly
        return fuzz(Path(work), seconds, seed)


if __name__ == "__main__":
    sys.exit(main())
