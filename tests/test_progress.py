from __future__ import annotations

import pytest

from trainer import progress


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a bar writes to a log, under a clock that the test sets."""
    lines: list[str] = []
    monkeypatch.setattr(progress.log, "info", lambda text, *a: lines.append(text % a))
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    return lines


def clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds)


def test_a_log_gets_rate_and_time_left_soon_and_then_every_half_minute(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch, 100)
    bar = progress.Bar(
        "training", total=100, unit="steps", scale=8, scale_unit="images"
    )
    for seconds in range(140, 240):
        clock(monkeypatch, seconds)
        bar.update(1, "loss 1.2")
    assert said[0] == ("training: 4/100 steps, 8.0 images/s, 1m36s left, loss 1.2")
    assert len(said) == 4
    assert said[1].startswith("training: 34/100 steps, 8.0 images/s, 1m06s left")


def test_what_happens_once_does_not_spoil_the_rate_of_a_resumed_run(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch, 0)
    bar = progress.Bar("training", total=100, unit="steps", initial=50)
    clock(monkeypatch, 1000)
    bar.update(1)
    clock(monkeypatch, 1010)
    bar.update(5)
    assert said == ["training: 56/100 steps, 0.5 steps/s, 1m28s left"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.4, "59s"), (61, "1m01s"), (3599, "59m59s"), (7800, "2h10m")],
)
def test_durations_are_written_as_people_write_them(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text
