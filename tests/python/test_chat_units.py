"""The parts of the chat, with a scripted model in place of a real one."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xquant_gguf.chat import commands, figures, repl, session_file
from xquant_gguf.chat.arguments import parse
from xquant_gguf.chat.conversation import Conversation
from xquant_gguf.chat.reply import End, Reply
from xquant_gguf.chat.sampling import Sampling
from xquant_gguf.chat.screen import Screen, clean
from xquant_gguf.chat.session_file import Fingerprint
from xquant_gguf.chat.state import Chat
from xquant_gguf.chat.turn import take_turn
from xquant_gguf.chat.wrap import WordWrap
from xquant_gguf.config import XQuantConfig
from xquant_gguf.errors import ContextFullError, SessionFileError
from xquant_gguf.kv_cache import CacheSnapshot, KVCache, packed_snapshot, stock_snapshot
from xquant_gguf.stock import STOCK

REPORT = {
    "format_version": 1, "n_ctx": 1024, "tokens": 100, "config": "k_bits=2",
    "bytes": {"codes": 1000, "scales": 200, "residual": 300, "scratch": 77, "unpacked": 50},
    "bytes_f16": 16000, "code_bits": 2.0, "true_bits": 2.5, "allocated_bits": 3.0,
    "layers": [
        {"il": 0, "packed": True, "k_bits": 2, "v_bits": 1, "k_leader": -1, "v_leader": -1},
        {"il": 1, "packed": True, "k_bits": 2, "v_bits": 1, "k_leader": -1, "v_leader": 0},
    ],
}  # fmt: skip


class FakeModel:
    """Answers every message with the scripted pieces; an exception in the script is raised."""

    def __init__(self, *script: str | BaseException, reason: str = "stop", n_ctx: int = 1024):
        self.script = script
        self.reason = reason
        self.n_tokens = 0
        self.prompt_progress: Any = None
        self.seen: list[dict[str, Any]] = []
        self._n_ctx = n_ctx

    def n_ctx(self) -> int:
        return self._n_ctx

    def cancel(self) -> bool:
        return False

    def tokenize(self, text: bytes, add_bos: bool = True) -> list[int]:
        return [0] * len(text.split())

    @property
    def kv_cache(self) -> KVCache:
        return KVCache(lambda: packed_snapshot({**REPORT, "tokens": self.n_tokens}))

    def create_chat_completion(self, messages: Any, **kwargs: Any) -> Iterator[Any]:
        self.seen.append({"messages": messages, **kwargs})
        self.n_tokens += 10
        for piece in self.script:
            if isinstance(piece, BaseException):
                raise piece
            yield {"choices": [{"delta": {"content": piece}, "finish_reason": None}]}
            self.n_tokens += 1
        yield {"choices": [{"delta": {}, "finish_reason": self.reason}]}


def chat_with(llm: FakeModel, **changes: Any) -> Chat:
    return Chat(llm, Fingerprint("m.gguf", 5), Conversation(), Sampling(), **changes)


def ask(chat: Chat, text: str) -> tuple[Reply | None, str]:
    return take_turn(chat, text, Screen(), status=True)


def full() -> ContextFullError:
    return ContextFullError("it must fit", "2000 tokens", "")


# turns


def test_a_turn_streams_and_is_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    llm = FakeModel("Hel", "lo.")
    chat = chat_with(llm)
    chat.conversation.system = "Be brief."
    reply, back = ask(chat, "Hi")
    assert reply is not None
    assert (reply.text, reply.end, reply.tokens, back) == ("Hello.", End.STOP, 3, "")
    out = capsys.readouterr().out
    assert out.startswith("Hello.\n")
    assert "context 12/1024" in out
    assert "2.50 true bits" in out
    ask(chat, "Again")
    assert [m["content"] for m in llm.seen[1]["messages"]] == ["Be brief.", "Hi", "Hello.", "Again"]
    assert llm.seen[1]["stream"] is True


def test_ctrl_c_keeps_the_part_that_came(capsys: pytest.CaptureFixture[str]) -> None:
    chat = chat_with(FakeModel("Once ", KeyboardInterrupt()))
    reply, back = ask(chat, "Story")
    assert reply is not None
    assert (reply.end, back) == (End.INTERRUPTED, "")
    assert chat.conversation.messages[-1]["content"] == "Once "
    assert "[stopped]" in capsys.readouterr().out


def test_ctrl_c_before_the_first_word_gives_the_message_back() -> None:
    chat = chat_with(FakeModel(KeyboardInterrupt()))
    _, back = ask(chat, "Story")
    assert back == "Story"
    assert chat.conversation.messages == []


@pytest.mark.parametrize(
    "llm",
    [FakeModel("a", "b", reason="length", n_ctx=13), FakeModel("a", "b", full())],
)
def test_the_end_of_the_context_is_said(llm: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    chat = chat_with(llm)
    reply, _ = ask(chat, "Story")
    assert reply is not None
    assert reply.end is End.CONTEXT
    assert chat.conversation.messages[-1]["content"] == "ab"
    assert "end of the context" in capsys.readouterr().out


def test_the_longest_reply_is_told_from_the_end_of_the_context() -> None:
    chat = chat_with(FakeModel("a", "b", reason="length"))
    chat.sampling = Sampling(max_tokens=2)
    reply, _ = ask(chat, "Story")
    assert reply is not None
    assert reply.end is End.MAX_TOKENS


def test_a_message_that_does_not_fit_is_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    chat = chat_with(FakeModel(full()))
    reply, back = ask(chat, "long")
    assert (reply, back) == (None, "long")
    assert chat.conversation.messages == []
    assert "does not fit" in capsys.readouterr().err


def test_another_failure_leaves_no_half_turn() -> None:
    chat = chat_with(FakeModel("a", RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        ask(chat, "Hi")
    assert (chat.conversation.messages, chat.conversation.waiting) == ([], None)


# the loop


def run_loop(chat: Chat, lines: list[str | BaseException]) -> list[str]:
    """Run the chat on scripted lines; returns the drafts that the reader was given."""
    drafts: list[str] = []
    rest = iter([*lines, EOFError()])

    def read(draft: str, below: str) -> str:
        drafts.append(draft)
        line = next(rest)
        if isinstance(line, BaseException):
            raise line
        return line

    repl.chat_loop(chat, Screen(), read)
    return drafts


def test_the_loop_survives_failures_and_returns_the_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for failure in (full(), RuntimeError("broken"), ValueError("no template"), KeyboardInterrupt()):
        chat = chat_with(FakeModel(failure))
        assert run_loop(chat, ["my words", "/stats"]) == ["", "my words", ""]
    errors = capsys.readouterr().err
    for words in ("does not fit", "RuntimeError: broken", "ValueError: no template"):
        assert words in errors


def test_the_loop_ends_at_bye_and_skips_what_is_empty() -> None:
    llm = FakeModel("x")
    assert len(run_loop(chat_with(llm), ["", "  ", KeyboardInterrupt(), "/bye", "never"])) == 4
    assert llm.seen == []


def test_a_space_before_a_slash_makes_it_a_message() -> None:
    llm = FakeModel("x")
    run_loop(chat_with(llm), [" /etc is what?"])
    assert llm.seen[0]["messages"][-1]["content"] == "/etc is what?"


def test_history_is_kept_in_the_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert repl.history_file() == tmp_path / "xquant-gguf" / "chat_history"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert repl.history_file() is None


# commands


def test_commands_are_all_explained_and_unknown_ones_refused() -> None:
    chat = chat_with(FakeModel())
    text = commands.run("/help", chat).text
    for name in commands.COMMANDS:
        assert name in text
    wrong = commands.run("/halp", chat)
    assert wrong.failed
    assert "/halp" in wrong.text


def test_system_and_clear() -> None:
    chat = chat_with(FakeModel("x"))
    commands.run("/system Be  kind. ", chat)
    assert chat.conversation.system == "Be  kind."
    assert commands.run("/system", chat).text == "Be  kind."
    ask(chat, "Hi")
    commands.run("/clear", chat)
    assert (chat.conversation.messages, chat.conversation.system) == ([], "Be  kind.")
    commands.run("/system -", chat)
    assert chat.conversation.system == ""


def test_stats_show_every_kind_of_byte_and_the_plan() -> None:
    text = commands.run("/stats", chat_with(FakeModel())).text
    for words in ("codes", "scales", "full precision", "not packed", "scratch", "9.7% of f16"):
        assert words in text
    assert "K 2 bits, V 1 bits" in text
    assert "V shared" in text


def test_a_long_alternating_plan_is_folded() -> None:
    base = {"packed": True, "k_bits": 2, "v_bits": 1, "k_leader": -1}
    layers = [{**base, "il": i, "v_leader": i - 1 if i >= 16 and i % 2 else -1} for i in range(32)]
    cache = packed_snapshot({**REPORT, "layers": layers})
    rows = figures.plan_rows(cache)
    assert [label for label, _ in rows] == ["layers 0-31"] or len(rows) <= 3
    assert "V shared" in rows[-1][1]


# session files


@pytest.fixture
def talked() -> Chat:
    chat = chat_with(FakeModel("Antwort ✓"), kv_text="k_bits=2")
    chat.sampling = Sampling(temperature=0.3, seed=7)
    chat.conversation.system = "sys"
    ask(chat, "Frage\nzwei")
    return chat


def test_save_and_load_bring_everything_back(talked: Chat, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    assert "saved 1 turn" in commands.run(f"/save {file}", talked).text
    other = chat_with(FakeModel(), kv_text="k_bits=2")
    assert commands.run(f"/load {file}", other).text == "loaded 1 turn"
    assert other.conversation == talked.conversation
    assert other.sampling == talked.sampling
    assert os.listdir(tmp_path) == ["a.json"]
    content = json.loads(file.read_text("utf-8"))
    assert (content["format"], content["version"]) == ("xquant-gguf chat", 1)
    assert content["model"] == {"file": "m.gguf", "size": 5}
    assert content["settings"]["kv"] == "k_bits=2"


def test_other_cache_settings_are_mentioned(talked: Chat, tmp_path: Path) -> None:
    commands.run(f"/save {tmp_path / 'a'}", talked)
    other = chat_with(FakeModel(), kv_text="k_bits=3")
    assert "other cache settings" in commands.run(f"/load {tmp_path / 'a'}", other).text


def _changed(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    node = content
    *steps, last = path.split(".")
    for step in steps:
        node = node[step]
    node[last] = value
    return content


@pytest.mark.parametrize(
    "path, value",
    [
        ("format", "other"), ("version", 2), ("version", None), ("messages", None),
        ("messages", [{"role": "user", "content": "x"}]), ("messages", [1]),
        ("messages", [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]),
        ("messages", [{"role": "user", "content": 1}, {"role": "assistant", "content": "y"}]),
        ("system", 3), ("settings", []), ("settings.temperature", "hot"), ("settings.n_ctx", "x"),
        ("settings.top_p", 7), ("model", None), ("model.size", 6), ("model.file", "n.gguf"),
    ],
)  # fmt: skip
def test_an_altered_file_is_refused_and_the_chat_kept(
    talked: Chat, tmp_path: Path, path: str, value: object
) -> None:
    file = tmp_path / "a.json"
    commands.run(f"/save {file}", talked)
    content = _changed(json.loads(file.read_text("utf-8")), path, value)
    file.write_text(json.dumps(content), "utf-8")
    before = dataclasses.replace(talked.conversation, messages=list(talked.conversation.messages))
    with pytest.raises(SessionFileError):
        session_file.load(file, talked.model)
    result = commands.run(f"/load {file}", talked)
    assert result.failed
    assert "\n" not in result.text
    assert talked.conversation == before


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[]", b"null", b"[" * 100_000])
def test_a_foreign_file_is_refused(talked: Chat, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    assert commands.run(f"/load {file}", talked).failed
    assert commands.run(f"/save {file}", talked).failed
    assert file.read_bytes() == content


def test_every_shortened_file_is_refused(talked: Chat, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    commands.run(f"/save {file}", talked)
    data = file.read_bytes()
    for size in range(0, len(data) - 1, 17):
        file.write_bytes(data[:size])
        with pytest.raises(SessionFileError):
            session_file.load(file, talked.model)


def test_missing_names_and_folders(talked: Chat, tmp_path: Path) -> None:
    for line in (
        "/load",
        "/save",
        f"/load {tmp_path}",
        f"/load {tmp_path}/none",
        f"/save {tmp_path}/no/a",
    ):
        assert commands.run(line, talked).failed, line
    assert os.listdir(tmp_path) == []


def test_a_failed_save_leaves_the_old_file_whole(
    talked: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.json"
    commands.run(f"/save {file}", talked)
    before = file.read_bytes()
    ask(talked, "more")

    def disk_full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    result = commands.run(f"/save {file}", talked)
    assert result.failed
    assert "No space left" in result.text
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.json"]


# arguments


def test_arguments_become_settings() -> None:
    options = parse(
        [
            "m.gguf",
            "--kv",
            "xquant",
            "--k-bits",
            "3",
            "--v-share-from",
            "16",
            "--k-1bit-from",
            "never",
        ]
        + ["--ctx", "100", "--temperature", "0", "--seed", "5", "--k-meta", "q8", "--k-eta2", "0.1"]
    )
    assert isinstance(options.kv, XQuantConfig)
    assert (options.kv.k_bits, options.kv.v_bits, options.kv.v_share_from) == (3, 1, 16)
    assert (options.kv.k_1bit_from, options.kv.k_meta, options.kv.k_eta2) == (None, "q8", 0.1)
    assert (options.model, options.ctx, options.sampling.temperature) == ("m.gguf", 100, 0.0)
    assert options.sampling.keywords(turn=2)["seed"] == 7
    assert parse(["m.gguf"]).kv == XQuantConfig()


def test_without_a_seed_every_reply_has_another_one() -> None:
    seeds = {Sampling().keywords(0)["seed"] for _ in range(4)}
    assert len(seeds) == 4
    assert Sampling(max_tokens=0).keywords(0)["max_tokens"] is None


# what is shown


def test_replies_cannot_steer_the_terminal() -> None:
    assert clean("a\x1b[31mb\x07\n\tc\x9b0m\x7fé") == "a[31mb\n\tc0mé"


def test_words_are_kept_whole_at_the_edge() -> None:
    wrap = WordWrap(10)
    shown = (
        "".join(wrap.feed(piece) for piece in ("one tw", "o thr", "ee\nfour", " five5 x"))
        + wrap.flush()
    )
    assert shown == "one two \nthree\nfour five5\nx"
    assert WordWrap(10).feed("four five5 ") == "four five5\n"
    assert WordWrap(10).feed("four fives6 ") == "four \nfives6 "
    assert WordWrap(10).feed("x" * 40).count("x") >= 32


def test_the_cache_view_is_live_and_readable() -> None:
    llm = FakeModel("x")
    view = llm.kv_cache
    assert view.tokens == 0
    ask(chat_with(llm), "Hi")
    assert view.tokens == 11
    assert view.bytes == {
        "codes": 1000,
        "scales": 200,
        "residual": 300,
        "unpacked": 50,
        "scratch": 77,
    }
    assert view.bytes_total == 1550
    assert "11 of 1024 tokens" in repr(view)
    values = view.as_dict()
    json.dumps(values)
    assert {
        "tokens", "n_ctx", "bytes_total", "bytes_codes", "bytes_scales", "bytes_residual",
        "bytes_scratch", "bytes_f16", "code_bits", "true_bits", "layers",
    } <= set(values)  # fmt: skip


def test_a_stock_cache_has_the_same_figures() -> None:
    from test_config import SMOL

    q8 = stock_snapshot(SMOL, STOCK["q8_0"], STOCK["q8_0"], n_ctx=8192, tokens=3)
    assert isinstance(q8, CacheSnapshot)
    assert (q8.code_bits, q8.true_bits, q8.bytes_f16) == (8.0, 8.5, 188_743_680)
    assert q8.bytes_total == 188_743_680 * 8.5 / 16
    assert sum(layer["bytes_codes"] for layer in q8.layers) == q8.bytes_codes
    mixed = stock_snapshot(SMOL, STOCK["f16"], STOCK["q4_0"], n_ctx=256, tokens=0)
    assert (mixed.kind, mixed.true_bits) == ("f16/q4_0", (16 + 4.5) / 2)
