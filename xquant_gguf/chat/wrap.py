"""Break a stream of text at words, so that a terminal does not cut them in two."""

from __future__ import annotations

from collections.abc import Callable

from rich.cells import cell_len

_LONGEST = 32  # cells held back at most; longer runs (URLs, text without spaces) pass as they are


class WordWrap:
    """Takes pieces of text and returns what can be shown already.

    Args:
        width: columns of the terminal, or a function that is asked for them at each word.
    """

    def __init__(self, width: int | Callable[[], int]) -> None:
        self._width = width if callable(width) else lambda: width
        self._column = 0
        self._word = ""
        self._cells = 0

    def feed(self, text: str) -> str:
        """Add text; the last, unfinished word is held back until its end is known."""
        shown = []
        for char in text:
            if char.isspace():
                shown.append(self._place_word())
                shown.append(self._place_space(char))
            else:
                self._word += char
                self._cells += cell_len(char)
                if self._cells >= _LONGEST:
                    shown.append(self._place_word())
        return "".join(shown)

    @property
    def within_line(self) -> bool:
        """Whether something stands on the line already."""
        return self._column > 0 or bool(self._word)

    def new_line(self) -> str:
        """End the line."""
        return self.feed("\n")

    def mark(self, code: str) -> str:
        """Put a code without width where the text stands."""
        if not self._word:
            return code
        self._word += code
        return ""

    def flush(self) -> str:
        """What is still held back. The next text starts a new line."""
        rest = self._place_word()
        self._column = 0
        return rest

    def _place_word(self) -> str:
        word, length = self._word, self._cells
        self._word, self._cells = "", 0
        width = max(self._width(), 1)
        broken = self._column > 0 and self._column + length > width
        self._column = (0 if broken else self._column) + length
        return "\n" + word if broken else word

    def _place_space(self, char: str) -> str:
        if char == "\n" or self._column >= max(self._width(), 1):
            self._column = 0
            return "\n"
        self._column += 8 - self._column % 8 if char == "\t" else 1
        return char
