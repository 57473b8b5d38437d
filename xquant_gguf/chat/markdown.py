"""Markdown shown while it comes: emphasis, code, headings and lists as styles of the terminal.

Nothing is held back but a marker's own characters. What a terminal cannot show stays as it is
written. Lines of code are never broken. ``<think>`` parts are dimmed, or folded into one line.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .wrap import WordWrap

_ON = {"bold": "\x1b[1m", "dim": "\x1b[2m", "code": "\x1b[36m", "head": "\x1b[1;4m"}
_OFF = "\x1b[0m"
_OF_A_LINE = ("head", "bold", "code")
_TAGS = {"<think>": True, "</think>": False}
_THINKS, _THOUGHT = _TAGS
_LINE_START = re.compile(r"^( {0,3})(#{1,6} |[-*+] |`{3,}|~{3,})")


class MarkdownStream:
    """Turns pieces of a reply into text with styles.

    Args:
        width: asked at each new line, because the window may change.
        fold: asked where a ``<think>`` part begins: whether one line stands for it.
    """

    def __init__(self, width: Callable[[], int], fold: Callable[[], bool] = lambda: False) -> None:
        self._wrap = WordWrap(width)
        self._fold = fold
        self._folded: str | None = None  # thoughts that are not shown, while they come
        self._after_thoughts = False  # where empty lines are left out
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
        if self._folded is not None:
            shown += self._end_of_thoughts()
        styled, self._styles = bool(self._styles), set()
        self._at_line_start, self._fence, self._after_thoughts = True, "", False
        return shown + (_OFF if styled else "")

    def _take(self, *, final: bool) -> str:
        shown: list[str] = []
        while self._held:
            piece: str | None = ""
            if self._after_thoughts:
                self._held = self._held.lstrip("\n")
                self._after_thoughts = not self._held
            elif self._folded is not None:
                piece = self._thought(final)
            else:
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
                if on and self._fold():
                    self._folded = ""
                    start = self._wrap.new_line() if self._wrap.within_line else ""
                    return f"{start}{_ON['dim']}thinking…{_OFF}"
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

    def _thought(self, final: bool) -> str | None:
        """Take thoughts that are folded; the line that stands for them once they end."""
        assert self._folded is not None
        text, end, rest = self._held.partition(_THOUGHT)
        if end:
            self._folded += text
            self._held, self._at_line_start, self._after_thoughts = rest, True, True
            return self._end_of_thoughts()
        keep = 0 if final else _beginning_of(_THOUGHT, text)
        self._folded, self._held = self._folded + text[: len(text) - keep], text[len(text) - keep :]
        return None if self._held else ""

    def _end_of_thoughts(self) -> str:
        words = len((self._folded or "").split())
        self._folded = None
        count = "1 word" if words == 1 else f"{words} words"
        return f"\r\x1b[K{_ON['dim']}▸ {count} of thought; /think shows them{_OFF}\n"

    def _toggle(self, name: str, length: int) -> str:
        self._held = self._held[length:]
        return self._style(name, name not in self._styles)

    def _style(self, name: str, on: bool) -> str:
        """Put a style on or off, at its place among the words."""
        if on == (name in self._styles):
            return ""
        (self._styles.add if on else self._styles.discard)(name)
        return self._wrap.mark(_OFF + "".join(_ON[style] for style in sorted(self._styles)))


def thoughts(text: str) -> str:
    """The ``<think>`` parts of a reply, one below the other."""
    parts = re.findall(rf"{_THINKS}(.*?)(?:{_THOUGHT}|\Z)", text, re.DOTALL)
    return "\n\n".join(part.strip() for part in parts if part.strip())


def _beginning_of(tag: str, text: str) -> int:
    """How many characters at the end of a text may be the beginning of a tag."""
    return next((n for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), 0)
