"""A batch script for a site: the command under ``srun`` or ``mpiexec``, and going on after a time limit or a lost process.

The script, not the site's configuration, decides what follows: it asks for the job to be put back into the queue itself
where the run was stopped and saved, and starts the processes again where one of them was lost.
"""

from __future__ import annotations

from collections.abc import Sequence
import re
import shlex

from surrogate.core.types import UserError
from surrogate.parallel.site import SiteConfig

STOPPED = "75|99|143"
"""Exit codes of a run that was stopped and saved (surrogate.run.signals), or told to stop before it could listen (143)."""


def batch_script(site: SiteConfig, words: Sequence[str], *, name: str, preset: str, root: str = "runs") -> str:
    """The text of a script for ``sbatch`` or ``qsub``.

    Args:
        words: of ``python -m surrogate.train``; without ``run.dir`` the run gets one by the number of its job.
        name: of the job, and of the directory of its runs in ``root``.

    Raises:
        UserError: for a staged path that no word names.
    """
    for path in site.staged:
        if not any(path.rstrip("/") in _staged(site).findall(word) for word in words):
            raise UserError(f"site.staged: no word of the command names {path}, so nothing would read its copy")
    job = re.sub(r"[^\w.-]", "-", name) or "surrogate"
    given = [word.partition("=")[2] for word in words if word.lstrip("+").startswith("run.dir=")]
    words = [word for word in words if not word.lstrip("+").startswith("run.dir=")]
    slurm = site.scheduler == "slurm"
    number = "slurm-$SLURM_JOB_ID" if slurm else "pbs-${PBS_JOBID%%.*}"
    run = shlex.quote(given[-1]) if given else f'{shlex.quote(root)}/{job}/"{number}"'
    head = _slurm_head(site, job) if slurm else _pbs_head(site, job)
    comment = [
        f"# {site.system}: {site.nodes} node(s), {site.processes} process(es) on each.",
        f"# Written by python -m surrogate.launch --script {preset}, after {' '.join(site.source)}, read {site.read}.",
    ]
    begin = ["set -o pipefail", "export PYTHONUNBUFFERED=1"]
    if not slurm:
        begin.append('cd "$PBS_O_WORKDIR"')
    begin += [f"module load {shlex.quote(module)} || exit 2" for module in site.modules]
    begin += [f"module load {shlex.quote(m)} || echo 'no module {m} here: going on without' >&2"
              for m in site.modules_optional]  # fmt: skip
    begin += [f"export {key}={shlex.quote(value)}" for key, value in site.environment.items()]
    begin += site.setup
    command = ["-m", "surrogate.train", *words]
    train = f'train=({site.python} {" ".join(_quoted(word, site) for word in command)} run.dir="$run")'
    body = [f"run={run if slurm else _resumable(run)}", *_staging(site), train, "", *_loop(site)]
    return "\n".join(["#!/bin/bash -l", *head, *comment, "", *begin, "", *body]) + "\n"


def _slurm_head(site: SiteConfig, job: str) -> list[str]:
    options = [f"--job-name={job}"]
    for key in ("account", "partition", "qos", "constraint"):
        if value := getattr(site, key):
            options.append(f"--{key}={value}")
    options += [f"--nodes={site.nodes}", f"--ntasks-per-node={site.processes}", f"--time={site.time}"]
    if site.cpus:
        options.append(f"--cpus-per-task={site.cpus}")
    if site.gpus:
        options.append(site.gpus_option.format(gpus=site.gpus))
    # To the processes, not to this shell (which "B:" would do): they agree on a step, save and end.
    options += [f"--signal=TERM@{site.signal}", "--requeue", "--open-mode=append", "--output=%x-%j.out"]
    return [f"#SBATCH {option}" for option in (*options, *site.options)]


def _pbs_head(site: SiteConfig, job: str) -> list[str]:
    options = [f"-N {job}", f"-l select={site.nodes}", f"-l walltime={site.time}", "-r y"]
    options += [f"-A {site.account}"] if site.account else []
    options += [f"-q {site.partition}"] if site.partition else []
    return [f"#PBS {option}" for option in (*options, *site.options)]


def _resumable(run: str) -> str:
    """PBS gives a job that is submitted again another number: the first one's directory comes along."""
    return f'"${{RUN:-}}"\n[ -n "$run" ] || run={run}'


def _quoted(word: str, site: SiteConfig) -> str:
    """``word`` for the shell, with the staged files where the nodes have them."""
    pieces = _staged(site).split(word) if site.staged else [word]
    texts = [f'"$stage"/{shlex.quote(_last(p))}' if n % 2 else shlex.quote(p) for n, p in enumerate(pieces) if p]
    return "".join(texts)


def _staged(site: SiteConfig) -> re.Pattern[str]:
    """A staged path where it is a whole value, or the beginning of one."""
    paths = sorted((re.escape(path.rstrip("/")) for path in site.staged), key=len, reverse=True)
    return re.compile(r"""(?<![^=\[{,:'"\s])(""" + "|".join(paths) + r""")(?=$|[\]},'"\s/*])""")


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


# A copy gets its name when it is complete: one that was cut short is made again.
_COPY = (
    'mkdir -p "$0" || exit 2; for from in "$@"; do to="$0/${from##*/}"; part="$to.part.$$"; '
    'if [ ! -e "$to" ] || [ "$from" -nt "$to" ]; then '
    'cp -rL -- "$from" "$part" && rm -rf -- "$to" && mv -- "$part" "$to" || exit 2; fi; done'
)


def _staging(site: SiteConfig) -> list[str]:
    if not site.staged:
        return []
    paths = " ".join(shlex.quote(path.rstrip("/")) for path in site.staged)
    once = ('srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1' if site.scheduler == "slurm"
            else f"mpiexec -n {site.nodes} -ppn 1")  # fmt: skip
    return [
        f'stage="{site.stage}"',
        # One copy a node; a copy that cannot be made ends the job here, not as a missing file on one node of many.
        f"{once} bash -c '{_COPY}' \"$stage\" {paths} || exit 2",
    ]


def _loop(site: SiteConfig) -> list[str]:
    extra = " ".join(site.run + ((site.container,) if site.container else ()))
    if site.scheduler == "slurm":
        # A bad exit of one must not end the others: where all were asked to stop, some are still writing.
        cpus = [f"--cpus-per-task={site.cpus}"] if site.cpus else []  # not inherited from sbatch since Slurm 22.05
        words = ["srun", "--kill-on-bad-exit=0", "--wait=0", *cpus, *([extra] if extra else []), '"${train[@]}"']
        start = [f"    {' '.join(words)}", "    code=$?"]
        # Where it may not be asked for, RequeueExit=99 of the site's slurm.conf does it.
        queue = ['            scontrol requeue "$SLURM_JOB_ID"', "            exit 99 ;;"]
    else:
        total, depth = site.nodes * site.processes, [f"--depth={site.cpus}"] if site.cpus else []
        words = ['timeout --signal=TERM "$left" mpiexec', f"-n {total} -ppn {site.processes}", *depth]
        words += [*([extra] if extra else []), '"${train[@]}"']
        start = [
            f"    left=$(({site.seconds() - site.signal} - SECONDS))    # what staging and earlier starts have not used",
            f'    if [ "$left" -gt 0 ]; then {" ".join(words)}; code=$?; else code=124; fi',
        ]
        queue = [
            '            if [ -n "${SCRIPT:-}" ]; then',
            '                qsub -W depend=afterany:"$PBS_JOBID" -v RUN="$run",SCRIPT="$SCRIPT" "$SCRIPT"',
            "            else",
            '                echo "to go on: qsub -v RUN=$run SCRIPT; submitted with qsub -v SCRIPT=PATH it does so itself" >&2',
            "            fi",
            "            exit 75 ;;",
        ]
    stopped = STOPPED if site.scheduler == "slurm" else f"{STOPPED}|124"  # 124: timeout told them to stop
    return [
        "newest() { ls \"$run/checkpoints\" 2>/dev/null | grep -xE '[0-9]+' | sort -n | tail -n 1 | grep . || echo 0; }",
        "while :; do",
        "    before=$(newest)",
        *start,
        "    case $code in",
        '        0) rm -f "$run/fruitless_starts"; exit 0 ;;    # complete',
        "        2|130) exit $code ;;    # a mistake for a person to mend; interrupted",
        "    esac",
        '    mkdir -p "$run"',
        '    fruitless=$(cat "$run/fruitless_starts" 2>/dev/null || echo 0)',
        '    if [ "$(newest)" -gt "$before" ]; then fruitless=0; else fruitless=$((fruitless + 1)); fi',
        '    echo "$fruitless" > "$run/fruitless_starts"',
        f'    if [ "$fruitless" -gt {site.retries} ]; then',
        '        echo "$fruitless starts in a row without a newer checkpoint in $run: giving up (exit code $code)" >&2',
        "        exit 1",
        "    fi",
        "    case $code in",
        f"        {stopped})    # stopped and saved: the time is over, or the nodes are wanted for something else",
        *queue,
        "    esac",
        '    echo "a process was lost (exit code $code): starting again from step $(newest) of $run" >&2',
        "done",
    ]
