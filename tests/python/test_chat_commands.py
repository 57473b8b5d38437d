"""The commands of a chat that change it, save it with its cache, or load a model anew."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_chat_survives import lines
from test_chat_units import FakeModel, ask, chat_with

from xquant_gguf.chat import commands, repl
from xquant_gguf.chat.arguments import parse
from xquant_gguf.chat.opening import Opener, context
from xquant_gguf.chat.sampling import Sampling
from xquant_gguf.chat.screen import Screen
from xquant_gguf.chat.session_file import Fingerprint
from xquant_gguf.chat.state import Chat
from xquant_gguf.errors import ContextFullError
from xquant_gguf.gguf_header import read_header


@pytest.fixture
def talked() -> Chat:
    chat = chat_with(FakeModel("Fine."))
    for text in ("How are you?", "And now?"):
        ask(chat, text)
    return chat


def said(chat: Chat) -> list[str]:
    return [message["content"] for message in chat.conversation.messages]


def test_help_of_one_command_and_aliases() -> None:
    chat = chat_with(FakeModel())
    assert "temperature, top_p" in commands.run("/help set", chat).text
    refused = commands.run("/image cat.png", chat)
    assert refused.failed and "--mmproj" in refused.text
    assert commands.run("/help /set", chat) == commands.run("/help set", chat)
    assert commands.run("/help nothing", chat).failed
    for name in ("/bye", "/exit", "/quit"):
        assert commands.run(name, chat).leave
        assert name in commands.names()
    assert max(map(len, commands.run("/help", chat).text.splitlines())) <= 80


def test_undo_edit_and_history(talked: Chat) -> None:
    assert commands.run("/history", talked).messages == tuple(talked.conversation.messages)
    assert commands.run("/edit", talked).draft == "And now?"
    assert said(talked) == ["How are you?", "Fine."]
    assert commands.run("/undo", talked).text == "took back 'How are you?'; 0 turns left"
    for name in ("/undo", "/edit", "/regen", "/history", "/copy"):
        assert commands.run(name, talked).failed


def test_regen_asks_again_with_another_seed(talked: Chat) -> None:
    llm: Any = talked.llm
    talked.sampling = Sampling(seed=5)
    llm.script = ("Better.",)
    repl.chat_loop(talked, Screen(), lines("/regen", "/bye"))
    assert said(talked) == ["How are you?", "Fine.", "And now?", "Better."]
    first = llm.seen[-1]["seed"]
    repl.chat_loop(talked, Screen(), lines("/regen", "/bye"))
    assert llm.seen[-1]["seed"] != first


@pytest.mark.parametrize(
    "failure", [KeyboardInterrupt(), RuntimeError("no"), ContextFullError("it must fit", "9", "")]
)
def test_a_reply_that_cannot_be_had_again_is_kept(talked: Chat, failure: BaseException) -> None:
    before = said(talked)
    llm: Any = talked.llm
    llm.script = (failure,)
    repl.chat_loop(talked, Screen(), lines("/regen", "", "/bye"))
    assert said(talked) == before


def test_set_shows_and_changes_the_sampling() -> None:
    chat = chat_with(FakeModel())
    assert "temperature" in commands.run("/set", chat).text
    for line in ("/set temperature 0.25", "/set top-k=7", "/set seed 3", "/set seed none"):
        assert not commands.run(line, chat).failed
    assert chat.sampling == dataclasses.replace(Sampling(), temperature=0.25, top_k=7)
    for line in ("/set heat 3", "/set top_p 3", "/set top_k 1.5", "/set top_k", "/set min_p nan"):
        assert commands.run(line, chat).failed, line
    assert chat.sampling == dataclasses.replace(Sampling(), temperature=0.25, top_k=7)


def test_a_file_is_sent_with_a_question(tmp_path: Path) -> None:
    chat = chat_with(FakeModel("Short."))
    file = tmp_path / "my notes.txt"
    file.write_text("first ```line\n", "utf-8")
    sent = commands.run(f'/file "{file}" Sum this up.', chat).send
    assert sent == f"Sum this up.\n\n{file}:\n````\nfirst ```line\n````"
    repl.chat_loop(chat, Screen(), lines(f'/file "{file}"', "/bye"))
    assert "first" in said(chat)[0]
    file.write_bytes(b"\xff\xfe\x00bad")
    (tmp_path / "big").write_bytes(b"a" * (1 << 20) + b"b")
    for name in (f'"{file}"', tmp_path / "none", tmp_path, tmp_path / "big", ""):
        assert commands.run(f"/file {name}", chat).failed


def test_copy_reaches_a_terminal_only(talked: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run("/copy", talked).copy == "Fine."
    repl.chat_loop(talked, Screen(), lines("/copy", "/bye"))
    assert "\x1b]52" not in capsys.readouterr().out


def test_load_shows_the_chat(
    talked: Chat, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.json"
    commands.run(f"/save {file}", talked)
    other = chat_with(FakeModel())
    repl.chat_loop(other, Screen(), lines(f"/load {file}", "/bye"))
    shown = capsys.readouterr().out
    assert shown == ">>> How are you?\nFine.\n>>> And now?\nFine.\nloaded 2 turns\n"


def test_prompts_go_beside_the_output_of_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("builtins.input", lambda: "hello")
    assert repl.plain_reader()("", "too long") == "hello"
    assert capsys.readouterr() == ("", "too long\n>>> ")


# with a real model


@pytest.fixture
def opened(smollm2: Path, packed_library: None) -> Any:
    chats: list[Chat] = []

    def open_chat(kv: str = "balanced", ctx: int = 2048) -> Chat:
        options = parse([str(smollm2), "--kv", kv, "--ctx", str(ctx), "--threads", "2",
                         "--temperature", "0", "--max-tokens", "12"])  # fmt: skip
        opener = Opener(options, str(smollm2), ctx)
        chat = chat_with(FakeModel(), open_model=opener.again)
        chat.llm, chat.model = opener.load(), Fingerprint.of(str(smollm2))
        chat.sampling, chat.kv_text = options.sampling, kv
        chats.append(chat)
        return chat

    yield open_chat
    for chat in chats:
        chat.llm.close()


@pytest.mark.model
@pytest.mark.parametrize("kv", ["f16", "balanced"])
def test_a_saved_chat_goes_on_without_reading_again(
    opened: Callable[..., Chat], tmp_path: Path, kv: str
) -> None:
    chat = opened(kv)
    ask(chat, "The lighthouse keeper counted ships. " * 40 + "What did he count?")
    file = tmp_path / "c.json"
    text = commands.run(f"/save {file}", chat).text
    assert text.startswith("saved 1 turn to ") and "MiB of cache" in text
    expected, _ = ask(chat, "And where?")
    for used in (True, False):
        other = opened(kv)
        if not used:
            (tmp_path / "c.json.cache").unlink()
        loaded = commands.run(f"/load {file}", other).text
        assert ("tokens ready in the cache" in loaded) == used
        read: list[int] = []
        llm: Any = other.llm
        llm.eval = lambda tokens, stock=llm.eval, read=read: (
            read.append(len(tokens)),
            stock(tokens),
        )
        begun = time.perf_counter()
        reply, _ = ask(other, "And where?")
        print(f"{kv}, cache {used}: {read[0]} tokens read, {time.perf_counter() - begun:.2f} s")
        assert (read[0] < 40) == used
        assert reply is not None and expected is not None
        assert reply.text == expected.text or not used or kv == "f16"


@pytest.mark.model
def test_a_cache_that_does_not_fit_is_only_read_again(
    opened: Callable[..., Chat], tmp_path: Path
) -> None:
    chat = opened()
    ask(chat, "Hello")
    file, cache = tmp_path / "c.json", tmp_path / "c.json.cache"
    commands.run(f"/save {file}", chat)
    whole = cache.read_bytes()
    for data in (b"", b"PK\x03\x04junk", whole[: len(whole) // 2], whole[:-400] + whole[-200:]):
        cache.write_bytes(data)
        assert "cannot be used" in commands.run(f"/load {file}", chat).text
        assert chat.llm.n_tokens == 0 or data != whole
        assert ask(chat, "And?")[0] is not None
    cache.write_bytes(whole)
    file.write_text(file.read_text("utf-8").replace("Hello", "Hallo"), "utf-8")
    assert "of another version" in commands.run(f"/load {file}", chat).text


@pytest.mark.model
def test_another_cache_and_another_model(
    opened: Callable[..., Chat], gemma: Path, tmp_path: Path
) -> None:
    chat = opened("balanced", 1024)
    ask(chat, "Hello")
    turns = said(chat)
    assert "packed" in commands.run("/kv", chat).text
    assert "f16 KV" in commands.run("/kv f16", chat).text
    assert (chat.kv_text, chat.llm.kv_cache.snapshot().kind) == ("f16", "f16")
    for bad in ("/kv none-such", f"/model {tmp_path / 'no.gguf'}"):
        assert commands.run(bad, chat).failed
        assert chat.llm.kv_cache.snapshot().kind == "f16"
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(gemma.read_bytes()[: 200 << 20])
    assert commands.run(f"/model {broken}", chat).failed
    assert ask(chat, "And now?")[0] is not None
    assert "gemma" in commands.run(f"/model {gemma}", chat).text
    assert chat.model.name == gemma.name
    assert said(chat)[: len(turns)] == turns
    assert ask(chat, "And now?")[0] is not None


@pytest.mark.model
def test_the_context_is_the_models_own_or_what_fits(
    smollm2: Path, packed_library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xquant_gguf.chat import model

    info = read_header(str(smollm2))

    def chosen(*more: str) -> int | None:
        return context(parse([str(smollm2), *more]), str(smollm2), info)

    assert chosen() == info.n_ctx_train == 8192
    assert (chosen("--ctx", "300"), chosen("--ctx", "0")) == (300, 8192)
    monkeypatch.setattr(model, "available_bytes", lambda: 4 * 150_000_000)
    little, more = chosen("--kv", "f16"), chosen()
    assert little is not None and more is not None
    assert 256 <= little < more <= 8192


def test_thoughts_are_shown_on_demand_and_folded(talked: Chat) -> None:
    chat = talked
    assert commands.run("/think", chat).text == "the last reply has no thoughts"
    chat.conversation.ask("two?")
    chat.conversation.answer("<think>one more than one</think>2")
    assert commands.run("/think", chat).text == "one more than one"
    assert commands.run("/think fold", chat).fold is True
    assert commands.run("/think show", chat).fold is False
    wrong = commands.run("/think off", chat)
    assert wrong.failed and "fold or show; got 'off'" in wrong.text
