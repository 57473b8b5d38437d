"""ggml nodes through upstream's Metal backend and our host code, against the CPU callbacks.

Upstream's C++ is compiled as it is, patched; a fake device behind its C API runs the
dispatches on the emulator and refuses what Metal would not say (metal_device.cpp).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .build import CPP, HERE, LIMIT, run
from .ggml import compiled, linked
from .metal import backend, built, device, metal_tree
from .test_nodes import LITTLE, PORTABLE, SOURCES

SANITISED = ("-fsanitize=address", "-g")
SIMPLE = {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}


def nodes_metal(out: Path, *more: str) -> Path:
    metal = f"-isystem{metal_tree() / 'ggml/src/ggml-metal'}"
    return compiled([HERE / "nodes_metal.cpp"], out, metal, *PORTABLE, *SANITISED, *more)[0]


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The program, without what knows how much is folded at a time."""
    out = tmp_path_factory.mktemp("metal")
    return [*compiled(SOURCES, out, *PORTABLE, *SANITISED), *device(out, *SANITISED)]


def outcome(program: Path, **env: str) -> str:
    """The hash of the outputs, behind "passed"; or what failed."""
    done = subprocess.run(
        [program],
        env={**os.environ, **SIMPLE, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=LIMIT,
    )
    *_, hashed, verdict = ["", *done.stdout.splitlines()]
    if done.returncode == 0 and verdict == "all checks passed" and hashed.startswith("outputs"):
        return f"passed {hashed}"
    return done.stdout


def test_nodes_as_on_the_cpu(rest: list[Path], tmp_path: Path) -> None:
    """Codes and metadata by the byte, outputs within their budget; slices change no bit."""
    library = backend(tmp_path / "build", CPP, *SANITISED)
    program = linked([nodes_metal(tmp_path), *rest, library], tmp_path / "nodes", *SANITISED)
    printed = outcome(program)
    assert printed.startswith("passed"), printed
    assert outcome(program, XQ_UNIFIED="1") == printed
    small = tmp_path / "slices"
    library = backend(small / "build", CPP, *SANITISED, LITTLE)
    parts = [nodes_metal(small, LITTLE), *rest, library]
    assert outcome(linked(parts, small / "nodes", *SANITISED)) == printed


def test_host_code_fits_into_the_backend(tmp_path: Path) -> None:
    """No warning, and no symbol of libllama: the backend may be a module of its own."""
    metal = f"-isystem{metal_tree() / 'ggml/src/ggml-metal'}"
    sources = [CPP / f"kernels/gpu/metal/{name}.cpp" for name in ("kernels", "nodes")]
    needed, defined = set(), set()
    for path in compiled(sources, tmp_path, metal):
        for line in run("nm", path).splitlines():
            *_, kind, symbol = line.split()
            (needed if kind == "U" else defined).add(symbol)
    assert {s for s in needed - defined if "xq" in s} == {
        "xq_metal_attend",
        "xq_metal_batch",
        "xq_metal_seal",
    }
    assert not {s for s in needed if "llama" in s}


def defects() -> list[tuple[str, str, str, str]]:
    paragraphs = (HERE / "metal_defects.txt").read_text("utf-8").strip().split("\n\n")[1:]
    found = []
    for name, file, text, defect in (paragraph.splitlines() for paragraph in paragraphs):
        found.append((name, file, text.removeprefix("- "), defect.removeprefix("+ ")))
    return found


@pytest.mark.slow
def test_every_defect_is_seen(rest: list[Path], tmp_path: Path) -> None:
    """Defects in a copy of the host code, one at a time: each fails, or changes an output."""
    for part in ("cpp/format", "cpp/graph", "cpp/kernels/gpu", "python/build"):
        shutil.copytree(CPP.parent / part, tmp_path / part)
    cpp = tmp_path / "cpp"
    small = tmp_path / "slices"
    library = backend(small / "build", cpp, *SANITISED, LITTLE)
    parts = [nodes_metal(small, LITTLE), *rest, library]
    good = outcome(linked(parts, small / "nodes", *SANITISED))
    assert good.startswith("passed"), good
    missed = []
    for name, file, text, defect in defects():
        path = cpp / "kernels/gpu" / file
        source = path.read_text("utf-8")
        assert source.count(text) == 1, f"{name}: no longer in {file}: {text}"
        path.write_text(source.replace(text, defect), "utf-8")
        built(small / "build")
        printed = outcome(linked(parts, small / "nodes", *SANITISED))
        path.write_text(source, "utf-8")
        said = [line for line in printed.splitlines() if "CHECK(" in line or "fake Metal" in line]
        said += [line for line in printed.splitlines() if line.startswith("SUMMARY")]
        print(f"{name}: {said[0] if said else printed[-200:]}")
        if printed == good:
            missed.append(name)
    assert missed == []
