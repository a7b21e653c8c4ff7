"""Leaving in order when asked to: a flag for the loop, and a forced exit when the loop does not come round in time."""

from __future__ import annotations

from collections.abc import Sequence
import logging
import os
import select
import signal
import threading
import time
from types import FrameType, TracebackType

log = logging.getLogger(__name__)

EXIT_USER_ERROR = 2
EXIT_STOPPED = 75
"""Stopped on request with everything saved: start the same command again to go on (EX_TEMPFAIL of sysexits.h)."""
EXIT_STOPPED_SLURM = 99
"""The same inside a Slurm job, whose usual ``RequeueExit`` it is."""
EXIT_INTERRUPTED = 130
"""A second Ctrl-C: left at once, the newest checkpoint stands."""


def stopped_exit_code() -> int:
    """The code for "stopped and saved": 99 inside a Slurm job, 75 elsewhere.

    Slurm gives ``SLURM_JOB_ID`` to batch and interactive jobs alike; in the latter nobody looks at the code. A site whose
    slurm.conf lacks ``RequeueExit=99`` does nothing by itself: the scripts of :mod:`surrogate.parallel.script` ask for the
    job to be requeued when they see either code.
    """
    return EXIT_STOPPED_SLURM if "SLURM_JOB_ID" in os.environ else EXIT_STOPPED


class StopRequest:
    """Context manager; ``requested`` becomes true at the first SIGTERM, SIGINT, SIGUSR1 or SIGUSR2.

    A watching thread is told of the signal by the C-level handler, through a pipe, so that the
    clock starts even while the main thread sits in a long compilation, where no Python handler runs.
    ``limit - margin`` seconds after the first signal it ends the process with :func:`stopped_exit_code`;
    a second SIGINT ends it at once with code 130.

    Args:
        limit: seconds that whoever sent the signal will wait.
        margin: seconds of these kept for the end of the process itself.
        force: False in a notebook, whose process must live: nothing is forced, and a second SIGINT raises
            ``KeyboardInterrupt`` as usual.

    Outside the main thread no handler can be installed; then only :meth:`request` sets the flag.
    """

    def __init__(
        self,
        limit: float = 30.0,
        margin: float = 2.0,
        *,
        force: bool = True,
        signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2),
    ) -> None:
        if not 0 <= margin < limit:
            raise ValueError(f"margin {margin} s is not within the limit of {limit} s")
        self._seconds = limit - margin
        self._force = force
        self._signals = tuple(signals)
        self._reason: str | None = None
        self._interrupts = 0
        self._old: dict[int, object] = {}
        self._old_wakeup = -1
        self._pipe: tuple[int, int] | None = None
        self._watcher: threading.Thread | None = None

    @property
    def requested(self) -> bool:
        """Whether the loop should save and leave; costs an attribute look-up."""
        return self._reason is not None

    @property
    def reason(self) -> str | None:
        """The name of the first signal, e.g. ``"SIGTERM"``, or what :meth:`request` was given."""
        return self._reason

    def request(self, reason: str) -> None:
        """Set the flag from code, without a time limit."""
        if self._reason is None:
            self._reason = reason

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        self._pipe = reader, writer
        self._old_wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in self._signals:
            self._old[number] = signal.signal(number, self._handle)
        self._watcher = threading.Thread(target=self._watch, args=(reader,), name="stop-request", daemon=True)
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pipe is None:
            return
        for number, handler in self._old.items():
            # None: a handler that Python did not install and cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]
        self._old.clear()
        signal.set_wakeup_fd(self._old_wakeup)
        reader, writer = self._pipe
        self._pipe = None
        os.write(writer, b"\0")  # no signal has the number 0: the watcher's word to end
        if self._watcher is not None:
            self._watcher.join()
        os.close(reader)
        os.close(writer)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Sets a flag only: locks, logging and new threads can deadlock inside a handler.
        self.request(signal.Signals(number).name)
        if number == signal.SIGINT and not self._force:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt

    def _watch(self, reader: int) -> None:
        deadline: float | None = None
        interrupts = 0
        while True:
            wait = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([reader], [], [], wait)[0]:
                _leave(f"not done {self._seconds:g} s after {self._reason}: leaving now", stopped_exit_code())
            for number in os.read(reader, 64):
                if number == 0:
                    return
                if number not in self._signals:
                    continue
                name = signal.Signals(number).name
                self.request(name)
                interrupts += number == signal.SIGINT
                if not self._force:
                    continue
                if interrupts > 1:
                    _leave("second interrupt: leaving at once", EXIT_INTERRUPTED)
                if deadline is None:
                    deadline = time.monotonic() + self._seconds
                    log.warning("%s: saving and leaving, within %g s", name, self._seconds)


def _leave(message: str, code: int) -> None:
    # The main thread may hold any lock, logging's and stderr's among them, so the bare system call speaks.
    os.write(2, f"{message}; the newest checkpoint stands, the same command goes on from it\n".encode())
    os._exit(code)
