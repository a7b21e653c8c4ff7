"""Batch scripts: every preset, what is quoted and staged, and what the script does with each exit code."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
import shutil
import subprocess
import time

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


@pytest.mark.parametrize(
    ("staged", "word", "expected"),
    [
        (["/s/a.nc", "/s/b.nc"], "data.paths=[/s/a.nc,/s/b.nc]", "data.paths=[NODE/a.nc,NODE/b.nc]"),
        (["/s/a.nc"], "data.paths=['/s/a.nc']", "data.paths=['NODE/a.nc']"),
        (["/d/x/"], "data.paths=[/d/x/*.nc,/d/x2,/e/d/x]", "data.paths=[NODE/x/*.nc,/d/x2,/e/d/x]"),
        (["/d/a"], "data.paths=[/d/a2,/d/a]", "data.paths=[/d/a2,NODE/a]"),
    ],
)
def test_every_staged_path_is_read_from_the_node_and_nothing_else(staged: list[str], word: str, expected: str) -> None:
    site, _ = read_site("generic", ["site.stage=/node", f"site.staged={staged}"])
    script = batch_script(site, [word], name="x", preset="generic")
    (line,) = (line for line in script.splitlines() if line.startswith("train="))
    shown = subprocess.run(
        ["bash", "-c", f'stage=NODE; run=r; {line}; printf "%s\\n" "${{train[@]}}"'], capture_output=True, text=True
    )
    assert shown.stdout.splitlines()[-2] == expected


def test_staged_paths_that_cannot_be_meant() -> None:
    site, _ = read_site("generic", ["site.stage=/node", "site.staged=[/d/a]"])
    with pytest.raises(UserError, match=r"no word of the command names /d/a"):
        batch_script(site, ["data.paths=[/d/ab]"], name="x", preset="generic")
    for staged in ("[/a/x,/b/x]", "[data]"):
        with pytest.raises(UserError, match="paths with a slash whose last parts differ"):
            read_site("generic", ["site.stage=/node", f"site.staged={staged}"])


@bash
def test_a_copy_that_was_cut_short_is_made_again_and_a_good_one_is_kept(tmp_path: Path) -> None:
    source, node = tmp_path / "a.nc", tmp_path / "node"
    source.write_text("x" * 100)
    job = Job(tmp_path, f"data.paths=[{source}]", site=(f"site.stage={node}", f"site.staged=[{source}]"))
    node.mkdir()
    (node / "a.nc.part.1").write_text("x")  # what an interrupted copy leaves
    assert job((0, 0)) == 0
    assert (node / "a.nc").read_text() == "x" * 100
    (node / "a.nc").write_text("kept")
    assert job((0, 0)) == 0
    assert (node / "a.nc").read_text() == "kept"
    os.utime(source, (time.time() + 60,) * 2)  # newer than the copy
    assert job((0, 0)) == 0
    assert (node / "a.nc").read_text() == "x" * 100


@bash
def test_pbs_starts_have_what_is_left_of_the_time(tmp_path: Path) -> None:
    """A lost process uses a part; a start that has nothing left is not made, and the job is submitted again."""
    site, _ = read_site("aurora", ["site.account=a", "site.time=00:02:03", "site.modules=[]", "site.setup=[]"])
    script = batch_script(site, [f"run.dir={tmp_path / 'run'}"], name="x", preset="aurora")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name, body in (
        ("timeout", f'echo "timeout $2" >> {tmp_path}/notes; sleep 2; exit 137'),
        ("qsub", f'echo "qsub $*" >> {tmp_path}/notes'),
        ("module", "exit 0"),
    ):
        (bin_ / name).write_text(f"#!/bin/bash\n{body}\n")
        (bin_ / name).chmod(0o755)
    environ = {
        "PATH": f"{bin_}:/usr/bin:/bin",
        "PBS_JOBID": "7.pbs",
        "PBS_O_WORKDIR": str(tmp_path),
        "SCRIPT": "job.sh",
        "USER": "me",
    }
    done = subprocess.run(["bash"], input=script, text=True, env=environ, timeout=60, capture_output=True)
    notes = (tmp_path / "notes").read_text().splitlines()
    left = [int(line.split()[1]) for line in notes if line.startswith("timeout")]
    assert left, notes
    assert left[0] <= 3, notes
    assert all(a > b > 0 for a, b in itertools.pairwise(left)), notes
    assert notes[-1].startswith("qsub -W depend=afterany:7.pbs"), done.stderr
    assert done.returncode == 75


def test_a_site_file_may_write_the_time_as_yaml_reads_it_and_must_be_yaml(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("system: mine\nsource: [https://a]\nread: 2026-01-01\ntime: 12:00:00\naccount: 0123\n")
    site, _ = read_site(str(file), [])
    assert (site.time, site.account, site.seconds()) == ("12:00:00", "0123", 12 * 3600)
    file.write_text("system: [mine\n")
    with pytest.raises(UserError, match=r"mine\.yaml is no YAML"):
        read_site(str(file), [])


def test_the_run_directory_is_where_run_root_says(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--script", "generic", "+experiment=climate", "run.root=/scratch/my runs", "name=dry"])
    assert "run='/scratch/my runs'/dry/\"slurm-$SLURM_JOB_ID\"" in capsys.readouterr().out
