"""A Slurm of one node on this machine, for the tests of this directory."""

from __future__ import annotations

from collections.abc import Iterator

from cluster import Slurm, running
import pytest


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    with running() as cluster:
        yield cluster
