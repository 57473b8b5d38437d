"""``python -m xquant_gguf``, ``xquant info``, and tables on a terminal."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module

import pytest
from conftest import ROOT, subprocess_env

from xquant_gguf import __main__ as program
from xquant_gguf import _tables, info

TABLE = """SmolLM2, a text

| kv | KL | perplexity |
|---|---|---|
| `f16` | 0.0000 | 12.3 ± 0.1 |
| balanced | 0.0245 ± 0.0003 | 12.6 ± 0.1 |
"""


def run(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "xquant_gguf", *args]
    return subprocess.run(command, capture_output=True, text=True, env=subprocess_env())


def test_every_folder_with_a_program_is_a_command() -> None:
    folders = {path.parent.name for path in (ROOT / "xquant_gguf").glob("*/__main__.py")}
    assert folders < set(program.COMMANDS)
    for module, _ in program.COMMANDS.values():
        assert callable(import_module(f"xquant_gguf.{module}").main)
    assert 'xquant = "xquant_gguf.__main__:main"' in (ROOT / "pyproject.toml").read_text("utf-8")


def test_help_version_and_wrong_names() -> None:
    for args in ((), ("--help",)):
        done = run(*args)
        assert (done.returncode, done.stderr) == (0, "")
        assert all(name in done.stdout for name in program.COMMANDS)
    assert re.fullmatch(r"xquant-gguf \S+\n", run("--version").stdout)
    wrong = run("chatt")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "got chatt; use one of chat, " in wrong.stderr
    assert run("chat", "no.gguf").returncode == 2


def test_info_says_what_runs_and_why_the_rest_does_not() -> None:
    done = run("info")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("xquant-gguf", "llama-cpp-python  0.3.36", "free memory", "device CPU", "generic"):
        assert word in done.stdout
    assert len(re.findall("^  .* in use$", done.stdout, re.MULTILINE)) == 1


@pytest.mark.parametrize(
    "name, machine, flags, why",
    [
        ("neon", "x86_64", "avx2", "for Arm processors"),
        ("avx2", "aarch64", "asimd", "for x86 processors"),
        ("avx-vnni", "x86_64", "avx2 fma", "this processor has no avx_vnni"),
        ("neon-dotprod", "aarch64", "asimd", "this processor has no asimddp"),
        ("avx2", "AMD64", "avx2 fma", "not in this build"),
        ("avx2", "x86_64", "", "not here"),
    ],
)
def test_reasons(name: str, machine: str, flags: str, why: str) -> None:
    assert info.why_not(name, machine, frozenset(flags.split())).startswith(why)


def test_tables_are_markdown_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    _tables.show(TABLE)
    assert capsys.readouterr().out == TABLE + "\n"


@pytest.mark.parametrize("columns", [40, 60, 200])
def test_tables_fit_a_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    _tables.show(TABLE)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, shown.splitlines())) <= columns
    assert "|---|" not in shown and "SmolLM2, a text" in shown
    for word in ("balanced", "0.0245", "perplexity"):
        assert word in shown
