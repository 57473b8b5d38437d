"""What the user sees: replies on standard output, everything about them beside it.

On a terminal notes are dimmed and errors red; elsewhere all is plain text.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from .wrap import WordWrap

_KEPT = "\n\t"


def clean(text: str) -> str:
    """Text without control characters, so that a reply cannot steer the terminal."""
    return "".join(c for c in text if c in _KEPT or not (ord(c) < 32 or 127 <= ord(c) < 160))


class Screen:
    """Two streams: ``write`` and ``say`` go to standard output, ``note`` and ``error`` beside it.

    Args:
        notes_on_stderr: keep standard output for the reply alone, as scripts need.
    """

    def __init__(self, *, notes_on_stderr: bool = False) -> None:
        self._out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
        self._err = Console(soft_wrap=True, highlight=False, markup=False, emoji=False, stderr=True)
        self._wrap = WordWrap(self._out.width) if self._out.is_terminal else None
        self._notes = self._err if notes_on_stderr else self._out

    @property
    def interactive(self) -> bool:
        """Whether the user both types and reads at a terminal."""
        return sys.stdin.isatty() and self._out.is_terminal

    def write(self, piece: str) -> None:
        """A piece of a reply, at once."""
        text = clean(piece)
        sys.stdout.write(self._wrap.feed(text) if self._wrap else text)
        sys.stdout.flush()

    def end_line(self) -> None:
        """End the reply's last line."""
        sys.stdout.write((self._wrap.flush() if self._wrap else "") + "\n")
        sys.stdout.flush()
        if self._wrap:
            self._wrap = WordWrap(self._out.width)  # the window may have another size by now

    def passing(self, text: str) -> None:
        """A line that the next text replaces, "" to remove it. On a terminal only."""
        if self._err.is_terminal:
            shown = Text(text)
            shown.truncate(self._err.width - 1, overflow="ellipsis")
            self._err.file.write(f"\r\x1b[2m{shown.plain}\x1b[0m\x1b[K" if text else "\r\x1b[K")
            self._err.file.flush()

    def say(self, text: str) -> None:
        """Text that was asked for, such as a command's answer."""
        self._out.print(Text(clean(text)))

    def note(self, text: str) -> None:
        """A remark about the chat."""
        self._notes.print(Text(clean(text), style="dim"))

    def error(self, text: str) -> None:
        """One line about something that did not work."""
        self._err.print(Text(f"error: {clean(text)}", style="red"))
