"""Markdown shown while it comes: emphasis, code, headings and lists as styles of the terminal.

Nothing is held back but a marker's own characters. What a terminal cannot show stays as it is
written. Lines of code are never broken. ``<think>`` parts are dimmed.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .wrap import WordWrap

_ON = {"bold": "\x1b[1m", "dim": "\x1b[2m", "code": "\x1b[36m", "head": "\x1b[1;4m"}
_OFF = "\x1b[0m"
_OF_A_LINE = ("head", "bold", "code")
_TAGS = {"<think>": True, "</think>": False}
_LINE_START = re.compile(r"^( {0,3})(#{1,6} |[-*+] |`{3,}|~{3,})")


class MarkdownStream:
    """Turns pieces of a reply into text with styles.

    Args:
        width: asked at each new line, because the window may change.
    """

    def __init__(self, width: Callable[[], int]) -> None:
        self._wrap = WordWrap(width)
        self._held = ""  # the beginning of a marker, or of a line
        self._at_line_start = True
        self._fence = ""
        self._styles: set[str] = set()

    def feed(self, text: str) -> str:
        """What can be shown now."""
        self._held += text
        return self._take(final=False)

    def flush(self) -> str:
        """What is still held back; styles end."""
        shown = self._take(final=True) + self._wrap.flush()
        styled, self._styles = bool(self._styles), set()
        self._at_line_start, self._fence = True, ""
        return shown + (_OFF if styled else "")

    def _take(self, *, final: bool) -> str:
        shown = []
        while self._held:
            piece = self._line_start(final) if self._at_line_start else self._within(final)
            if piece is None:
                break
            shown.append(piece)
        return "".join(shown)

    def _line_start(self, final: bool) -> str | None:
        """The marker that a line begins with. None until it is known whether there is one."""
        line, newline, _ = self._held.partition("\n")
        complete = bool(newline) or final
        if self._fence:
            return self._code(line, complete)
        if not complete and re.fullmatch(r" {0,3}(#{0,6}|[-*+]|`{0,2}|~{0,2})", line):
            return None
        self._at_line_start = False
        found = _LINE_START.match(line)
        if found is None:
            return ""
        marker = found[2]
        if marker[0] in "`~":
            if not complete:
                self._at_line_start = True
                return None
            self._fence = marker
            self._at_line_start = True
            self._held = self._held[len(line) + 1 :]
            return self._wrap.flush() + f"{_ON['dim']}{line}{_OFF}\n"
        self._held = self._held[found.end() :]
        if marker[0] == "#":
            return self._style("head", True)
        return self._wrap.feed(found[1] + "• ")

    def _code(self, line: str, complete: bool) -> str | None:
        if not complete:
            if not self._fence.startswith(line.strip()[:3]) or not line.strip():
                self._at_line_start = False  # code, shown as it comes
                return ""
            return None
        self._held = self._held[len(line) + 1 :]
        if line.strip().startswith(self._fence) and not line.strip().strip("`~"):
            self._fence = ""
            return f"{_ON['dim']}{line}{_OFF}\n"
        return f"{_ON['code']}{line}{_OFF}\n"

    def _within(self, final: bool) -> str | None:
        held = self._held
        if held[0] == "\n":
            self._held, self._at_line_start = held[1:], True
            end = "" if self._fence else "".join(self._style(s, False) for s in _OF_A_LINE)
            return end + ("\n" if self._fence else self._wrap.feed("\n"))
        if self._fence:
            line = held.partition("\n")[0]
            self._held = held[len(line) :]
            return f"{_ON['code']}{line}{_OFF}"
        for tag, on in _TAGS.items():
            if held.startswith(tag):
                self._held = held[len(tag) :]
                return self._style("dim", on)
            if tag.startswith(held) and not final:
                return None
        if held.startswith("**"):
            return self._toggle("bold", 2)
        if held == "*" and not final:
            return None
        if held[0] == "`":
            return self._toggle("code", 1)
        self._held = held[1:]
        return self._wrap.feed(held[0])

    def _toggle(self, name: str, length: int) -> str:
        self._held = self._held[length:]
        return self._style(name, name not in self._styles)

    def _style(self, name: str, on: bool) -> str:
        """Put a style on or off, at its place among the words."""
        if on == (name in self._styles):
            return ""
        (self._styles.add if on else self._styles.discard)(name)
        return self._wrap.mark(_OFF + "".join(_ON[style] for style in sorted(self._styles)))
