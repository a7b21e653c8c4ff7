"""How the processes of one run find each other: Slurm, OpenMPI, PBS and Cray through mpi4py, or named by hand.

JAX's own runtime connects them; nothing here does. Tell each process its number and where the first one listens,
or start them with a launcher that is found in the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
import importlib.util
import ipaddress
import logging
import os
import socket
import sys
from typing import Literal

import jax

from surrogate.config import LaunchConfig
from surrogate.core.types import UserError
from surrogate.parallel.agree import gather_text, is_first

Method = Literal["none", "explicit", "slurm", "openmpi", "mpi4py"]

# Launchers that JAX knows through MPI alone: variable with the number of processes → name.
_MPI_LAUNCHERS = {"PALS_SIZE": "PALS", "PMI_SIZE": "PMI", "OMPI_COMM_WORLD_SIZE": "OpenMPI"}


def detect(config: LaunchConfig, environ: Mapping[str, str] = os.environ) -> Method:
    """How this process was started.

    Raises:
        UserError: for a launcher that is insisted on and not there, or one that needs mpi4py, which is missing.
    """
    if config.coordinator:
        return "explicit"
    if config.detect == "none":
        return "none"
    found: Method = "none"
    # A batch script has SLURM_NTASKS without a step: srun alone gives every process a number of its own.
    slurm = "SLURM_PROCID" in environ and _number(environ, "SLURM_STEP_NUM_TASKS") > 1
    mpi = next((name for key, name in _MPI_LAUNCHERS.items() if _number(environ, key) > 1), "")
    if slurm and config.detect in ("auto", "slurm"):
        found = "slurm"
    elif "OMPI_MCA_orte_hnp_uri" in environ and mpi and config.detect in ("auto", "openmpi"):
        found = "openmpi"
    elif mpi and config.detect in ("auto", "mpi4py"):
        if importlib.util.find_spec("mpi4py") is None:
            raise UserError(
                f"{mpi} started {_largest(environ)} processes that can find each other through mpi4py alone, which is not "
                "installed: pip install mpi4py, or set launch.coordinator, launch.num_processes and launch.process_id"
            )
        found = "mpi4py"
    if found == "none" and config.detect not in ("auto", "none"):
        raise UserError(f"launch.detect={config.detect}: no several processes of that launcher are found here")
    return found


def start(config: LaunchConfig) -> Method:
    """Connect to the other processes of this run, if there are any, and print one line of topology.

    To be called before the first use of a device; a second call does nothing.

    Raises:
        UserError: when the others are not there in time, or the coordinator is this host alone.
    """
    if jax.distributed.is_initialized():
        return "explicit"
    method = detect(config)
    if method == "none":
        return method
    check_coordinator(config.coordinator, known_hosts())
    try:
        jax.distributed.initialize(
            coordinator_address=config.coordinator or None,
            num_processes=config.num_processes or None,
            process_id=config.process_id if config.coordinator else None,
            cluster_detection_method={"slurm": "slurm", "openmpi": "ompi", "mpi4py": "mpi4py"}.get(method),
            initialization_timeout=config.initialization_timeout,
            heartbeat_timeout_seconds=config.heartbeat_timeout,
        )
    except (RuntimeError, ValueError) as error:
        where = f" at {config.coordinator}" if config.coordinator else ""
        raise UserError(
            f"the processes of this run did not find each other{where} within launch.initialization_timeout="
            f"{config.initialization_timeout} s ({method}): {str(error).splitlines()[0]}"
        ) from error
    hosts = gather_text(socket.gethostname())
    check_coordinator(config.coordinator, len(set(hosts)))
    if is_first():
        print(topology(method, hosts), file=sys.stderr, flush=True)
    else:
        logging.getLogger("surrogate").setLevel(logging.WARNING)  # the first process speaks for all
    return method


def topology(method: str, hosts: list[str]) -> str:
    """One line: processes, hosts, devices."""
    devices = jax.devices()
    per = sorted({sum(d.process_index == p for d in devices) for p in range(len(hosts))})
    each = str(per[0]) if len(per) == 1 else f"{per[0]} to {per[-1]}"
    names = ", ".join(sorted(set(hosts))[:4]) + (", ..." if len(set(hosts)) > 4 else "")
    return (
        f"{len(hosts)} processes ({method}) on {len(set(hosts))} host(s) ({names}), {len(devices)} devices "
        f"({devices[0].device_kind}), {each} a process"
    )


def known_hosts(environ: Mapping[str, str] = os.environ) -> int:
    """How many hosts the launcher speaks of; 1 where it says nothing."""
    nodes = _number(environ, "SLURM_STEP_NUM_NODES") or _number(environ, "SLURM_JOB_NUM_NODES")
    ranks, local = _number(environ, "OMPI_COMM_WORLD_SIZE"), _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE")
    return max(nodes, -(-ranks // local) if local else 0, 1)


def check_coordinator(address: str, hosts: int) -> None:
    """Raises: UserError: where other hosts are to find the first process at an address that means themselves."""
    name = address.rpartition(":")[0].strip("[]")
    if hosts > 1 and name and _is_loopback(name):
        raise UserError(
            f"launch.coordinator={address} means each host itself, and there are {hosts} hosts: give the name of the host "
            "of process 0"
        )


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _number(environ: Mapping[str, str], key: str) -> int:
    text = environ.get(key, "")
    return int(text) if text.isdigit() else 0


def _largest(environ: Mapping[str, str]) -> int:
    return max(_number(environ, key) for key in _MPI_LAUNCHERS)
