"""Progress: a bar on a terminal, plain lines now and then in a log. No TensorFlow."""

from __future__ import annotations

import logging
import math
import sys
import time

from tqdm import tqdm

log = logging.getLogger("seamline")

_RATE_AFTER_S, _LINE_EVERY_S = 3.0, 30.0


class Bar:
    """Counts towards `total`; shows rate and time left.

    Args:
      name: what is being done.
      total: how many units there are.
      unit: name of a unit in plural.
      initial: how many were done before.
      scale: things a unit stands for in the rate, such as examples a step.
      scale_unit: name of these things.
    """

    def __init__(
        self,
        name: str,
        *,
        total: int,
        unit: str,
        initial: int = 0,
        scale: int = 1,
        scale_unit: str = "",
    ) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._scale, self._scale_unit = scale, scale_unit or unit
        self._done = initial
        # The first unit carries what happens once, such as compiling: rates start
        # after it.
        self._start, self._initial = math.nan, initial
        self._next_line = math.inf
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total,
                initial=initial,
                desc=name,
                bar_format="{desc} {bar} {n}/{total} {postfix}",
                leave=False,
            )

    def update(self, count: int, note: str = "") -> None:
        """Counts `count` more units; `note` stands at the end of the line."""
        self._done += count
        now = time.monotonic()
        if math.isnan(self._start):
            self._start, self._initial = now, self._done
            self._next_line = now + _RATE_AFTER_S
        if self._bar is not None:
            self._bar.set_postfix_str(self._text(now, note), refresh=False)
            self._bar.update(count)
        elif now >= self._next_line and self._done < self._total:
            self._next_line = now + _LINE_EVERY_S
            log.info(
                "%s: %d/%d %s%s",
                self._name,
                self._done,
                self._total,
                self._unit,
                self._text(now, note),
            )

    def seconds_left(self) -> float | None:
        """At the rate so far; None before there is one."""
        rate = self._rate(time.monotonic())
        return (self._total - self._done) / rate if rate else None

    def close(self) -> None:
        """Takes the bar off the terminal."""
        if self._bar is not None:
            self._bar.close()

    def _rate(self, now: float) -> float:
        """Units a second since the first one; 0 before a second one."""
        if math.isnan(self._start):
            return 0.0
        return (self._done - self._initial) / max(now - self._start, 1e-9)

    def _text(self, now: float, note: str) -> str:
        rate = self._rate(now)
        if not rate:
            return ""
        left = duration((self._total - self._done) / rate)
        note = f", {note}" if note else ""
        return f", {rate * self._scale:.1f} {self._scale_unit}/s, {left} left{note}"


def duration(seconds: float) -> str:
    """Seconds as people write them: `9s`, `4m05s`, `2h10m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole // 60 % 60:02d}m"
