"""Nothing ends a chat without its conversation being kept; nothing odd is left unsaid."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
from test_chat_units import FakeModel, ask, chat_with

from xquant_gguf.chat import commands, figures, repl, session_file
from xquant_gguf.chat.arguments import parse
from xquant_gguf.chat.screen import Screen
from xquant_gguf.chat.state import Chat
from xquant_gguf.config import FLAGS, PRESETS, XQuantConfig, parse_setting
from xquant_gguf.errors import ConfigError, ModelFileError
from xquant_gguf.kv_cache import packed_snapshot

Run = Callable[..., "subprocess.CompletedProcess[str]"]


class Odd(Exception):
    pass


ERRORS = [
    jinja2.TemplateError("broken"), jinja2.UndefinedError("messages"), AssertionError(),
    KeyError("role"), IndexError("9"), ZeroDivisionError("division by zero"), AttributeError("x"),
    RecursionError("too deep"), MemoryError(), OSError(5, "Input/output error"), Odd("never seen"),
    UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), StopIteration(), SystemError("c"),
]  # fmt: skip


class Failing(FakeModel):
    """Fails with an error in the first turns, then answers."""

    def __init__(self, error: BaseException, times: int = 1) -> None:
        super().__init__("Yes.")
        self.error, self.times = error, times

    def create_chat_completion(self, messages: Any, **kwargs: Any) -> Any:
        if self.times:
            self.times -= 1
            raise self.error
        return super().create_chat_completion(messages, **kwargs)


def talked(llm: FakeModel) -> Chat:
    chat = chat_with(FakeModel("Before."))
    ask(chat, "First")
    chat.llm = llm
    return chat


def lines(*script: str | BaseException) -> repl.ReadLine:
    """A reader of these lines; exceptions are raised, and the end is the end."""
    source = iter(script)

    def read(draft: str, below: str) -> str:
        line = next(source, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line or draft

    return read


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "xquant-gguf"


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_whatever_a_turn_raises_the_chat_goes_on(
    error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = talked(Failing(error))
    saved = tmp_path / "c.json"
    repl.chat_loop(chat, Screen(), lines("Second", "", f"/save {saved}", "/bye"))
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith(f"error: there is no reply: {type(error).__name__}"), line
    assert "/save FILE" in line
    assert session_file.load(saved, chat.model).messages == chat.conversation.messages
    texts = [m["content"] for m in chat.conversation.messages]
    assert texts == ["First", "Before.", "Second", "Yes."]  # the line was offered again


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_whatever_a_command_raises_the_chat_goes_on(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(session_file, "load", fail)
    chat = talked(FakeModel("Yes."))
    repl.chat_loop(chat, Screen(), lines("/load x", "Second"))
    assert f"/load did not work: {type(error).__name__}" in capsys.readouterr().err
    assert chat.conversation.turns == 2


def test_a_line_that_cannot_be_read_is_one_line_lost(capsys: pytest.CaptureFixture[str]) -> None:
    chat = talked(FakeModel("Yes."))
    bad = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    repl.chat_loop(chat, Screen(), lines(bad, "Second", bad, "Third"))
    assert chat.conversation.turns == 3
    assert capsys.readouterr().err.count("could not be read: UnicodeDecodeError") == 2


@pytest.mark.parametrize(
    "end", [[ValueError("I/O operation on closed file")] * 9, [SystemExit(3)], [GeneratorExit()]]
)
def test_what_does_end_it_keeps_the_conversation(
    end: list[BaseException], state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = talked(FakeModel("Yes."))
    with pytest.raises(type(end[0])):
        repl.chat_loop(chat, Screen(), lines("Second", *end))
    (kept,) = state.glob("rescued-*.json")
    assert f"/load {kept}" in capsys.readouterr().err
    other = chat_with(FakeModel())
    assert commands.run(f"/load {kept}", other).text == "loaded 2 turns"


def test_an_empty_chat_leaves_nothing_behind(state: Path) -> None:
    with pytest.raises(SystemExit):
        repl.chat_loop(chat_with(FakeModel()), Screen(), lines(SystemExit(1)))
    assert not state.exists()


# the command line


@pytest.mark.parametrize(
    "args, setting, value",
    [
        (["--k-bits", "1.5"], "k_bits", 1.5),
        (["--k-bits", "3"], "k_bits", 3),
        (["--k-layers", "2/1*"], "k_layers", "2/1*"),
        (["--v-layers", "2/1/3"], "v_layers", "2/1/3"),
        (["--kv", "small", "--v-layers", "never"], "v_layers", None),
        (["--kv", "xquant", "--v-share-from", "0.25"], "v_share_from", 0.25),
    ],
)
def test_settings_that_the_help_shows(args: list[str], setting: str, value: object) -> None:
    kv = parse(["--show-config", *args]).kv
    assert getattr(kv, setting) == value
    assert type(getattr(kv, setting)) is type(value)


@pytest.mark.parametrize("name", [n for n, kv in PRESETS.items() if isinstance(kv, XQuantConfig)])
def test_every_setting_of_every_preset_can_be_given(name: str) -> None:
    texts = dict(pair.split("=") for pair in PRESETS[name].to_text().split(","))  # type: ignore[union-attr]
    flags = [part for key, text in texts.items() for part in (f"--{key.replace('_', '-')}", text)]
    given = parse(["--show-config", *flags]).kv
    assert isinstance(given, XQuantConfig)
    assert given.to_text() == PRESETS[name].to_text()  # type: ignore[union-attr]
    assert set(texts) == set(FLAGS)


@pytest.mark.parametrize("name, text", [("sink", "-1"), ("window", "x"), ("v_bits", "2.0")])
def test_a_bad_setting_is_told_as_it_was_given(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        XQuantConfig(**{name: parse_setting(name, text)})  # type: ignore[arg-type]
    assert text in caught.value.value


def test_a_packed_cache_larger_than_f16_is_named() -> None:
    report = {
        "n_ctx": 512, "tokens": 0, "bytes_f16": 1000, "layers": [{"il": 0, "packed": True}],
        "code_bits": 2.0, "true_bits": 2.3, "allocated_bits": 18.0,
        "bytes": {"codes": 100, "scales": 10, "residual": 900, "scratch": 5000},
    }  # fmt: skip
    assert "512 tokens takes" in figures.larger_than_f16(packed_snapshot(report))
    assert figures.larger_than_f16(packed_snapshot({**report, "bytes_f16": 1010})) == ""


# real models

TEMPLATE = b"tokenizer.chat_template"


@pytest.fixture
def with_template(smollm2: Path, tmp_path: Path) -> Callable[[str | None], Path]:
    """A copy of SmolLM2 with another chat template of the same length, or without one."""

    def copy(template: str | None) -> Path:
        data = bytearray(smollm2.read_bytes())
        at = data.index(TEMPLATE)
        if template is None:
            data[at : at + len(TEMPLATE)] = TEMPLATE[:-1] + b"X"
        else:
            start = at + len(TEMPLATE) + 4
            length = int.from_bytes(data[start : start + 8], "little")
            assert len(template) <= length
            data[start + 8 : start + 8 + length] = template.ljust(length).encode()
        path = tmp_path / "other.gguf"
        path.write_bytes(data)
        return path

    return copy


@pytest.mark.model
@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[5]['role'] }}",
        "{{ 1 // 0 }}",
        "{{ raise_exception('no system') }}",
        "{{ x.y.z }}",
    ],
)
def test_a_template_that_fails_is_one_line(
    with_template: Callable[..., Path], run_chat: Run, template: str
) -> None:
    done = run_chat(with_template(template), "--ctx", 512, "--kv", "f16", "--prompt", "hi")
    assert done.returncode == 1, done
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.model
def test_a_broken_template_is_warned_of_and_can_be_replaced(
    with_template: Callable[..., Path], run_chat: Run, tmp_path: Path
) -> None:
    from xquant_gguf import Llama

    path = with_template("{% if messages %}{{ never closed")
    with pytest.warns(UserWarning, match="chat template is broken .TemplateSyntaxError"):
        llm = Llama(path, n_ctx=256, kv="f16", verbose=False)
    assert llm.chat_format == "llama-2"
    llm.close()
    jinja = tmp_path / "t.jinja"
    jinja.write_text("{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}")
    short = ("--ctx", 256, "--kv", "f16", "--max-tokens", 4, "--prompt", "hi")
    done = run_chat(path, *short)
    assert done.returncode == 0, done
    assert "the model's chat template is broken (TemplateSyntaxError" in done.stderr
    for chosen in (jinja, "chatml"):
        done = run_chat(path, *short, "--chat-template", chosen)
        assert done.returncode == 0, done
        assert "template" not in done.stderr


@pytest.mark.model
def test_a_model_without_a_template_is_told(
    with_template: Callable[..., Path], run_chat: Run
) -> None:
    path = with_template(None)
    done = run_chat(path, "--ctx", 256, "--kv", "f16", "--max-tokens", 4, "--prompt", "hi")
    assert done.returncode == 0, done
    assert "[the model has no chat template: llama-2's is used" in done.stderr


@pytest.mark.model
def test_bad_chat_templates_are_refused(smollm2: Path, run_chat: Run, tmp_path: Path) -> None:
    broken = tmp_path / "b.jinja"
    broken.write_text("{% for %}")
    for given, words in (
        ("no-such-format", "chatml"),
        (broken, "sound Jinja template"),
        (tmp_path, "Is a directory"),
        ("/dev/zero", "more than a MiB"),
        ("n" * 300, "name a format or a file"),
    ):
        done = run_chat(smollm2, "--chat-template", given, "--prompt", "hi")
        assert (done.returncode, done.stdout) == (2, ""), done
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.model
def test_options_without_effect_are_told(smollm2: Path, run_chat: Run) -> None:
    import llama_cpp

    done = run_chat(smollm2, "--ctx", 512, "--gpu-layers", 99, "--max-tokens", 4, "--prompt", "hi")
    assert done.returncode == 0, done
    assert "[a packed cache of 512 tokens takes 12.9 MiB, f16 only 11.2 MiB" in done.stderr
    if not llama_cpp.llama_supports_gpu_offload():
        assert "[--gpu-layers 99 has no effect" in done.stderr


@pytest.mark.model
def test_a_lora_file_that_cannot_be_used_is_refused(smollm2: Path, tmp_path: Path) -> None:
    from test_header_fuzz import BASES, header

    from xquant_gguf import Llama

    adapter, text = tmp_path / "adapter.gguf", tmp_path / "text.gguf"
    adapter.write_bytes(header(BASES["adapter"]))
    text.write_text(json.dumps({"peft_type": "LORA"}))
    for lora, words in (
        (tmp_path / "none.gguf", "must exist"),
        (text, "GGUF"),
        (smollm2, "must be one for this model"),
        (adapter, "must be one for this model"),
    ):
        with pytest.raises(ModelFileError, match=words) as caught:
            Llama(smollm2, n_ctx=256, kv="f16", verbose=False, lora_path=str(lora))
        assert str(lora) in str(caught.value)
