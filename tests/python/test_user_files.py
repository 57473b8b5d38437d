"""Plans, chats, partial results: damaged ones are refused by a typed error, and written whole."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import subprocess_env
from test_chat_units import FakeModel, ask, chat_with

from xquant_gguf import _files
from xquant_gguf._files import BadJson, check_writable, parse_json, read_json, write_whole
from xquant_gguf._measuring import check_output, check_plot, write_json
from xquant_gguf.chat import commands, session_file
from xquant_gguf.chat.state import Chat
from xquant_gguf.config import XQuantConfig
from xquant_gguf.errors import ConfigError, SessionFileError
from xquant_gguf.eval.resume import Pieces
from xquant_gguf.plan_file import check_replaceable, read_plan, resolve_auto, settings_of

PLAN: dict[str, Any] = {
    "format": "xquant-plan",
    "version": 1,
    "model": {"name": "m.gguf", "fingerprint": "0" * 64},
    "settings": settings_of(XQuantConfig(k_layers="2/1.5/3", v_layers="2/1/2")),
    "true_bits": 2.3,
    "layers": [{}, {}, {}],
}
ODD = (
    [None, True, 0, -1, 3, 2**31, 2**63 - 1, 10**30, 10**400, 1e308, -0.0, "", "x", "2/1*", "٢"]
    + ["é" * 300, "\ud800", "a" * 100_000, "\0", [], {}, [[]], {"a": []}, [1, 2, 3]]
    + [float("nan"), float("inf"), json.loads("[" * 40 + "]" * 40)]
)


def talked() -> Chat:
    chat = chat_with(FakeModel("Antwort ✓"), kv_text="k_bits=2")
    ask(chat, "Frage")
    return chat


def mutants(content: dict[str, Any], count: int, seed: int) -> Iterator[bytes]:
    """The file with a value replaced, taken out or doubled, or with bytes altered."""
    rng = random.Random(seed)
    for _ in range(count):
        changed = json.loads(json.dumps(content))
        node: Any = changed
        while True:
            keys = list(node) if isinstance(node, dict) else range(len(node))
            key = rng.choice(list(keys))
            if not isinstance(node[key], (dict, list)) or not node[key] or rng.random() < 0.3:
                break
            node = node[key]
        kind = rng.randrange(8)
        if kind == 0:
            del node[key]
        elif kind < 6:
            node[key] = rng.choice(ODD)
        elif isinstance(node, dict):
            node[f"{key}2"] = node[key]
        text = bytearray(json.dumps(changed).encode())
        if kind == 6:
            text += text[: rng.randrange(len(text))]
        elif kind == 7:
            for _ in range(rng.randrange(1, 4)):
                text[rng.randrange(len(text))] = rng.choice(b'"{}[],:0123456789eE+-.\\nNuI\xff \0')
        yield bytes(text)


def test_mutated_plans(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(PLAN))
    read_plan(str(path))
    for number, text in enumerate(mutants(PLAN, 2000, 1)):
        path.write_bytes(text)
        try:
            read_plan(str(path))
            check_replaceable(str(path))
        except ConfigError as error:
            assert len(str(error)) < 3000, number


def test_mutated_chats(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    chat = talked()
    commands.run(f"/save {path}", chat)
    content = json.loads(path.read_text("utf-8"))
    loaded = 0
    for number, text in enumerate(mutants(content, 2000, 2)):
        path.write_bytes(text)
        before = list(chat.conversation.messages)
        try:
            session_file.load(path, chat.model)
        except SessionFileError as error:
            assert len(str(error)) < 3000, number
        result = commands.run(f"/load {path}", chat)
        if result.failed:
            assert "did not work" not in result.text, (number, result.text)
            assert chat.conversation.messages == before, number
        else:
            loaded += 1
            assert not commands.run(f"/save {path}", chat).failed, number
            chat.sampling.keywords(3)
            commands.run("/stats", chat)
    assert loaded > 50


def test_mutated_partial_results(tmp_path: Path) -> None:
    path = str(tmp_path / "r.partial")
    pieces = Pieces(path, {"run": 1})
    pieces.put({"a": [1.5, 2]}, "kl", 3)
    pieces.put(None, "kl", 4)
    lines = Path(path).read_bytes().splitlines()
    sources = [mutants(json.loads(line), 400, seed) for seed, line in enumerate(lines)]
    for texts in zip(*sources):
        Path(path).write_bytes(b"\n".join(random.Random(texts[0]).sample(texts, 3)) + b"\n")
        with contextlib.suppress(SessionFileError):
            Pieces(path, {"run": 1})
        for i, text in enumerate(texts):
            Path(path).write_bytes(b"\n".join([*lines[:i], text, *lines[i + 1 :], b""]))
            with contextlib.suppress(SessionFileError):
                Pieces(path, {"run": 1})


@pytest.mark.parametrize(
    "text, what",
    [
        (b'{"a": 1, "a": 2}', "'a' twice"),
        (b'{"a": NaN}', "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"1e999", "1e999"),
        (b"9" * 30, "30 digits"),
        (b"-" + b"9" * 10_000_000, "10000001 digits"),
        (b"[" * 33 + b"]" * 33, "too many levels"),
        (b"[" * 10_000_000, "too many levels"),
        (b'"\\ud800"', "no Unicode"),
        (b'{"\\udfff": 1}', "no Unicode"),
        (b"\xff", "no JSON"),
        (b"", "no JSON"),
    ],
)
def test_json_that_would_surprise_later_is_refused(text: bytes, what: str) -> None:
    started = time.process_time()
    with pytest.raises(BadJson, match=what):
        parse_json(text)
    assert time.process_time() - started < 2


def odd_names(folder: Path) -> list[str]:
    loop = folder / "loop"
    loop.symlink_to(folder / "pool")
    (folder / "pool").symlink_to(loop)
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    return [
        "~nosuchuser/x", str(folder / ("n" * 300)), str(loop), f"{loop}/x", str(folder / "fifo"),
        str(folder / "folder"), "/dev/zero", "/dev/full", "/proc/x", "a\0b", "\ud800", ".", "/",
        str(folder / "no" / "a"), str(folder / ("é" * 200)),
    ]  # fmt: skip


def test_names_that_no_file_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chat = talked()
    before = list(chat.conversation.messages)
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF" + bytes(100))
    names = odd_names(tmp_path)
    there = sorted(os.listdir(tmp_path))
    for name in names:
        for command in ("/load", "/save"):
            result = commands.run(f"{command} {name}", chat)
            assert result.failed, (command, name)
            assert "did not work" not in result.text, (command, result.text)
            assert "None" not in result.text, (command, result.text)
        with pytest.raises(ConfigError):
            resolve_auto(f"auto:{name}", model)
        with pytest.raises(ConfigError):
            check_output("--json", name)
        with pytest.raises(SessionFileError):
            write_json(name, {})
    assert chat.conversation.messages == before
    assert sorted(os.listdir(tmp_path)) == there


# writing


def test_a_long_name_that_is_allowed(tmp_path: Path) -> None:
    chat = talked()
    for name in ("é" * 127, "😀" * 63, "n" * 255):
        assert not commands.run(f"/save {tmp_path / name}", chat).failed, name
        assert not commands.run(f"/load {tmp_path / name}", chat).failed, name


def test_permissions_and_links_are_kept(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    write_whole(link, b"new")
    assert (file.read_text(), link.is_symlink()) == ("new", True)
    assert file.stat().st_mode & 0o777 == 0o640
    write_whole(tmp_path / "private", b"", private=True)
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match="no regular file"):
        write_whole("/dev/null", b"")


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(str(tmp_path / "r.json"), {"old": 1})
    for call in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, call, _disk_full)
            with pytest.raises(SessionFileError, match="No space left"):
                write_json(str(tmp_path / "r.json"), {"new": 1})
    assert os.listdir(tmp_path) == ["r.json"]
    assert read_json(tmp_path / "r.json", 100) == {"old": 1}


def _disk_full(*args: object) -> None:
    raise OSError(28, "No space left on device")


def test_orphans_of_killed_writers_are_swept(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom xquant_gguf import _files\n"
        "os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "_files.write_whole(sys.argv[1], b'new')\n"
    )
    file = tmp_path / "r.json"
    file.write_text("old")
    (tmp_path / ".xquant-mine.tmp").write_text("another's")
    done = subprocess.run([sys.executable, "-c", code, file], env=subprocess_env())
    assert done.returncode == -signal.SIGKILL
    assert file.read_text() == "old"
    (orphan,) = [n for n in os.listdir(tmp_path) if n not in ("r.json", ".xquant-mine.tmp")]
    write_whole(file, b"newer")
    assert orphan in os.listdir(tmp_path)  # its writer may be at work
    long_ago = time.time() - _files._ORPHAN - 10
    for name in (orphan, ".xquant-mine.tmp"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    write_whole(tmp_path / "other.json", b"")
    assert orphan in os.listdir(tmp_path)  # of another file
    write_whole(file, b"newest")
    assert sorted(os.listdir(tmp_path)) == [".xquant-mine.tmp", "other.json", "r.json"]


WRITER = """
import sys
from xquant_gguf._measuring import write_json
number = 0
while True:
    number += 1
    write_json(sys.argv[1], {"writer": sys.argv[2], "rows": [number] * 20000})
"""


def test_two_writers_and_kills_never_tear_a_file(tmp_path: Path) -> None:
    file = tmp_path / "r.json"

    def writer(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", WRITER, file, name], env=subprocess_env())

    writers = [writer("a"), writer("b")]
    seen = set()
    try:
        until = time.monotonic() + 60
        rng = random.Random(3)
        while time.monotonic() < until and not (len(seen) > 30 and len(writers) > 8):
            time.sleep(rng.random() / 50)
            if file.exists():
                content = read_json(file, 1 << 20)
                assert len(content["rows"]) == 20000
                seen.add((content["writer"], content["rows"][0]))
            assert writers[0].poll() is None and writers[-1].poll() is None, "a writer failed"
            if len(seen) > 3 * len(writers):
                writers[-1].kill()
                writers.append(writer(str(len(writers))))
    finally:
        for one in writers:
            one.kill()
            one.wait()
    assert {name for name, _ in seen} >= {"a", "b"}
    assert len(writers) > 5


def test_outputs_are_checked_before_the_work(tmp_path: Path) -> None:
    check_output("--json", str(tmp_path / "r.json"))
    assert os.listdir(tmp_path) == []
    check_writable(tmp_path / "r.json")
    pytest.importorskip("matplotlib")
    check_plot(str(tmp_path / "p.png"))
    for name in ("p", "p.xyz", "p.PNG.txt"):
        with pytest.raises(ConfigError, match="--plot must end in one of .*.png"):
            check_plot(str(tmp_path / name))


@pytest.mark.parametrize(
    "module, args",
    [
        ("eval", ["--json", "/proc/r.json"]),
        ("calibrate", ["--out", "/proc/r.json"]),
        ("bench", ["--json", "/proc/r.json"]),
        ("selftest", ["--json", "/proc/r.json"]),
    ],
)
def test_commands_say_so_at_once(module: str, args: list[str], tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("x")
    text_of = ["none.gguf", "--text", str(text)] if module != "selftest" else []
    done = subprocess.run(
        [sys.executable, "-m", f"xquant_gguf.{module}", *text_of, *args],
        capture_output=True,
        text=True,
        env=subprocess_env(),
    )
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith(f"error: {args[0]} must name a file that can be written"), done
    assert done.stderr.count("\n") == 1
