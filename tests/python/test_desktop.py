"""The desktop example (python/examples/desktop), without a screen: QT_QPA_PLATFORM=offscreen."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

pytest.importorskip("PySide6.QtWidgets", reason="pip install PySide6-Essentials")
pytestmark = [pytest.mark.model, pytest.mark.usefixtures("packed_library")]
WAIT = 120.0
SHOTS = os.environ.get("XQUANT_DESKTOP_SHOTS")  # a folder for pictures, to be looked at


@pytest.fixture(scope="module")
def app() -> Any:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    sys.path.insert(0, str(ROOT / "python/examples/desktop"))
    from PySide6.QtWidgets import QApplication

    return QApplication.instance() or QApplication([])


@pytest.fixture
def window(app: Any, smollm2: Path) -> Iterator[Any]:
    from window import Window

    made = Window(str(smollm2), "balanced", 1024)
    made.show()
    wait(app, lambda: not made.busy)
    yield made
    made.close()


def wait(app: Any, done: Callable[[], bool]) -> float:
    """Let the window live until something is so; returns the longest time that it stood still."""
    until, longest = time.monotonic() + WAIT, 0.0
    while not done():
        assert time.monotonic() < until
        begun = time.monotonic()
        app.processEvents()
        longest = max(longest, time.monotonic() - begun)
        time.sleep(0.005)
    return longest


def send(window: Any, text: str) -> None:
    window.line.setPlainText(text)
    window.send.click()


def shot(window: Any, name: str) -> None:
    if SHOTS:
        window.grab().save(str(Path(SHOTS) / f"{name}.png"))


def test_a_reply_streams_and_the_window_stays_alive(app: Any, window: Any) -> None:
    send(window, "Write a **short** list of three fruits. <b>No HTML.</b>")
    assert window.send.text() == "Stop" and not window.cache.isEnabled()
    lengths: set[int] = set()

    def done() -> bool:
        lengths.add(len(window.messages[-1]["content"]))
        return not window.busy

    assert wait(app, done) < 1.0
    assert len(lengths) > 5
    shown = window.view.toPlainText()
    assert "<b>No HTML.</b>" in shown and window.messages[-1]["content"]
    assert "f16 would be" in window.memory.text() and 0 < window.share.value() < 1000
    shot(window, "reply")


def test_stop_keeps_what_has_come(app: Any, window: Any) -> None:
    send(window, "Tell me a very long story about the sea.")
    wait(app, lambda: len(window.messages[-1]["content"]) > 40)
    begun = time.monotonic()
    window.send.click()
    wait(app, lambda: not window.busy)
    assert time.monotonic() - begun < 5
    assert len(window.messages[-1]["content"]) > 40 and window.note.text() == "stopped"
    send(window, "Thank you. Say hello.")
    wait(app, lambda: not window.busy)
    assert len(window.messages) == 4 and window.messages[-1]["content"]


def test_a_message_that_does_not_fit_is_given_back(app: Any, window: Any) -> None:
    text = "word " * 1500
    send(window, text)
    wait(app, lambda: not window.busy)
    assert window.line.toPlainText() == text.strip() and window.messages == []
    assert "does not fit" in window.note.text()


def test_save_resume_and_another_cache(app: Any, window: Any, tmp_path: Path) -> None:
    send(window, "My name is Ada. Remember it.")
    wait(app, lambda: not window.busy)
    held = window.memory.text()
    path = tmp_path / "chat.json"
    window.save_to(str(path))
    wait(app, lambda: not window.busy)
    assert path.exists() and path.with_name("chat.json.cache").exists()
    window.cache.textActivated.emit("tiny")
    wait(app, lambda: not window.busy)
    assert "MiB" in window.memory.text() and window.memory.text() != held
    window.cache.textActivated.emit("balanced")
    wait(app, lambda: not window.busy)
    window.messages = []
    window.open_from(str(path))
    wait(app, lambda: not window.busy)
    assert window.messages[0]["content"].startswith("My name is Ada")
    assert "tokens ready in the cache" in window.note.text()
    assert window.memory.text().split(" of ")[0] == held.split(" of ")[0]
    shot(window, "resumed")


@pytest.mark.parametrize("after", [0, 30])
def test_closed_during_a_reply(app: Any, window: Any, after: int) -> None:
    send(window, "Tell me a very long story about a mountain. " * (1 if after else 20))
    wait(app, lambda: len(window.messages[-1]["content"]) >= after)
    begun = time.monotonic()
    assert window.close()
    assert time.monotonic() - begun < 10


def test_a_model_that_cannot_be_read_says_so(app: Any, tmp_path: Path) -> None:
    from window import Window

    path = tmp_path / "no.gguf"
    path.write_bytes(b"nothing")
    window = Window(str(path))
    wait(app, lambda: window.note.text() != "loading the model")
    assert "GGUF" in window.note.text() and not window.send.isEnabled()
    assert window.close()
