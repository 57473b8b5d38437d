"""A closed window and a polite kill: the conversation is in a file, and the file is named."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import subprocess_env

pty = pytest.importorskip("pty")

pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.usefixtures("packed_library")]

SECONDS = 60


class Terminal:
    """A chat in a terminal of its own, which it is told to be."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.master, slave = pty.openpty()
        self.state = folder / "state"
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(model), "--ctx", "1024", "--temperature", "0"],
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=subprocess_env(XDG_STATE_HOME=str(self.state), HOME=str(folder)),
        )
        os.close(slave)
        self.shown = b""
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while piece := os.read(self.process.stdout.fileno(), 4096):
            with self._more:
                self.shown += piece
                self._more.notify_all()

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, pattern: str) -> None:
        with self._more:
            found = self._more.wait_for(lambda: re.search(pattern, self.text), timeout=SECONDS)
        assert found, self.text

    @property
    def text(self) -> str:
        return self.shown.decode("utf-8", "replace")

    def ended(self) -> int:
        code = self.process.wait(timeout=SECONDS)
        self._reader.join(SECONDS)
        return code

    def kept(self) -> list[dict[str, str]]:
        """The messages of the one file that was written."""
        (file,) = (self.state / "xquant-gguf").glob("rescued-*.json")
        if self.process.returncode != 128 + signal.SIGHUP:  # there is no window to show it in
            assert str(file) in self.text
        messages: list[dict[str, str]] = json.loads(file.read_text())["messages"]
        return messages

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(SECONDS)


# The terminal becomes the process's controlling one, so that closing it is a hangup.
START = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from xquant_gguf.chat.app import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def terminal(smollm2: Path, tmp_path: Path) -> Iterator[Terminal]:
    one = Terminal(smollm2, tmp_path)
    yield one
    one.close()


def test_a_polite_kill_between_two_messages(terminal: Terminal) -> None:
    terminal.wait_for(">>> ")
    terminal.type("What is the capital of France?\n")
    terminal.wait_for(r"context \d+/1024")
    terminal.process.terminate()
    assert terminal.ended() == 128 + signal.SIGTERM
    question, answer = terminal.kept()
    assert question == {"role": "user", "content": "What is the capital of France?"}
    assert answer["role"] == "assistant" and answer["content"].strip()  # drawn by chance


def test_a_polite_kill_in_a_reply(terminal: Terminal) -> None:
    """What was written so far is kept."""
    terminal.wait_for(">>> ")
    terminal.type("Count from one to five hundred, in words.\n")
    terminal.wait_for(r">>> \S*\s*\w+\W+\w+")
    terminal.process.terminate()
    assert terminal.ended() == 128 + signal.SIGTERM
    _, answer = terminal.kept()
    assert answer["role"] == "assistant" and answer["content"]


def test_a_closed_window(terminal: Terminal) -> None:
    terminal.wait_for(">>> ")
    terminal.type("What is the capital of France?\n")
    terminal.wait_for(r"context \d+/1024")
    os.close(terminal.master)
    assert terminal.ended() == 128 + signal.SIGHUP
    assert len(terminal.kept()) == 2


def test_a_chat_without_a_word_leaves_no_file(terminal: Terminal) -> None:
    terminal.wait_for(">>> ")
    terminal.process.terminate()
    assert terminal.ended() == 128 + signal.SIGTERM
    assert not list((terminal.state / "xquant-gguf").glob("rescued-*"))
