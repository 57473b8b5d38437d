"""A chat that is longer than its context: no dead end, and nothing of the user's is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from test_chat_units import REPORT, run_loop

from xquant_gguf.chat import commands
from xquant_gguf.chat.conversation import Conversation
from xquant_gguf.chat.reply import End, Reply
from xquant_gguf.chat.sampling import Sampling
from xquant_gguf.chat.screen import Screen
from xquant_gguf.chat.session_file import Fingerprint
from xquant_gguf.chat.state import Chat
from xquant_gguf.chat.turn import take_turn
from xquant_gguf.errors import ContextFullError
from xquant_gguf.kv_cache import KVCache, packed_snapshot

N_CTX = 100


class CountingModel:
    """A token a word; a template of ``template`` tokens a message; answers ``length`` words."""

    def __init__(self, length: int = 5, template: int = 2):
        self.length, self.template = length, template
        self.n_tokens = 0
        self.prompt_progress: Any = None
        self.prompts: list[list[str]] = []

    def cancel(self) -> bool:
        return False

    def n_ctx(self) -> int:
        return N_CTX

    def tokenize(self, text: bytes, add_bos: bool = True) -> list[int]:
        return [0] * len(text.split())

    @property
    def kv_cache(self) -> KVCache:
        now = {**REPORT, "tokens": self.n_tokens, "n_ctx": N_CTX}
        return KVCache(lambda: packed_snapshot(now))

    def create_chat_completion(self, messages: Any, **kwargs: Any) -> Iterator[Any]:
        wanted = sum(len(m["content"].split()) + self.template for m in messages)
        if wanted >= N_CTX:
            raise ContextFullError("it must fit", f"{wanted} tokens", "")
        self.prompts.append([m["content"] for m in messages])
        self.n_tokens = wanted
        for _ in range(self.length):
            if self.n_tokens + 1 >= N_CTX:
                yield {"choices": [{"delta": {}, "finish_reason": "length"}]}
                return
            self.n_tokens += 1
            yield {"choices": [{"delta": {"content": "word "}, "finish_reason": None}]}
        yield {"choices": [{"delta": {}, "finish_reason": "stop"}]}


def chat_with(llm: Any, system: str = "Be brief.") -> Chat:
    return Chat(llm, Fingerprint("m.gguf", 5), Conversation(system), Sampling())


def ask(chat: Chat, text: str) -> tuple[Reply | None, str]:
    return take_turn(chat, text, Screen(), status=True)


@pytest.mark.parametrize("template", [0, 2, 12])
@pytest.mark.parametrize("length", [1, 5, 30, 200])
def test_a_chat_never_ends(length: int, template: int, capsys: pytest.CaptureFixture[str]) -> None:
    llm = CountingModel(length, template)
    chat = chat_with(llm)
    for i in range(60):
        reply, back = ask(chat, f"question {i}")
        assert reply is not None and reply.text and back == ""
        assert llm.prompts[-1][0] == "Be brief."
        assert llm.prompts[-1][-1] == f"question {i}"
    assert chat.conversation.turns == 60
    assert 0 < chat.conversation.forgotten < 60
    out = capsys.readouterr().out
    assert "the model does not see them" in out
    assert ("end of the context" in out) == (length == 200)


def test_what_is_left_out_is_said_once_and_half_the_context_is_free_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    llm = CountingModel(length=8, template=8)
    chat = chat_with(llm)
    notes: list[tuple[int, int]] = []
    for i in range(12):
        ask(chat, f"question {i}")
        out = capsys.readouterr().out
        if "does not fit" in out or "do not fit" in out:
            notes.append((i, chat.conversation.forgotten))
            assert f"first {chat.conversation.forgotten} turns do not fit" in out
            assert llm.n_tokens - 8 <= N_CTX // 2
    assert len(notes) >= 2
    assert notes[1][0] - notes[0][0] > 1  # not at every turn from then on


def test_the_warning_comes_once_before(capsys: pytest.CaptureFixture[str]) -> None:
    chat = chat_with(CountingModel(length=3, template=3))
    warned_at, dropped_at = [], []
    for i in range(20):
        ask(chat, f"question {i}")
        out = capsys.readouterr().out
        warned_at += [i] if "soon the model" in out else []
        dropped_at += [i] if "do not fit" in out or "does not fit" in out else []
    assert warned_at[0] < dropped_at[0]
    assert len(warned_at) <= len(dropped_at) + 1


def test_a_message_that_is_too_long_is_named_and_costs_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    llm = CountingModel()
    chat = chat_with(llm)
    ask(chat, "Hello")
    before = [dict(m) for m in chat.conversation.messages]
    long = "many " * 120
    assert ask(chat, long) == (None, long)
    error = capsys.readouterr().err
    assert "this message does not fit: with the system prompt it needs 126 tokens" in error
    assert (chat.conversation.messages, chat.conversation.forgotten) == (before, 0)
    ask(chat, "Still there?")
    assert llm.prompts[-1][1:3] == ["Hello", "word word word word word "]


def test_a_message_that_leaves_no_room_for_a_word_is_too_long() -> None:
    chat = chat_with(CountingModel(), system="")
    text = "many " * (N_CTX - 1 - 2)
    assert ask(chat, text) == (None, text)
    reply, _ = ask(chat, "many " * (N_CTX - 2 - 2))
    assert reply is not None and reply.end is End.CONTEXT


def test_the_history_is_dropped_for_a_long_message_that_fits_alone() -> None:
    llm = CountingModel(length=20)
    chat = chat_with(llm)
    for i in range(2):
        ask(chat, f"question {i}")
    reply, _ = ask(chat, "many " * 70)
    assert reply is not None and len(reply.text.split()) == 20
    assert chat.conversation.forgotten == 2


def test_an_interrupted_reply_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = CountingModel(length=30)
    chat = chat_with(llm)
    for i in range(2):
        ask(chat, f"question {i}")
    assert chat.conversation.forgotten == 0

    def interrupted(messages: Any, **kwargs: Any) -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(llm, "create_chat_completion", interrupted)
    reply, back = ask(chat, "stop " * 20)
    assert reply is not None and reply.end is End.INTERRUPTED and back
    assert chat.conversation.forgotten == 0


def test_saved_chats_have_all_turns_and_clear_starts_anew(tmp_path: Path) -> None:
    chat = chat_with(CountingModel(length=20))
    for i in range(10):
        ask(chat, f"question {i}")
    assert chat.conversation.forgotten
    assert "saved 10 turns" in commands.run(f"/save {tmp_path / 'a'}", chat).text
    other = chat_with(CountingModel(length=20))
    assert "loaded 10 turns" in commands.run(f"/load {tmp_path / 'a'}", other).text
    reply, _ = ask(other, "Again")
    assert reply is not None and other.conversation.forgotten
    commands.run("/clear", chat)
    assert chat.conversation.forgotten == 0


def test_the_loop_keeps_the_message_with_the_reason_below_it() -> None:
    from xquant_gguf.chat import repl

    seen: list[tuple[str, str]] = []
    rest = iter(["many " * 120, "short", EOFError()])

    def read(draft: str, below: str) -> str:
        seen.append((draft, below))
        line = next(rest)
        if isinstance(line, BaseException):
            raise line
        return line

    repl.chat_loop(chat_with(CountingModel()), Screen(), read)
    assert [draft for draft, _ in seen] == ["", ("many " * 120).strip(), ""]
    assert "does not fit" in seen[1][1]
    assert seen[2][1] == ""
    assert run_loop(chat_with(CountingModel()), ["Hi"]) == ["", ""]


@pytest.mark.model
def test_a_long_conversation_with_a_real_model(
    smollm2: Path, packed_library: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from xquant_gguf import Llama

    with closing(Llama(smollm2, n_ctx=512, n_threads=2, n_threads_batch=2, verbose=False)) as llm:
        chat = chat_with(llm, "You are a helpful assistant.")
        chat.sampling = Sampling(temperature=0.0, max_tokens=80)
        cache = llm.kv_cache.bytes_total
        for i in range(9):
            reply, back = ask(chat, f"Tell me a story about the number {i}.")
            assert reply is not None and reply.text and back == ""
            assert reply.end in (End.STOP, End.MAX_TOKENS)
        assert chat.conversation.forgotten
        reply, back = ask(chat, "word " * 600)
        assert reply is None and back
        reply, _ = ask(chat, "Name the capital city of Italy.")
        assert reply is not None and "Rome" in reply.text
        assert llm.kv_cache.bytes_total == cache
    assert "the model does not see them" in capsys.readouterr().out
