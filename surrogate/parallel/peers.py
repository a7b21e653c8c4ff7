"""When a process of a run is lost: the others say so and end, so that whoever started them can start them again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
import socket
import sys
import traceback

import jax

from surrogate.core.types import UserError

EXIT_PEER_LOST = 76
"""Another process of the run is gone: the newest checkpoint stands, and the same command goes on from it."""

# What gloo, NCCL and JAX's coordination service say when the other end is no longer there.
_LOST = (
    "closed by peer", "reset by peer", "Broken pipe", "Socket closed", "heartbeat", "unhealthy",
    "CoordinationService", "remote process exited", "NCCL operation",
)  # fmt: skip


def is_loss(error: BaseException) -> bool:
    """Whether ``error``, or what caused it, tells of a lost process."""
    found: BaseException | None = error
    while found is not None:
        if any(text in str(found) for text in _LOST):
            return True
        found = found.__cause__ or found.__context__
    return False


@contextmanager
def ending_together() -> Iterator[None]:
    """Of several processes, end this one at once where it fails by itself.

    An ordinary exit waits minutes for the others, who wait for this one in a collective operation. A :class:`UserError`
    passes: all processes raise it. Where no error comes, as of a peer that hangs, JAX ends the process itself after
    ``launch.heartbeat_timeout`` seconds.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or jax.process_count() == 1:
            raise
        me = f"process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()}"
        if is_loss(error):
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            message, code = f"{me}: another process of this run was lost ({said})", EXIT_PEER_LOST
        else:
            traceback.print_exc()
            message, code = f"{me} failed, and ends the run for all", 1
        print(
            f"error: {message}; the newest checkpoint stands, the same command goes on from it",
            file=sys.stderr,
            flush=True,
        )
        sys.stdout.flush()
        os._exit(code)
