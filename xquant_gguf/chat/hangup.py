"""The system asks the chat to end: its window is closed (SIGHUP), or a polite kill (SIGTERM)."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = [getattr(signal, name) for name in ("SIGHUP", "SIGTERM") if hasattr(signal, name)]


class Hangup:
    """Whether it has asked. That first comes as Ctrl-C does, so that a reply that is being written
    is kept as far as it got."""

    def __init__(self) -> None:
        self._signal = 0

    def check(self) -> None:
        """Raise SystemExit, with the exit code of a process that a signal ended, if it has."""
        if self._signal:
            raise SystemExit(128 + self._signal)

    def _come(self, number: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # the conversation is about to be saved
        self._signal = number
        raise KeyboardInterrupt


@contextlib.contextmanager
def hangup() -> Iterator[Hangup]:
    """Listen, which only the main thread can. What the caller has ignored (nohup) stays so."""
    found = Hangup()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, found._come)
    try:
        yield found
    finally:
        if not found._signal:
            for number, handler in before.items():
                signal.signal(number, handler)
