"""What a person sees while waiting: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import logging
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

log = logging.getLogger(__name__)

REDRAW_SECONDS = 0.2
WINDOW_SECONDS = 30.0


def span(seconds: float) -> str:
    """``75`` → ``"1:15"``, ``3725`` → ``"1:02:05"``."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Bar:
    """A task of ``total`` units, as a context manager with :meth:`advance`.

    Drawing is throttled, so a call costs about a microsecond between redraws. On a terminal the bar is live on
    standard error; elsewhere a line goes to the log every ``interval`` seconds and one at the end.

    Args:
        description: e.g. ``"simulating"``.
        total: units in all; None when unknown.
        unit: plural name of what is counted, e.g. ``"days"``.
        start: units done earlier (a resumed task).
        interval: seconds between plain lines.
        live: force the live bar on or off; None asks whether standard error is a terminal.
        enabled: False shows nothing (all processes but the first).
        clock: seconds; for tests.
    """

    def __init__(
        self,
        description: str,
        total: float | None = None,
        unit: str = "",
        *,
        start: float = 0,
        interval: float = 30.0,
        live: bool | None = None,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = start
        self._start, self._interval, self._clock = start, interval, clock
        self._live = enabled and (sys.stderr.isatty() if live is None else live)
        self._enabled = enabled
        self._rich: RichProgress | None = None
        self._task: Any = None
        self._began = self._next = clock()
        self._marks: deque[tuple[float, float]] = deque([(self._began, start)])

    def __enter__(self) -> Bar:
        self._began = now = self._clock()
        self._marks = deque([(now, self.done)])
        self._next = now + (REDRAW_SECONDS if self._live else self._interval)
        if self._live:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}"),
            )
            # Two redraws a second from rich's own thread keep the spinner alive while a step compiles.
            self._rich = Progress(*columns, console=Console(stderr=True), refresh_per_second=2, transient=True)
            self._task = self._rich.add_task(
                self.description, total=self.total, completed=int(self.done), text="starting"
            )
            self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich is not None:
            self._rich.stop()
            self._rich = None
        if self._enabled:
            log.info("%s: %s", self.description, self.closing(finished=kind is None))

    def advance(self, count: float = 1) -> None:
        """Count ``count`` more units."""
        self.done += count
        self._tick()

    def _tick(self) -> None:
        now = self._clock()
        if now < self._next:
            return
        self._next = now + (REDRAW_SECONDS if self._live else self._interval)
        self._marks.append((now, self.done))
        while len(self._marks) > 2 and now - self._marks[1][0] > max(WINDOW_SECONDS, self._interval):
            self._marks.popleft()
        if self._rich is not None:
            self._rich.update(self._task, completed=self.done, text=self.text())
        elif self._enabled:
            log.info("%s: %s", self.description, self.text())

    def rate(self) -> float:
        """Units a second over about the last half minute."""
        (then, before), (now, done) = self._marks[0], self._marks[-1]
        return (done - before) / (now - then) if now > then else 0.0

    def _counted(self) -> str:
        of = "" if self.total is None else f"/{self.total:.10g}"
        return f"{self.done:.10g}{of} {self.unit}".rstrip()

    def _left(self) -> list[str]:
        rate = self.rate()
        if self.total is None or rate <= 0:
            return []
        return [f"{span((self.total - self.done) / rate)} left"]

    def text(self) -> str:
        """The line's content while running."""
        rate = self.rate()
        speed = [f"{rate:.3g} {self.unit or 'a second'}{'/s' if self.unit else ''}"] if rate > 0 else []
        return "  ".join([self._counted(), *speed, *self._left()])

    def closing(self, *, finished: bool) -> str:
        """The line at the end."""
        seconds = self._clock() - self._began
        return f"{self._counted()} in {span(seconds)}" + ("" if finished else ", then stopped")


def track(description: str, total: float | None = None, unit: str = "", **options: Any) -> Bar:
    """``with track("simulating", 730, "days") as bar: bar.advance()``; see :class:`Bar` for the options."""
    return Bar(description, total, unit, **options)


class Progress(Bar):
    """Training's bar: loss, samples a second, time left, and the share of time that the loop waited for input.

    Args:
        total_steps: the step at which training ends.
        start_step: steps done before (resumed).
        samples_per_step: the global batch size.
        description, interval, live, enabled, clock: see :class:`Bar`.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        samples_per_step: int = 1,
        *,
        description: str = "training",
        interval: float = 30.0,
        live: bool | None = None,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            description, total_steps, "steps", start=start_step, interval=interval, live=live, enabled=enabled,
            clock=clock,
        )  # fmt: skip
        self._samples = samples_per_step
        self._loss: float | None = None
        self._first: tuple[float, float] | None = None
        self._last = self._began
        self._waited = self._waited_first = 0.0

    def __enter__(self) -> Progress:
        super().__enter__()
        return self

    def update(self, step: int, *, loss: float | None = None, wait: float | None = None) -> None:
        """Say that ``step`` steps are done; an earlier step than the last (whose loss came late) moves nothing back.

        Args:
            step: steps done in all, those before a resume included.
            loss: a number that is on the host already; None keeps the one shown. (A device array here
                would make the loop wait for the device.)
            wait: seconds that the loop has waited for input since it began; None: no more than before.
        """
        self.done = max(self.done, step)
        if loss is not None:
            self._loss = loss
        if wait is not None:
            self._waited = wait
        self._last = self._clock()
        if self._first is None:
            # The first step compiles: speed, time left and waiting are counted from its end.
            self._first = self._last, step
            self._waited_first = self._waited
            self._marks = deque([self._first])
        self._tick()

    def summary(self) -> dict[str, float | None]:
        """``samples_per_s``, ``step_ms``, ``input_wait_fraction`` since the end of this run's first step.

        None where fewer than two steps were counted.
        """
        seconds = 0.0 if self._first is None else self._last - self._first[0]
        steps = 0.0 if self._first is None else self.done - self._first[1]
        if seconds <= 0 or steps <= 0:
            return {"samples_per_s": None, "step_ms": None, "input_wait_fraction": None}
        return {
            "samples_per_s": steps * self._samples / seconds,
            "step_ms": 1e3 * seconds / steps,
            "input_wait_fraction": min(1.0, (self._waited - self._waited_first) / seconds),
        }

    def text(self) -> str:
        parts = [self._counted()]
        if self._loss is not None:
            parts.append(f"loss {self._loss:.4g}")
        if (rate := self.rate()) > 0:
            parts.append(f"{rate * self._samples:.3g} samples/s")
        parts += self._left()
        if (share := self.summary()["input_wait_fraction"]) is not None:
            parts.append(f"input wait {share:.1%}")
        return "  ".join(parts)
