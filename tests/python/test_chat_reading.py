"""While a prompt is read: progress is shown, and Ctrl-C works at once."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_chat_units import FakeModel, chat_with

from xquant_gguf.chat.conversation import Conversation
from xquant_gguf.chat.reading import ReadingLine
from xquant_gguf.chat.reply import End, stream_reply
from xquant_gguf.chat.sampling import Sampling
from xquant_gguf.chat.screen import Screen
from xquant_gguf.chat.turn import take_turn


class Slow(FakeModel):
    """Reads a prompt until it is cancelled, and does not look at Python's signals."""

    def __init__(self, *script: str) -> None:
        super().__init__(*script)
        self.stopped = threading.Event()

    def cancel(self) -> bool:
        self.stopped.set()
        return True

    def create_chat_completion(self, messages: Any, **kwargs: Any) -> Iterator[Any]:
        for read in range(1, 200):
            self.prompt_progress(read * 10, 2000)
            if self.stopped.wait(0.05):
                raise RuntimeError("cancelled")
        yield from super().create_chat_completion(messages, **kwargs)


def test_ctrl_c_ends_the_reading_of_a_prompt_at_once() -> None:
    chat = chat_with(Slow("never"))  # type: ignore[arg-type]
    threading.Timer(0.3, _thread.interrupt_main).start()
    begun = time.perf_counter()
    reply, back = take_turn(chat, "a long text", Screen(), status=True)
    assert time.perf_counter() - begun < 1.0
    assert reply is not None and reply.end is End.INTERRUPTED
    assert back == "a long text"
    assert chat.conversation.turns == 0
    assert threading.active_count() <= 2  # the timer may be on its way out


def test_progress_is_one_line_that_goes_away() -> None:
    shown: list[str] = []
    reading = ReadingLine(shown.append)
    reading._begun -= 10
    reading.told(500, 2000)
    reading.tick()
    reading.tick()  # too soon for another look
    assert len(shown) == 1
    assert shown[0].startswith("reading 25% of 2000 tokens · 50 tok/s · 30 s left")
    reading.clear()
    reading.clear()
    assert shown[1:] == [""]


def test_the_time_that_is_left_goes_on_between_reports() -> None:
    reading = ReadingLine(lambda text: None)
    reading._begun -= 10
    reading.told(100, 2000)
    assert "3 min 10 s left" in reading.text(reading._told_at)
    assert "3 min 04 s left" in reading.text(reading._told_at + 6)
    assert "0 s left" in reading.text(reading._told_at + 999)


class Stuttering(FakeModel):
    """Waits between two pieces."""

    def create_chat_completion(self, messages: Any, **kwargs: Any) -> Iterator[Any]:
        time.sleep(1.0)
        for chunk in super().create_chat_completion(messages, **kwargs):
            yield chunk
            time.sleep(0.4)


def test_the_line_never_comes_back_into_the_reply() -> None:
    shown: list[str] = []
    llm: Any = Stuttering("a", "b")
    reply = stream_reply(llm, [], Sampling(), shown.append, 0, ReadingLine(shown.append))
    assert reply.text == "ab"
    assert shown[0].startswith("reading")
    assert shown[shown.index("") :] == ["", "a", "b"]


def test_what_is_read_at_once_shows_nothing() -> None:
    shown: list[str] = []
    messages = Conversation().messages
    llm: Any = FakeModel("a", "b")
    stream_reply(llm, messages, Sampling(), lambda text: None, 0, ReadingLine(shown.append))
    assert shown == []
    assert llm.prompt_progress is None


@pytest.mark.model
@pytest.mark.parametrize("kv", ["f16", "balanced"])
def test_a_real_prompt_is_stopped_within_a_second(
    smollm2: Path, packed_library: None, kv: str
) -> None:
    from xquant_gguf import Llama

    text = "The lighthouse keeper counted the ships of the harbour every evening. " * 220
    with Llama(smollm2, kv=kv, n_ctx=4096, n_threads=1, n_threads_batch=1) as llm:
        told: list[int] = []
        reading = ReadingLine(lambda line: told.append(1))
        ask = [{"role": "user", "content": text}]
        begun = time.perf_counter()
        threading.Timer(1.2, _thread.interrupt_main).start()
        reply = stream_reply(llm, ask, Sampling(), lambda piece: None, 0, reading)
        assert time.perf_counter() - begun < 2.2
        assert reply.end is End.INTERRUPTED and not reply.text
        assert told
        short = [{"role": "user", "content": "Name the capital city of Italy."}]
        greedy = Sampling(temperature=0.0, max_tokens=20)
        assert "Rome" in stream_reply(llm, short, greedy, lambda piece: None).text
