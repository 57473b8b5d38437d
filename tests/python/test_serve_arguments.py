"""``xquant serve`` before the server runs: what it refuses, in one line, and what it starts."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from serving import need_program, serve

from xquant_gguf.config import XQuantConfig
from xquant_gguf.errors import ConfigError
from xquant_gguf.serve.arguments import parse
from xquant_gguf.serve.command import command_of, environment_of

MOVES = "a packed cache cannot move tokens"


def command(*args: str) -> list[str]:
    return command_of(parse(args), Path("llama-server"), 1024, 2)


@pytest.mark.parametrize(
    "args, says",
    [
        ([], "name a model file or use --demo; got neither"),
        (["m.gguf", "--kv", "balnced"], "did you mean balanced?"),
        (["m.gguf", "--k-bits", "9"], "k_bits"),
        (["m.gguf", "--kv", "f16", "--k-bits", "2"], "packing settings need a packed cache"),
        (["m.gguf", "--ctx", "-1"], "--ctx is 0 or more; got -1"),
        (["m.gguf", "--slots", "0"], "--slots is 1 to 64; got 0"),
        (["m.gguf", "--port", "65536"], "--port is 1 to 65535"),
        (["m.gguf", "--api-key", "x"], "the command line must be understood"),
        (["m.gguf", "--", "--context-shift"], f"{MOVES} to other positions"),
        (["m.gguf", "--", "--cache-reuse", "256"], "got --cache-reuse"),
        (["m.gguf", "--", "--cache-reuse=256"], "got --cache-reuse"),
        (["m.gguf", "--", "-ctk", "q8_0"], "got -ctk; use --kv"),
        (["m.gguf", "--", "-m", "other.gguf"], "got -m; use MODEL"),
        (["m.gguf", "--", "--parallel=2"], "got --parallel; use --slots"),
    ],
)
def test_bad_arguments(args: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(args)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["LLAMA_ARG_CONTEXT_SHIFT", "LLAMA_ARG_CACHE_REUSE"])
def test_environment_variables_are_options_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "0")
    parse(["m.gguf"])
    monkeypatch.setenv(name, "1")
    parse(["m.gguf", "--kv", "q8_0"])
    with pytest.raises(ConfigError, match=MOVES):
        parse(["m.gguf"])


def test_a_cache_of_llama_cpps_own_may_move() -> None:
    made = command("m.gguf", "--kv", "f16", "--", "--context-shift", "--cache-reuse", "64")
    assert made[-3:] == ["--context-shift", "--cache-reuse", "64"]
    assert "--no-context-shift" not in made


def test_the_command_and_the_environment() -> None:
    made = command("m.gguf", "--slots", "3", "--", "--api-key", "k")
    for pair in ("--cache-type-k xq", "--flash-attn on", "--ctx-size 3072", "--parallel 3"):
        assert pair in " ".join(made)
    assert made[-2:] == ["--api-key", "k"]
    kv = parse(["m.gguf", "--k-bits", "3"]).kv
    assert isinstance(kv, XQuantConfig)
    now = {"XQUANT_KV": "k_bits=1", "LLAMA_CPP_LIB_PATH": "x", "HOME": "h"}
    assert environment_of(kv, now) == {"HOME": "h", "XQUANT_KV": kv.to_text()}
    stock = parse(["m.gguf", "--kv", "q8_0"]).kv
    assert environment_of(stock, now) == {"HOME": "h"}


@pytest.mark.parametrize("kv", ["balanced", "f16"])
def test_a_wrong_file_is_one_line(kv: str, tmp_path: Path, packed_library: None) -> None:
    (tmp_path / "no.gguf").write_bytes(b"GGUF")
    for name in ("no.gguf", "missing.gguf"):
        done = serve(tmp_path / name, "--kv", kv)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.model
def test_what_cannot_be_served_is_one_line(smollm2: Path, packed_library: None) -> None:
    need_program()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        busy = serve(smollm2, "--ctx", "512", "--port", port)
    assert (busy.returncode, busy.stdout) == (2, "")
    assert f"got 127.0.0.1:{port}: Address already in use" in busy.stderr
    large = [serve(smollm2, "--ctx", ctx, "--slots", "64") for ctx in (1 << 26, 1 << 24, 1 << 19)]
    assert [(done.returncode, done.stdout) for done in large] == [(2, ""), (1, ""), (1, "")]
    assert "all slots together have at most 2147483392 tokens" in large[0].stderr
    for done, ctx in zip(large[1:], (1 << 24, 1 << 19)):
        assert f"for 64 slots of {ctx} tokens; use a smaller --ctx" in done.stderr
    assert all(done.stderr.count("\n") == 1 for done in (busy, *large))


@pytest.mark.model
def test_a_build_without_the_server_says_how_to_get_it(
    smollm2: Path, packed_library: None, tmp_path: Path
) -> None:
    from xquant_gguf import _native

    for file in _native.library_directory().glob("lib*"):
        os.symlink(file, tmp_path / file.name)
    done = serve(smollm2, XQUANT_GGUF_LIB=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "XQUANT_SERVER=ON" in done.stderr and done.stderr.count("\n") == 1
