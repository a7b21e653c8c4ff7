"""The goodput ledger: what the seconds of a run went to, over all its sessions, and how many of them were lost.

``goodput.jsonl`` in the run directory gets a line now and then with the seconds of this session by kind so far. What a
session had done beyond the checkpoint that the next one goes on from was lost: it is done again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import time
from typing import Any, Literal, get_args

from surrogate.run.provenance import append_jsonl, read_jsonl

Kind = Literal["opening", "compiling", "restoring", "reading", "stepping", "saving", "validating", "scoring"]
KINDS: tuple[str, ...] = get_args(Kind)


class Goodput:
    """Seconds of one session by kind; on the first process they are written to ``path``."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self.session = 0
        self.earlier = dict.fromkeys((*KINDS, "lost"), 0.0)

    @contextmanager
    def during(self, kind: Kind) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(kind, time.perf_counter() - began)

    def add(self, kind: Kind, seconds: float) -> None:
        self.seconds[kind] += seconds

    def resume(self, step: int) -> None:
        """Account for the sessions before this one, which goes on from ``step``."""
        sessions: dict[int, list[dict[str, Any]]] = {}
        for row in read_jsonl(self.path) if self.path.exists() else ():
            sessions.setdefault(int(row["session"]), []).append(row)
        self.session = max(sessions, default=-1) + 1
        earlier = [rows for _, rows in sorted(sessions.items())]
        # Each session was followed by one that went on from its own first step; the last of them by this one.
        followed = [*(rows[0]["step"] for rows in earlier), step][1:]
        for rows, goes_on in zip(earlier, followed, strict=True):
            last, kept = rows[-1], [row for row in rows if row["step"] <= goes_on]
            for kind in KINDS:
                self.earlier[kind] += last[kind]
            # Stepping and reading beyond the checkpoint, of whose time the latest line before it tells.
            for kind in ("stepping", "reading"):
                beyond = last[kind] - (kept[-1][kind] if kept else 0.0)
                self.earlier[kind] -= beyond
                self.earlier["lost"] += beyond
        self.record(step)

    def record(self, step: int) -> None:
        """Write a line: the seconds of this session until ``step``."""
        if self.writes:
            rounded = {kind: round(value, 6) for kind, value in self.seconds.items()}
            append_jsonl(self.path, {"session": self.session, "step": step, **rounded})

    def summary(self) -> dict[str, Any]:
        """Seconds by kind over all sessions, and ``goodput``: the share of them that advanced the model."""
        total = {kind: self.earlier[kind] + self.seconds.get(kind, 0.0) for kind in (*KINDS, "lost")}
        spent = sum(total.values())
        share = total["stepping"] / spent if spent else None
        return {"goodput": share, "sessions": self.session + 1, "seconds": {k: round(v, 3) for k, v in total.items()}}
