"""A Slurm of one node on this machine: munge, slurmctld and slurmd of the distribution, in a directory of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import os
from pathlib import Path
import secrets
import shutil
import socket
import subprocess
import sys
import time

import pytest

WAIT = 600.0  # for a machine that has other things to do

CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=60
MinJobAge=7200
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=localhost NodeAddr=127.0.0.1 CPUs=8 RealMemory=2000
PartitionName=low Nodes=localhost Default=YES PriorityTier=1 GraceTime=120
PartitionName=high Nodes=localhost PriorityTier=10 PreemptMode=OFF
"""


class Slurm:
    """Commands of the cluster that the fixture started."""

    def __init__(self, root: Path) -> None:
        self.root = root
        own = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
        self.environ = own | {
            "SLURM_CONF": str(root / "slurm.conf"), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1", "XLA_FLAGS": "",
        }  # fmt: skip

    def __call__(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=WAIT)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What ``scontrol`` knows of a job."""
        words = self("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def process(self, number: str, rank: int) -> int:
        """The process id of a rank of the job's running step."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    environ = (entry / "environ").read_bytes().split(b"\0")
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    own = {f"SLURM_JOB_ID={number}".encode(), f"SLURM_PROCID={rank}".encode()} <= set(environ)
                    if own and b"surrogate.train" in words and b"SLURM_STEP_ID=" not in environ:
                        return int(entry.name)
        raise AssertionError(f"job {number} has no process {rank}")


def wait_for(what: str, condition: Callable[[], object], explain: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {WAIT:g} s\n{explain()}"
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def running() -> Iterator[Slurm]:
    programs = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    missing = [name for name in programs if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons need root to start jobs")
    # Not below pytest's own directory: the path of a socket may have about a hundred characters.
    root = Path("/tmp", f"surrogate-slurm-{secrets.token_hex(4)}")
    for name in ("state", "spool"):
        (root / name).mkdir(parents=True)
    key = root / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    (root / "slurm.conf").write_text(CONFIGURATION.format(root=root, ports=(free_port(), free_port())))
    cluster = Slurm(root)
    daemons: list[subprocess.Popen[bytes]] = []

    def daemon(*command: str) -> None:
        program = shutil.which(command[0], path=path)
        with (root / f"{command[0]}.out").open("wb") as output:
            daemons.append(subprocess.Popen([str(program), *command[1:]], env=cluster.environ, stdout=output,
                                            stderr=subprocess.STDOUT))  # fmt: skip

    try:
        daemon("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={root}/munge.socket",
               f"--pid-file={root}/munged.pid", f"--log-file={root}/munged.log", f"--seed-file={root}/munged.seed")  # fmt: skip
        wait_for("munge's socket", (root / "munge.socket").exists)
        daemon("slurmctld", "-D", "-c", "-f", str(root / "slurm.conf"))
        daemon("slurmd", "-D", "-N", "localhost", "-f", str(root / "slurm.conf"))

        def idle() -> bool:
            assert all(d.poll() is None for d in daemons), logs()
            done = subprocess.run(
                ["sinfo", "--noheader", "--format=%T"], env=cluster.environ, capture_output=True, text=True
            )
            return "idle" in done.stdout

        def logs() -> str:
            return "\n".join(p.read_text(errors="replace")[-1500:] for p in sorted(root.glob("*.[lo][ou][gt]")))

        wait_for("an idle node", idle, logs)
        yield cluster
        subprocess.run(["scancel", "--user=root"], env=cluster.environ, capture_output=True)
        wait_for("the jobs' end", lambda: not cluster("squeue", "--noheader", "--states=running,completing"))
    finally:
        for process in reversed(daemons):
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(root, ignore_errors=True)
