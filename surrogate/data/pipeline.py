"""The input pipeline: an order of samples that is a pure function of (seed, step), and prefetching.

Nothing has to be stored to resume: step ``s`` reads the same samples whatever came before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import functools
import queue
import threading
import time
from typing import Any

import numpy as np


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    # Philox is counter-based: the pair (seed, epoch) is its key, so epochs are independent streams.
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(size)


def batch_indices(seed: int, step: int, batch_size: int, size: int) -> np.ndarray:
    """Indices of the samples of step ``step``: (batch_size,) int64 below ``size``.

    Epochs are shuffled without replacement; a batch may straddle two of them.
    """
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = places // size
    return np.array([_permutation(seed, int(e), size)[p % size] for e, p in zip(epochs, places, strict=True)])


class Prefetcher:
    """Runs ``make(step)`` ahead in a thread and hands results out in order.

    Attributes:
        waited: seconds for which the consumer has waited so far.
    """

    def __init__(self, make: Callable[[int], Any], start: int, stop: int, depth: int, watchdog: float = 300.0) -> None:
        self.waited = 0.0
        self._watchdog = watchdog
        self._queue: queue.Queue[tuple[int, Any, BaseException | None]] = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._stop = stop
        self._start = start
        self._thread = threading.Thread(target=self._work, args=(make, start, stop), daemon=True, name="prefetch")
        self._thread.start()

    def _work(self, make: Callable[[int], Any], start: int, stop: int) -> None:
        for step in range(start, stop):
            try:
                item: tuple[int, Any, BaseException | None] = (step, make(step), None)
            except BaseException as error:  # handed to the consumer, which raises it
                item = (step, None, error)
            while not self._closed.is_set():
                try:
                    self._queue.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if self._closed.is_set() or item[2] is not None:
                return

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Pairs (step, item) in order.

        Raises:
            TimeoutError: when the next item is not there after ``watchdog`` seconds.
        """
        for _ in range(self._start, self._stop):
            began = time.perf_counter()
            try:
                step, item, error = self._queue.get(timeout=self._watchdog)
            except queue.Empty:
                raise TimeoutError(f"no batch arrived for {self._watchdog:.0f} s: the reader is stalled") from None
            self.waited += time.perf_counter() - began
            if error is not None:
                raise error
            yield step, item

    def close(self) -> None:
        self._closed.set()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._thread.join(timeout=10)
