"""Compile the programs beside this file against a libllama, and libllama with a sanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

from llama_trees import trees  # noqa: E402

SANITISERS = {
    "address": "address,undefined -fno-sanitize-recover=all",
    "thread": "thread",
}
PARTS = ("models", "world")
FUZZ = ("fuzz", "operations", "decode", "variants", *PARTS)
THREADS = ("threads", "models")
WARNINGS = ("-std=c++17", "-O1", "-g1", "-Wall", "-Wextra")


class BuildError(Exception):
    """A compiler's words."""


def compiler() -> str | None:
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++"))), None)


def tree() -> Path | None:
    """A patched llama.cpp source tree: XQUANT_SRC, or that of a build in this checkout."""
    return next((t for t in trees() if (t / "src" / "llama-kv-cells.h").is_file()), None)


def flags(sanitiser: str | None) -> list[str]:
    return [f"-fsanitize={SANITISERS[sanitiser]}", "-fno-omit-frame-pointer"] if sanitiser else []


def program(
    out: Path,
    sources: Sequence[Path],
    library: Path,
    more: Sequence[str] = (),
    command: str | None = None,
) -> None:
    """Compile a program that uses the libllama of a folder."""
    sources_tree = tree()
    if sources_tree is None:
        raise BuildError("no llama.cpp tree: build the project, or set XQUANT_SRC")
    includes = [f"-I{ROOT / 'cpp'}", f"-I{HERE}"]
    includes += [f"-isystem{sources_tree / part}" for part in ("src", "include", "ggml/include")]
    libraries = [f"-L{library}", "-lllama", "-lggml", "-lggml-cpu", "-lggml-base"]
    libraries += [f"-Wl,-rpath,{library.resolve()}", "-pthread"]
    words = " ".join(more).split()
    run([command or compiler() or "c++", *WARNINGS, *words, *includes, *map(str, sources)]
        + ["-o", str(out), *libraries])  # fmt: skip


def sanitised(sanitiser: str) -> Path:
    """The folder of a libllama that is compiled with a sanitizer: minutes for the first time."""
    build = ROOT / "build" / f"fuzz-{sanitiser}"
    options = " ".join(("-O1", "-g1", *flags(sanitiser)))
    run(
        ["cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=None"]
        + [f"-DCMAKE_{language}_FLAGS={options}" for language in ("C", "CXX")]
        + [f"-DCMAKE_PROJECT_ggml_INCLUDE={HERE / 'ggml.cmake'}", "-DGGML_OPENMP=OFF"]
        + ["-DXQUANT_SERVER=OFF"]
    )
    run(["ninja", "-C", str(build)])
    return build / "bin"


def named(names: Sequence[str]) -> list[Path]:
    return [HERE / f"{name}.cpp" for name in names]


def run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    sys.stderr.write(done.stderr if "warning" in done.stderr else "")
