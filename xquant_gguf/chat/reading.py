"""The line that shows how far a prompt is read, with its speed and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable

_PATIENCE = 0.7  # seconds; what is read sooner needs no line
_APART = 0.2  # seconds between two looks


class ReadingLine:
    """Shows progress, and is gone when the first word comes.

    Args:
        show: puts one line where the cursor is, "" to remove it.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._begun = self._told_at = time.monotonic()
        self._read = self._total = 0
        self._shown_at = 0.0

    def told(self, read: int, total: int) -> None:
        """The model has read so many tokens. May be called by another thread."""
        self._told_at = time.monotonic()
        self._read, self._total = read, total

    def tick(self) -> None:
        """Bring the line up to date, now and then."""
        now = time.monotonic()
        if now - self._begun > _PATIENCE and now - self._shown_at > _APART:
            self._shown_at = now
            self._show(self.text(now))

    def clear(self) -> None:
        """Remove the line."""
        if self._shown_at:
            self._shown_at = 0.0
            self._show("")

    def text(self, now: float) -> str:
        """What the line says at a moment."""
        elapsed = self._told_at - self._begun
        if not self._read or not self._total or elapsed <= 0:
            return "reading the prompt · Ctrl-C stops"
        speed = self._read / elapsed
        left = max(0.0, (self._total - self._read) / speed - (now - self._told_at))
        return (
            f"reading {self._read / self._total:.0%} of {self._total} tokens · "
            f"{speed:.0f} tok/s · {_duration(left)} left · Ctrl-C stops"
        )


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"
