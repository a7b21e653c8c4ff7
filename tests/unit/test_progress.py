"""The numbers that are shown, with a clock that the test moves."""

import io
import logging
import sys

import pytest

from surrogate.run.progress import Bar, Progress, span, track


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75, "1:15"), (3725, "1:02:05"), (59.6, "1:00")])
def test_span(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_plain_lines_at_the_interval_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    caplog.set_level(logging.INFO)
    with track("simulating", 200, "days", interval=30, live=False, clock=clock) as bar:
        for _ in range(100):
            clock.now += 1
            bar.advance(2)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "simulating: 60/200 days  2 days/s  1:10 left",
        "simulating: 120/200 days  2 days/s  0:40 left",
        "simulating: 180/200 days  2 days/s  0:10 left",
        "simulating: 200/200 days in 1:40",
    ]


def test_training_speed_leaves_out_the_compilation_and_the_steps_before_a_resume() -> None:
    clock = Clock()
    with Progress(1000, 500, 8, live=False, clock=clock) as bar:
        clock.now += 60  # compiling, and waiting for the first batch
        waited = 5.0
        bar.update(501, wait=waited)
        for step in range(502, 602):
            clock.now += 0.5
            waited += 0.005
            bar.update(step, wait=waited)
        summary = bar.summary()
    assert summary["samples_per_s"] == pytest.approx(16)
    assert summary["step_ms"] == pytest.approx(500)
    assert summary["input_wait_fraction"] == pytest.approx(0.01)


def test_line_has_loss_speed_time_left_and_waiting(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    caplog.set_level(logging.INFO)
    with Progress(100, 0, 4, interval=10, live=False, clock=clock) as bar:
        for step in range(1, 13):
            clock.now += 1
            bar.update(step, wait=0.25 * step)
            if step == 6:
                bar.update(5, loss=0.123456)  # the loss of an earlier step comes late
    line = caplog.records[0].getMessage()
    assert line == "training: 10/100 steps  loss 0.1235  4 samples/s  1:30 left  input wait 25.0%"


def test_nothing_counted_is_none_not_a_number() -> None:
    with Progress(10, live=False) as bar:
        bar.update(1)
    assert bar.summary() == {"samples_per_s": None, "step_ms": None, "input_wait_fraction": None}


def test_disabled_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress(10, enabled=False, live=True, interval=0) as bar:
        bar.update(3)
    assert not caplog.records


def test_interruption_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(KeyboardInterrupt), Bar("preparing", 10, "chunks", live=False) as bar:
        bar.advance(3)
        raise KeyboardInterrupt
    assert "3/10 chunks in 0:00, then stopped" in caplog.text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_live_bar_draws_on_a_terminal_and_redraws_are_throttled(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    clock = Clock()
    texts = 0

    class Counting(Progress):
        def text(self) -> str:
            nonlocal texts
            texts += 1
            return super().text()

    with Counting(10_000, clock=clock) as bar:
        for step in range(1, 10_001):
            clock.now += 0.001
            bar.update(step, loss=0.5)
    assert "training" in terminal.getvalue()
    assert "loss 0.5" in terminal.getvalue()
    assert 40 <= texts <= 51  # 10 s at 5 a second
