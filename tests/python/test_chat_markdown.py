"""Markdown of a reply as styles, whatever pieces it comes in."""

from __future__ import annotations

import re

import pytest

from xquant_gguf.chat.markdown import MarkdownStream, thoughts

REPLY = """# A title
Some **bold words** and `code` with 2 * 3 and snake_case and a line that is longer than forty.
- one
* two
```python
def power(a):
    return a ** 2  # a comment that makes this line much longer than forty columns

```
1. <think>5 < 6
so</think>Done **here"""

SHOWN = """A title
Some bold words and code with 2 * 3 and
snake_case and a line that is longer
than forty.
• one
• two
```python
def power(a):
    return a ** 2  # a comment that makes this line much longer than forty columns

```
1. 5 < 6
so
Done here"""


def shown(text: str, size: int, width: int = 40) -> str:
    stream = MarkdownStream(lambda: width)
    pieces = [stream.feed(text[i : i + size]) for i in range(0, len(text), size)]
    return "".join(pieces) + stream.flush()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_the_same_whatever_the_pieces(size: int) -> None:
    found = "\n".join(line.rstrip() for line in plain(shown(REPLY, size)).splitlines())
    assert found == SHOWN.replace("so\nDone", "soDone")


def test_styles_are_where_they_belong_and_end() -> None:
    text = shown(REPLY, 1)
    assert "\x1b[1;4mA" in text and "\x1b[1mbold" in text
    assert re.search(r"\x1b\[2m5 < 6", text)
    assert text.endswith("\x1b[0m")
    assert shown("plain text.", 1) == "plain text."


def test_code_is_never_broken() -> None:
    code = "x" * 50 + " " + "y" * 50
    assert code in plain(shown(f"```\n{code}\n```\n", 5, width=20))


def test_every_character_that_is_no_marker_is_shown() -> None:
    for text in (
        "a < b <th <thin",
        "* ",
        "**",
        "#",
        "######## x",
        "``",
        "a\n\n\nb",
        "~~~\ncode",
        "-",
    ):
        kept = set(plain(shown(text, 1))) | set("*#`- ")
        assert set(text) - kept == set(), text


def test_the_width_of_the_moment_counts() -> None:
    width = [20]
    stream = MarkdownStream(lambda: width[0])
    first = stream.feed("one two three four five six\n")
    width[0] = 80
    assert "\n" in first.rstrip("\n")
    assert stream.feed("one two three four five six\n").count("\n") == 1


THINKING = "<think>\nIt is <b>2</b>,\n```\ncode\n```\nor 3.</think>\n\nIt is 2 < 3."


def folded(text: str, size: int) -> str:
    stream = MarkdownStream(lambda: 40, lambda: True)
    return (
        "".join(stream.feed(text[i : i + size]) for i in range(0, len(text), size)) + stream.flush()
    )


def seen(text: str) -> str:
    """What is left on a terminal: a line that is cleared is gone."""
    return re.sub(r"[^\n]*\r\x1b\[K", "", plain(text))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_folded_thoughts_are_one_line_whatever_the_pieces(size: int) -> None:
    line = "▸ 8 words of thought; /think shows them\n"
    assert seen(folded(THINKING, size)) == line + "It is 2 < 3."
    assert seen(folded("So: " + THINKING, size)) == "So: \n" + line + "It is 2 < 3."
    assert seen(folded("<think>one", size)) == line.replace("8 words", "1 word")
    assert folded("no < thought", size) == shown("no < thought", size)


def test_while_thoughts_come_the_line_says_so() -> None:
    stream = MarkdownStream(lambda: 40, lambda: True)
    assert plain(stream.feed("<think>Let me")) == "thinking…"
    assert stream.feed(" see </thi") == ""
    assert "3 words" in stream.feed("nk>") and plain(stream.feed("Yes.") + stream.flush()) == "Yes."


def test_what_a_reply_thought() -> None:
    assert thoughts(THINKING + "<think>More") == "It is <b>2</b>,\n```\ncode\n```\nor 3.\n\nMore"
    assert thoughts("nothing") == ""
