"""Batch scripts: every preset, what is quoted and staged, and what the script does with each exit code."""

from __future__ import annotations

from pathlib import Path
import shutil
import subprocess

import pytest
import yaml

from surrogate.cli import conf_directory, read_site
from surrogate.core.types import UserError
from surrogate.launch import main
from surrogate.parallel.script import batch_script

SITES = sorted(path.stem for path in (conf_directory() / "site").glob("*.yaml"))
bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


def test_the_sites_that_were_promised() -> None:
    assert set(SITES) >= {"perlmutter", "frontier", "aurora", "jupiter", "alps", "generic"}


@bash
@pytest.mark.parametrize("name", SITES)
def test_every_preset_is_a_script_with_its_source(name: str) -> None:
    site, rest = read_site(name, ["site.nodes=2", "site.account=abc", "model=unet"])
    assert rest == ["model=unet"]
    assert all(address.startswith("https://") for address in site.source)
    assert site.read.startswith("20")
    script = batch_script(site, rest, name="a name", preset=name)
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    lines = script.splitlines()
    if site.scheduler == "slurm":
        assert {"#SBATCH --nodes=2", "#SBATCH --account=abc", "#SBATCH --requeue", "#SBATCH --signal=TERM@120"} <= set(
            lines
        )
        assert "srun" in script
    else:
        assert {"#PBS -l select=2", "#PBS -A abc", "#PBS -r y"} <= set(lines)
        assert f"mpiexec -n {2 * site.processes} -ppn {site.processes}" in script
    assert site.source[0] in script
    # Directives count only before the first command.
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(i < first for i, line in enumerate(lines) if line.startswith(("#SBATCH", "#PBS")))


BAD = [
    (["nowhere"], "there is no site 'nowhere'; there are alps, aurora"),
    (["generic", "site.nodez=2"], "site.nodez is not a setting; did you mean site.nodes?"),
    (["generic", "site.nodes=0"], "nodes=0 must be positive"),
    (["generic", "site.time=soon"], "time='soon' must be hours:minutes:seconds"),
    (["generic", "site.time=00:01:00"], "signal=120 s before the end leaves nothing of time=00:01:00"),
    (["generic", "site.staged=[/a.nc]"], "staged files need a directory"),
    (["generic", "+experiment=climat"], "experiment=climat does not exist"),
    (["generic", "train.stepz=3"], "train.stepz is not a setting"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(w) for w, _ in BAD])
def test_a_mistake_is_found_before_the_queue(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--script", *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_site_is_one_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"system": "mine", "source": ["https://a"], "read": "2026", "processes": 3}))
    site, _ = read_site(str(file), ["site.time=1-02:00:00"])
    assert (site.processes, site.seconds()) == (3, 26 * 3600)
    with pytest.raises(UserError, match="there is no site"):
        read_site(str(tmp_path / "other.yaml"), [])


class Job:
    """The script of the generic site, with commands in the place of Slurm's that note how they were called."""

    def __init__(self, tmp_path: Path, *words: str, site: tuple[str, ...] = ()) -> None:
        self.run, self.bin, self.notes = tmp_path / "run", tmp_path / "bin", tmp_path / "notes"
        self.bin.mkdir()
        preset, rest = read_site("generic", list(site))
        assert not rest
        self.script = batch_script(preset, [*words, f"run.dir={self.run}"], name="x", preset="generic")

    def __call__(self, *starts: tuple[int, int]) -> int:
        """Exit code of the script, where each start leaves a checkpoint (0: none) and ends with a code."""
        plan = self.bin / "plan"
        plan.write_text("".join(f"{step} {code}\n" for step, code in starts))
        self._command(
            "srun",
            f'''
if [ "$1" != "--kill-on-bad-exit=0" ]; then shift 2; exec "$@"; fi
echo "srun $*" >> {self.notes}; read -r step code < {plan}; sed -i 1d {plan}
[ "$step" = 0 ] || mkdir -p "{self.run}/checkpoints/$step"; exit "$code"''',
        )
        self._command("scontrol", f'echo "scontrol $*" >> {self.notes}')
        environ = {"PATH": f"{self.bin}:/usr/bin:/bin", "SLURM_JOB_ID": "12", "SLURM_JOB_NUM_NODES": "1", "USER": "me"}
        return subprocess.run(
            ["bash"], input=self.script, text=True, env=environ, timeout=60, capture_output=True
        ).returncode

    def _command(self, name: str, body: str) -> None:
        (self.bin / name).write_text(f"#!/bin/bash\n{body}\n")
        (self.bin / name).chmod(0o755)

    def noted(self) -> list[str]:
        return [line.split()[0] for line in self.notes.read_text().splitlines()]


@bash
@pytest.mark.parametrize("code", [0, 2, 130])
def test_complete_and_mistaken_runs_end_there(code: int, tmp_path: Path) -> None:
    job = Job(tmp_path)
    assert job((0, code)) == code
    assert job.noted() == ["srun"]


@bash
@pytest.mark.parametrize("code", [75, 99, 143])
def test_a_stopped_run_goes_back_into_the_queue(code: int, tmp_path: Path) -> None:
    job = Job(tmp_path)
    assert job((10, code)) == 99
    assert job.noted() == ["srun", "scontrol"]
    assert "scontrol requeue 12" in job.notes.read_text()


@bash
def test_a_lost_process_is_started_again_until_nothing_comes_of_it(tmp_path: Path) -> None:
    job = Job(tmp_path)
    assert job((5, 137), (5, 134), (9, 76), (9, 1), (12, 0)) == 0
    assert job.noted() == ["srun"] * 5
    # Of four starts in a row that bring nothing the last gives up, over requeues too.
    assert job((12, 137), (12, 137), (12, 99)) == 99
    assert job((12, 99)) == 1
    assert job.noted() == ["srun"] * 5 + ["srun"] * 3 + ["scontrol"] + ["srun"]


@bash
def test_words_survive_the_shell_and_staged_files_are_read_from_the_node(tmp_path: Path) -> None:
    source, node = tmp_path / "my data" / "a.nc", tmp_path / "node"
    source.parent.mkdir()
    source.write_text("x")
    job = Job(
        tmp_path,
        "name=it's $HOME",
        f"data.paths=[{source},/b.nc]",
        site=(f"site.stage={node}", f"site.staged=['{source}']"),
    )
    assert job((0, 0)) == 0
    said = job.notes.read_text()
    assert "name=it's $HOME" in said
    assert f"data.paths=[{node}/a.nc,/b.nc] run.dir={job.run}" in said
    assert (node / "a.nc").read_text() == "x"
