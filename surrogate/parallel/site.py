"""Sites: what a computing centre's batch system wants to know, one YAML file each in ``conf/site/``."""

from __future__ import annotations

from dataclasses import dataclass, field
import re
from typing import Literal


@dataclass(frozen=True)
class SiteConfig:
    """A site's preset; every key can be set as ``site.key=value``.

    Attributes:
        system: what it is.
        source: addresses of the documentation that it follows, ``read`` on that date.
        scheduler: ``slurm``, or ``pbs`` with Cray's ``mpiexec``.
        account: the project that pays; ``partition`` (of PBS: the queue), ``qos`` and ``constraint`` as the site has them.
        nodes: and ``time``, hours:minutes:seconds.
        processes: of a node; ``cpus`` of each, 0 for the scheduler's default.
        gpus: of a node, asked for with ``gpus_option``; every process sees all of them and takes its own.
        options: further directives.
        modules: to load; of ``modules_optional`` those that there are.
        environment: variables to set.
        setup: lines of shell before the run, such as the activation of an environment.
        run: further words for ``srun`` or ``mpiexec``.
        container: words between these and the command, such as ``apptainer exec --nv image.sif``, or options of
            ``srun`` for a container, such as ``--environment=./surrogate.toml``.
        python: the interpreter.
        stage: a directory on every node's own disk; the files and directories ``staged`` are copied there first, and the
            command reads them from there. It must not depend on the job: what is read is compared when a run goes on.
        signal: seconds before the end of the time limit at which all processes are told to save.
        retries: starts in a row without a newer checkpoint after which the job gives up.
    """

    system: str
    source: tuple[str, ...]
    read: str
    scheduler: Literal["slurm", "pbs"] = "slurm"
    account: str = ""
    partition: str = ""
    qos: str = ""
    constraint: str = ""
    nodes: int = 1
    time: str = "01:00:00"
    processes: int = 1
    cpus: int = 0
    gpus: int = 0
    gpus_option: str = "--gpus-per-node={gpus}"
    options: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    modules_optional: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    container: str = ""
    python: str = "python"
    stage: str = ""
    staged: tuple[str, ...] = ()
    signal: int = 120
    retries: int = 3

    def __post_init__(self) -> None:
        for name in ("nodes", "processes", "signal", "retries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if not re.fullmatch(r"(\d+-)?\d+:\d\d:\d\d", self.time) or (self.scheduler == "pbs" and "-" in self.time):
            raise ValueError(f"time={self.time!r} must be hours:minutes:seconds, such as 02:00:00")
        if self.signal >= self.seconds():
            raise ValueError(f"signal={self.signal} s before the end leaves nothing of time={self.time}")
        if self.staged and not self.stage:
            raise ValueError("staged files need a directory: set stage")
        names = [path.rstrip("/").rpartition("/")[2] for path in self.staged]
        if len(set(names)) < len(names) or not all(
            "/" in path.rstrip("/") and name for path, name in zip(self.staged, names, strict=True)
        ):
            raise ValueError(f"staged={list(self.staged)} must be paths with a slash whose last parts differ")
        if bad := [text for text in self._texts() if "\n" in text]:
            raise ValueError(f"{bad[0]!r} spans several lines")

    def _texts(self) -> list[str]:
        single = (self.account, self.partition, self.qos, self.constraint, self.container, self.python, self.stage)
        return [*single, *self.options, *self.modules, *self.run, *self.staged, *self.environment.values()]

    def seconds(self) -> int:
        """The time limit."""
        days, _, clock = self.time.rpartition("-")
        hours, minutes, seconds = (int(part) for part in clock.split(":"))
        return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds
