"""A progress bar for work that happens below the layer that draws bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import logging
import sys
import time

log = logging.getLogger(__name__)


@contextmanager
def bar_for(description: str, unit: str) -> Iterator[Callable[[float, float], None]]:
    """A callback ``(done, total)`` drawn as a bar on a terminal, as a line every 20 s elsewhere; nothing if never called."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(description, total=None, visible=False)
            yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)
        return
    began = last = time.monotonic()

    def plain(done: float, total: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 20 or done >= total:
            last = now
            log.info("%s: %d of %d %s in %.0f s", description, done, total, unit, now - began)

    yield plain
