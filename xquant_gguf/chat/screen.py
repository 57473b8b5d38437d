"""What the user sees: replies on standard output, everything about them beside it.

On a terminal notes are dimmed and errors red; elsewhere all is plain text.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from .markdown import MarkdownStream

_KEPT = "\n\t"


def clean(text: str) -> str:
    """Text without control characters, so that a reply cannot steer the terminal."""
    return "".join(c for c in text if c in _KEPT or not (ord(c) < 32 or 127 <= ord(c) < 160))


class Screen:
    """Two streams: ``write`` and ``say`` go to standard output, ``note`` and ``error`` beside it.

    ``fold_thoughts``: one line stands for what a model thinks (``<think>``), on a terminal.

    Args:
        notes_on_stderr: keep standard output for the reply alone, as scripts need.
    """

    def __init__(self, *, notes_on_stderr: bool = False) -> None:
        self._out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
        self._err = Console(soft_wrap=True, highlight=False, markup=False, emoji=False, stderr=True)
        plain = not self._out.is_terminal or self._out.is_dumb_terminal
        self.fold_thoughts = False
        self._reply = (
            None if plain else MarkdownStream(lambda: self._out.width, lambda: self.fold_thoughts)
        )
        self._notes = self._err if notes_on_stderr else self._out

    @property
    def interactive(self) -> bool:
        """Whether the user both types and reads at a terminal."""
        return sys.stdin.isatty() and self._out.is_terminal

    def write(self, piece: str) -> None:
        """A piece of a reply, at once. On a terminal its Markdown is shown as styles."""
        text = clean(piece)
        sys.stdout.write(self._reply.feed(text) if self._reply else text)
        sys.stdout.flush()

    def end_line(self) -> None:
        """End the reply's last line."""
        sys.stdout.write((self._reply.flush() if self._reply else "") + "\n")
        sys.stdout.flush()

    def conversation(self, messages: Sequence[Mapping[str, str]]) -> None:
        """What was said so far, as it was shown then."""
        for message in messages:
            if message["role"] == "user":
                self.note(f">>> {message['content']}")
            else:
                self.write(message["content"])
                self.end_line()

    def passing(self, text: str) -> None:
        """A line that the next text replaces, "" to remove it. On a terminal only."""
        if self._err.is_terminal:
            shown = Text(text)
            shown.truncate(self._err.width - 1, overflow="ellipsis")
            self._err.file.write(f"\r\x1b[2m{shown.plain}\x1b[0m\x1b[K" if text else "\r\x1b[K")
            self._err.file.flush()

    def copy(self, text: str) -> None:
        """Put text into the clipboard, by the terminal's own means (OSC 52)."""
        if self._out.is_terminal:
            data = base64.b64encode(text.encode("utf-8", "replace")).decode()
            sys.stdout.write(f"\x1b]52;c;{data}\a")
            sys.stdout.flush()

    def say(self, text: str) -> None:
        """Text that was asked for, such as a command's answer."""
        self._out.print(Text(clean(text)), soft_wrap=not self._out.is_terminal)

    def note(self, text: str) -> None:
        """A remark about the chat."""
        self._notes.print(Text(clean(text), style="dim"), soft_wrap=not self._notes.is_terminal)

    def error(self, text: str) -> None:
        """One line about something that did not work."""
        line = Text(f"error: {clean(text)}", style="red")
        self._err.print(line, soft_wrap=not self._err.is_terminal)
