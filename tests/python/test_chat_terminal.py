"""The chat in a real terminal (tmux) of several sizes: what is on the screen is whole."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import subprocess_env

pytestmark = [
    pytest.mark.model,
    pytest.mark.usefixtures("packed_library"),
    pytest.mark.skipif(not shutil.which("tmux"), reason="no tmux"),
]
SIZES = [(80, 24), (40, 12), (200, 50)]
PROMPT = ">>> "
WAIT = 120.0


class Terminal:
    """A tmux server of its own with one window, in which a program runs."""

    def __init__(self, folder: Path, size: tuple[int, int], command: list[str]) -> None:
        self._socket = folder / "tmux"
        columns, rows = size
        start = ["new-session", "-d", "-x", str(columns), "-y", str(rows)]
        env = subprocess_env(TERM="screen-256color")
        self._tmux("-f", "/dev/null", *start, " ".join(command), env=env)

    def _tmux(self, *args: str, env: dict[str, str] | None = None) -> str:
        command = ["tmux", "-S", str(self._socket), *args]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        return done.stdout

    def lines(self) -> list[str]:
        """All that was written, a line that the terminal had to break as one."""
        return self._tmux("capture-pane", "-p", "-J", "-S", "-").rstrip().splitlines()

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)
        self._tmux("send-keys", "Enter")

    def resize(self, columns: int, rows: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def alive(self) -> bool:
        return bool(self._tmux("list-sessions"))

    def wait(self, done: Callable[[list[str]], bool]) -> list[str]:
        until = time.monotonic() + WAIT
        while not done(lines := self.lines()):
            assert time.monotonic() < until, "\n".join(lines)
            time.sleep(0.2)
        return lines

    def close(self) -> None:
        self._tmux("kill-server")


def waits_for_input(lines: list[str]) -> bool:
    return bool(lines) and lines[-1].rstrip() == PROMPT.strip()


@pytest.fixture
def terminal(tmp_path: Path, smollm2: Path) -> Iterator[Callable[[tuple[int, int]], Terminal]]:
    opened: list[Terminal] = []

    def start(size: tuple[int, int]) -> Terminal:
        command = [sys.executable, "-m", "xquant_gguf.chat", str(smollm2), "--ctx", "1024"]
        command += ["--temperature", "0", "--max-tokens", "80", "--threads", "2"]
        opened.append(Terminal(tmp_path, size, command))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def prose(lines: list[str]) -> list[str]:
    """Lines outside of code blocks, and not those of the prompt."""
    found, code = [], False
    for line in lines:
        if line.lstrip().startswith("```"):
            code = not code
        elif not code and not line.startswith(PROMPT.strip()):
            found.append(line)
    return found


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_screens(
    terminal: Callable[[tuple[int, int]], Terminal], size: tuple[int, int], tmp_path: Path
) -> None:
    """Words are whole at every width, also after the window has changed."""
    chat = terminal(size)
    first = chat.wait(waits_for_input)
    assert max(map(len, prose(first)), default=0) <= size[0]
    chat.type("Name three rivers of Europe in a list, and say where each one ends.")
    answered = chat.wait(lambda lines: waits_for_input(lines) and "tok/s" in " ".join(lines))
    assert max(map(len, prose(answered))) <= size[0]
    chat.type("/stats")
    told = chat.wait(lambda lines: waits_for_input(lines) and "true bits" in " ".join(lines))
    assert max(map(len, prose(told))) <= size[0]
    assert "v_eta4=0, k_meta=q8" in " ".join(" ".join(told).split())
    columns = size[0] // 2 + 10
    chat.resize(columns, size[1])
    asked = "And one of Asia?"
    chat.type(asked)

    def reply(lines: list[str]) -> list[str]:
        at = next((i for i, line in enumerate(lines) if asked in line), len(lines))
        return lines[at + 1 :]

    resized = chat.wait(lambda lines: waits_for_input(lines) and "tok/s" in " ".join(reply(lines)))
    assert max(map(len, prose(reply(resized)))) <= columns
    (tmp_path / "screen.txt").write_text("\n".join(resized))
    chat.type("/bye")
    until = time.monotonic() + WAIT
    while chat.alive():
        assert time.monotonic() < until
        time.sleep(0.1)
