"""The fuzzers beside this file: short runs, and that they find what there is to find."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import fuzzers
import programs
import pytest
import shrink

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("packed_library")]

EACH = 14  # variants, which take turns


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not programs.compiler() or not programs.tree():
        pytest.skip("the fuzzer needs a C++ compiler, and a llama.cpp tree in build/ or XQUANT_SRC")
    out = tmp_path_factory.mktemp("fuzz") / "fuzz"
    programs.program(out, programs.named(programs.FUZZ), fuzzers.library(), ["-Werror"])
    return out


def fuzz(program: Path, *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, args)], capture_output=True, text=True, timeout=600)


def test_operations(program: Path) -> None:
    done = fuzz(program, "--operations", 4000, "--strict")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert done.stdout.count("\n") == EACH + 1


@pytest.mark.parametrize("variant, number", [("fine", 101), ("fine", 2070), ("tiny", 963)])
def test_a_batch_that_needs_every_cell(program: Path, variant: str, number: int) -> None:
    """Found in a million operations: the last holes were sealed while the batch was placed."""
    again = ("--variant", variant, "--seed", 2026, "--length", 150, "--only", number, "--strict")
    done = fuzz(program, *again)
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_seed_is_a_history(program: Path) -> None:
    first, second, other = (
        fuzz(program, "--variant", "balanced", "--operations", 300, "--seed", seed).stdout
        for seed in (1, 1, 2)
    )
    assert first == second != other


def test_what_differs_is_found(program: Path) -> None:
    """With ``--control`` f16 loses tokens that the packed cache keeps."""
    found = fuzz(program, "--control", "--go-on", "--operations", 4000, "--seed", 5)
    assert found.returncode == 1
    for name in ("exact", "exact-streams", "fine", "window"):
        assert f"FINDING in {name}," in found.stdout


def test_a_finding_is_shrunk(program: Path) -> None:
    found = fuzz(program, "--control", "--variant", "exact", "--operations", 4000)
    again = found.stdout.split("again: ")[1].split("\n")[0].split()
    command = [str(program), *again]
    end, why = shrink.fails(command, set()) or (0, "")
    skip = shrink.shrink(command)
    assert shrink.fails(command, skip) == (end, why)
    assert len(skip) > end // 2


@pytest.mark.parametrize("name", fuzzers.LIBFUZZER)
def test_readers(name: str) -> None:
    if not shutil.which("clang++") or not programs.tree():
        pytest.skip("libFuzzer needs clang++, and a llama.cpp tree in build/ or XQUANT_SRC")
    assert fuzzers.libfuzzer(name, 10) == 0
