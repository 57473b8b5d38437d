"""Compile the C++ unit tests beside this file with the system's compiler, and run them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from cpp_compiler import compiler, llama_tree

HERE = Path(__file__).resolve().parent
CPP = ROOT / "cpp"
SOURCES = [
    CPP / "cache" / name for name in ("tiles.cpp", "config.cpp", "metric_steps.cpp", "plan.cpp")
]
FLAGS = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-D_GLIBCXX_ASSERTIONS", "-UNDEBUG"]
LIMIT = 300


@pytest.mark.slow
@pytest.mark.parametrize("name", ("test_metric", "test_plan", "test_tiles"))
def test_cpp(name: str, tmp_path: Path) -> None:
    """The program compiles without a warning and none of its checks fails."""
    tree = llama_tree()
    program = tmp_path / name
    includes = [f"-I{HERE}", f"-I{CPP}"]
    includes += [f"-isystem{tree / part}" for part in ("src", "include", "ggml/include")]
    sources = [HERE / f"{name}.cpp", *SOURCES]
    built = run([compiler(), *FLAGS, *includes, *map(str, sources), "-o", str(program)])
    if built.returncode != 0 or built.stdout:
        pytest.fail(f"does not compile without warnings:\n{built.stdout}", pytrace=False)
    ran = run([str(program)])
    if ran.returncode != 0:
        pytest.fail(ran.stdout, pytrace=False)


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "XQUANT_KV"}
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=LIMIT,
        env=environment,
    )
