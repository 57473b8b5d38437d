"""The NEON kernels on an emulated processor: test_neon.cpp, cross-compiled and run by qemu.

Needs Debian's g++-aarch64-linux-gnu and qemu-user, and no llama.cpp tree.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from kernels import budgets

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
CPP = TESTS.parent / "cpp"
CPU = CPP / "kernels" / "cpu"
CROSS = "aarch64-linux-gnu-"
BUDGETS = ("REQUIRED", "MAC", "MAC_BYTES", "MAC_OUTLIER", "ATTENTION", "ATTENTION_SHARP")
PORTABLE = [CPU / f"{name}.cpp" for name in ("attend", "by_mac", "dispatch", "generic", "seal")]
PORTABLE += [CPU / "segments.cpp", CPP / "reference" / "reference.cpp"]
PORTABLE += [HERE / f"test_{name}.cpp" for name in ("neon", "strips", "products", "layers")]
FLAGS = ["-std=c++17", "-O3", "-Wall", "-Wextra", "-ffp-contract=off"]
FLAGS += [f"-I{path}" for path in (CPP, HERE, HERE / "stub", TESTS / "cpp")]
FLAGS += [f"-DBUDGET_{name}={getattr(budgets, name)}" for name in BUDGETS]
LIMIT = 600

OLD = "cortex-a53"
NEW = "max"
HERE_IS = {OLD: ["neon", "generic"], NEW: ["neon-dotprod", "neon", "generic"]}

pytestmark = pytest.mark.slow


def tool(name: str) -> str:
    found = shutil.which(name)
    if not found:
        pytest.skip(f"no {name}: apt-get install g++-aarch64-linux-gnu qemu-user")
    return found


def run(*command: str | Path, **environment: str) -> str:
    """What the command prints; the test fails with it where the command does."""
    done = subprocess.run(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=LIMIT,
        env={**{k: v for k, v in os.environ.items() if k != "XQUANT_CPU"}, **environment},
    )
    if done.returncode != 0:
        pytest.fail(f"{Path(command[0]).name} failed:\n{done.stdout}", pytrace=False)
    return done.stdout


def compile_to(out: Path, compiler: str, *args: str | Path) -> Path:
    warnings = run(compiler, *FLAGS, *args, "-o", out)
    if warnings:
        pytest.fail(f"does not compile without warnings:\n{warnings}", pytrace=False)
    return out


@pytest.fixture(scope="module")
def dot_object(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("neon") / "neon_dot.o"
    source = CPU / "neon_dot.cpp"
    return compile_to(out, tool(f"{CROSS}g++"), "-march=armv8.2-a+dotprod", "-c", source)


@pytest.fixture(scope="module")
def program(dot_object: Path) -> Path:
    out = dot_object.with_name("test_neon")
    use = ["-DXQ_HAVE_NEON=1", "-static", *PORTABLE, CPU / "neon.cpp", dot_object]
    return compile_to(out, tool(f"{CROSS}g++"), *use)


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the portable kernels make of the same data on this machine."""
    compiler = os.environ.get("CXX", "c++")
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}, to compare with what this machine packs")
    out = tmp_path_factory.mktemp("portable") / "test"
    return digests(run(compile_to(out, compiler, "-O1", *PORTABLE)))["generic"]


def digests(output: str) -> dict[str, str]:
    """By implementation, of every byte that it packed."""
    found = re.findall(r"^(\S+): \d+ cases, digest (\w+)$", output, re.MULTILINE)
    assert found, output
    return dict(found)


@pytest.mark.parametrize(
    ("processor", "name"), [(OLD, "neon"), (NEW, "neon-dotprod")], ids=["base", "dotprod"]
)
def test_kernels(program: Path, digest: str, processor: str, name: str) -> None:
    """As the reference, as on other processors; without instructions that this one lacks."""
    output = run(tool("qemu-aarch64"), "-cpu", processor, program, name)
    print(output)
    assert digests(output) == {name: digest}


@pytest.mark.parametrize("processor", (OLD, NEW))
def test_choice(program: Path, processor: str) -> None:
    """The best one that the processor can run, or the one that XQUANT_CPU names."""
    here = HERE_IS[processor]
    for wanted in ("", *HERE_IS[NEW]):
        output = run(tool("qemu-aarch64"), "-cpu", processor, program, "--list", XQUANT_CPU=wanted)
        assert output.split() == [*here, wanted if wanted in here else here[0]]


def test_nothing_leaks_out_of_the_dot_product_file(dot_object: Path) -> None:
    """No initialiser, and no inline function that others might call on a lesser processor."""
    symbols = [line.split() for line in run(tool(f"{CROSS}nm"), "-C", dot_object).splitlines()]
    shared = [" ".join(s[2:]) for s in symbols if len(s) > 2 and s[1] in "TDBRWVuw"]
    assert [name.split("(")[0] for name in shared] == ["xq_neon_dot_mac"]
    assert "init_array" not in run(tool(f"{CROSS}objdump"), "-h", dot_object)
