"""What the processes of a run do together, so that none waits for another that has given up."""

from __future__ import annotations

from collections.abc import Callable
import json
import socket
from typing import Any, TypeVar

import jax
import numpy as np

from surrogate.core.types import UserError

T = TypeVar("T")


def is_first() -> bool:
    """Whether this is the process that writes files and speaks; true where it is the only one."""
    return jax.process_index() == 0


def gather_text(text: str) -> list[str]:
    """``text`` of every process, in their order. A collective operation."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    data = np.frombuffer(text.encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.array([len(data)], np.int32))).ravel()
    padded = np.zeros(max(int(lengths.max()), 1), np.uint8)
    padded[: len(data)] = data
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [row[:length].tobytes().decode() for row, length in zip(rows, lengths, strict=True)]


def any_process(flag: bool) -> bool:
    """Whether ``flag`` holds on any process. A collective operation."""
    return "1" in gather_text("1" if flag else "0")


def all_do(fn: Callable[[], T]) -> T:
    """``fn()`` on every process; where one cannot, all raise its error.

    Raises:
        UserError: that of the first process that has one, with its host's name.
    """
    if jax.process_count() == 1:
        return fn()
    result: Any = None
    failure: UserError | None = None
    try:
        result = fn()
    except UserError as error:
        failure = error
    said = gather_text("" if failure is None else f"{socket.gethostname()}: {failure}")
    wrong = [(i, text) for i, text in enumerate(said) if text]
    if failure is not None:
        raise failure
    if wrong:
        number, text = wrong[0]
        raise UserError(f"process {number} on {text}")
    return result


def first_does(fn: Callable[[], T]) -> T:
    """``fn()`` on the first process alone; its result, which has to be JSON, on all.

    Raises:
        UserError: what ``fn`` raised, on all processes.
    """
    if jax.process_count() == 1:
        return fn()
    answer: dict[str, Any] = {}
    result: Any = None
    failure: UserError | None = None
    if is_first():
        try:
            result = fn()
            answer = {"result": result}
        except UserError as error:
            failure, answer = error, {"error": str(error)}
    answer = json.loads(gather_text(json.dumps(answer))[0])
    if failure is not None:
        raise failure
    if "error" in answer:
        raise UserError(answer["error"])
    return result if is_first() else answer["result"]
