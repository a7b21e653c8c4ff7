"""Blocks of a source worked on by Dask's workers: of this machine, or of a cluster that is running."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
import logging
from pathlib import Path
from typing import Any

from surrogate.core.types import UserError
from surrogate.data.blocks import Block, Result
from surrogate.data.source import Source

log = logging.getLogger(__name__)

AHEAD = 2
"""Blocks handed out a worker: one at work, one waiting."""
_DEATHS = 3
_KEPT = 2**30
"""Bytes that a worker keeps for its next blocks: Dask's default gives all back, and half of the time fetches them again."""
_WAIT = 60.0
"""Seconds for the first worker of a cluster to join."""

# What this process has opened as a worker, by the key of its preparation: one, for a worker serves one after the other.
_opened: dict[str, Source] = {}


def _work(key: str, open_source: Callable[[], Source], function: Callable[[Source, Any], Any], block: Any) -> Any:
    """In a worker: open the source once, then call ``function``."""
    import dask

    # Files are read as Dask arrays: by this worker itself, and not by handing tasks to the cluster that waits for it.
    with dask.config.set(scheduler="synchronous"):
        if key not in _opened:
            _opened.clear()
            _opened[key] = open_source()
        return function(_opened[key], block)


def _itself(function: Callable[[Source, Any], Any]) -> Callable[[Source, Any], Any]:
    return function


class Workers:
    """See :class:`~surrogate.data.blocks.Blocks`.

    Args:
        client: a ``distributed.Client``.
        open_source: opens the source in a worker, which sees the same files.
    """

    def __init__(self, client: Any, open_source: Callable[[], Source]) -> None:
        from dask.base import tokenize

        self.client, self.open_source = client, open_source
        self._key = tokenize(client.id, open_source)

    def each(self, function: Callable[[Source, Block], Result], blocks: Sequence[Block]) -> Iterator[Result]:
        """In order; a few blocks ahead of the one that is taken, so that results do not pile up.

        Raises:
            UserError: when the workers of a block die again and again, or lack a package.
        """
        from distributed import KilledWorker

        # A task of its own, sent once: it may hold fields, such as a climatology, and is made again where its worker dies.
        sent = self.client.submit(_itself, function, pure=False)
        waiting: deque[Any] = deque()
        ahead = AHEAD * max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))
        rest = iter(blocks)
        try:
            while True:
                while len(waiting) < ahead and (block := next(rest, None)) is not None:
                    waiting.append(self.client.submit(_work, self._key, self.open_source, sent, block, pure=False))
                if not waiting:
                    return
                yield waiting.popleft().result()
        except KilledWorker as error:
            raise UserError(
                "workers died again and again at one block, probably for want of memory: take fewer workers= on this machine, "
                "or give each more memory; the same command goes on from here"
            ) from error
        except ModuleNotFoundError as error:
            raise UserError(
                f"a worker cannot import {error.name}: install what this process has where workers run"
            ) from error
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def working(workers: str, scheduler: str) -> Iterator[Any]:
    """A client of ``workers`` processes on this machine, or of the running cluster at ``scheduler``.

    Args:
        workers: a number; empty with ``scheduler``.
        scheduler: ``tcp://host:port``, or the scheduler's file; empty with ``workers``.

    Raises:
        UserError: for anything else, where ``distributed`` is not installed, or where no scheduler or worker answers.
    """
    if workers and scheduler:
        raise UserError(
            f"workers={workers} starts a cluster here and scheduler={scheduler} names a running one: give one"
        )
    if not scheduler and not (workers.isascii() and workers.isdigit() and int(workers) > 0):
        raise UserError(f"workers={workers}: expected a number of processes, such as workers=4")
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UserError(
            f"workers= and scheduler= need Dask's distributed: pip install 'surrogate[dask]' ({error})"
        ) from None
    logging.getLogger("distributed").setLevel(logging.ERROR)
    environ = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), _KEPT) | {"MALLOC_ARENA_MAX": 1}
    more = {f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in environ.items()}
    with dask.config.set({"distributed.scheduler.allowed-failures": _DEATHS} | more):
        if not scheduler:
            # One thread each: tensorstore compresses and reads in threads of its own.
            with (
                LocalCluster(n_workers=int(workers), threads_per_worker=1, dashboard_address=None) as cluster,
                Client(cluster) as client,
            ):
                yield client
            return
        try:
            client = (
                Client(scheduler_file=scheduler, timeout="30s")
                if Path(scheduler).is_file()
                else Client(scheduler, timeout="30s")
            )
        except (OSError, ValueError) as error:
            raise UserError(f"scheduler={scheduler}: no Dask scheduler answers there ({error})") from error
        with client:
            try:
                client.wait_for_workers(1, timeout=_WAIT)
            except TimeoutError:
                raise UserError(f"scheduler={scheduler}: no worker joined the cluster within {_WAIT:.0f} s") from None
            yield client
