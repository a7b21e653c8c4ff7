"""One run in one directory, and leaving in order."""

import json
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from surrogate.core.types import UserError
from surrogate.run import lock as lock_module
from surrogate.run.lock import LOCK_FILE, RunLock
from surrogate.run.signals import StopRequest, stopped_exit_code

HOLD = """
import sys, time
from surrogate.run.lock import RunLock
with RunLock(sys.argv[1]):
    print("ready", flush=True)
    time.sleep(60)
"""


def start(code: str, *arguments: str) -> subprocess.Popen:
    """A child that has said ``ready``."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={key: value for key, value in os.environ.items() if key != "SLURM_JOB_ID"},
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def end(child: subprocess.Popen) -> tuple[int, str]:
    """Exit code and standard error, within 20 s."""
    try:
        _, error = child.communicate(timeout=20)
    finally:
        child.kill()
    return child.returncode, error


def test_second_run_is_refused_by_name_until_the_first_is_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    child = start(HOLD, str(tmp_path))
    try:
        with pytest.raises(UserError) as refusal, RunLock(tmp_path):
            pass
        text = str(refusal.value)
        assert str(tmp_path) in text
        assert f"host {socket.gethostname()}, process {child.pid}, started 20" in text
    finally:
        child.kill()  # SIGKILL: no Python code of the child runs
        child.communicate()
    with RunLock(tmp_path):
        assert f"process {child.pid}" in caplog.text  # says from whom it takes over
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
        with pytest.raises(UserError, match=f"process {os.getpid()}"), RunLock(tmp_path):
            pass
    caplog.clear()
    with RunLock(tmp_path):  # an orderly end leaves nothing to take over
        assert caplog.text == ""


def test_another_host_is_believed_while_its_heart_beats(tmp_path: Path) -> None:
    path = tmp_path / LOCK_FILE
    path.write_text(json.dumps({"host": "node17", "pid": 4, "started": "2026-01-01T00:00:00+00:00", "born": None}))
    with pytest.raises(UserError, match=r"host node17, process 4.*try again in 60 s"), RunLock(tmp_path):
        pass
    past = time.time() - 2 * lock_module.STALE_SECONDS
    os.utime(path, (past, past))
    with RunLock(tmp_path):
        assert json.loads(path.read_text())["host"] == socket.gethostname()


def test_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "HEARTBEAT_SECONDS", 0.02)
    with RunLock(tmp_path):
        path = tmp_path / LOCK_FILE
        os.utime(path, (1, 1))
        limit = time.monotonic() + 5
        while path.stat().st_mtime < 2 and time.monotonic() < limit:
            time.sleep(0.02)
        assert time.time() - path.stat().st_mtime < 5


def test_without_locks_of_the_file_system_the_process_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(handle: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with RunLock(tmp_path):
        owner = json.loads((tmp_path / LOCK_FILE).read_text())
        with pytest.raises(UserError, match=f"process {os.getpid()}"), RunLock(tmp_path):
            pass
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    for stale in ({**owner, "pid": int(child.stdout)}, {**owner, "born": "1"}):  # ended; its number used again
        (tmp_path / LOCK_FILE).write_text(json.dumps(stale))
        with RunLock(tmp_path):
            pass


def test_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/run"), RunLock(tmp_path / "file" / "run"):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signal_sets_the_flag_only(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        limit = time.monotonic() + 5
        while not stop.requested and time.monotonic() < limit:
            time.sleep(0.01)
        assert stop.requested
        assert stop.reason == number.name
    assert signal.getsignal(number) == before


def test_notebook_is_interrupted_the_second_time_and_lives() -> None:
    with StopRequest(0.3, 0.2, force=False) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)  # beyond the limit: nothing is forced
        assert stop.reason == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)


def test_outside_the_main_thread_it_can_be_asked() -> None:
    seen = []

    def work() -> None:
        with StopRequest() as stop:
            stop.request("the caller")
            seen.append((stop.requested, stop.reason))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(True, "the caller")]


STUCK = """
import time
from surrogate.run.signals import StopRequest
with StopRequest({limit}, 0.2) as stop:
    print("ready", flush=True)
    {work}
"""
# One long call into C, as a compilation is: no Python handler runs before it returns.
IN_C = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 1_000_000_000)"


@pytest.mark.parametrize("work", ["time.sleep(60)", IN_C])
def test_exit_is_forced_with_75_after_the_limit(work: str) -> None:
    child = start(STUCK.format(limit=0.7, work=work))
    began = time.monotonic()
    child.send_signal(signal.SIGTERM)
    code, error = end(child)
    assert code == 75
    assert "not done 0.5 s after SIGTERM" in error
    assert 0.4 < time.monotonic() - began < 10


def test_second_interrupt_leaves_at_once() -> None:
    child = start(STUCK.format(limit=40, work="time.sleep(60)"))
    child.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    code, error = end(child)
    assert code == 130
    assert "second interrupt" in error


def test_exit_code_asks_slurm_to_requeue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert stopped_exit_code() == 75
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert stopped_exit_code() == 99
