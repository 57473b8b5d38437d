"""Programs around ggml, and our CUDA host code on the emulator."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from llama_trees import trees

from .build import COMMON, CPP, CUDA, FLAGS, HERE, compiler, run

ROOT = CPP.parent
NODES = CPP / "kernels/gpu/cuda/nodes.cu"
EMULATED = [CPP / COMMON[0], *(CPP / source for source in CUDA), NODES]
"""The emulator, and all of our CUDA code that ggml's backend calls."""


def tree() -> Path:
    """A patched llama.cpp source tree: XQUANT_SRC, or that of a build in this checkout."""
    for path in trees():
        if (path / "ggml/include/ggml.h").is_file():
            return path
    pytest.skip("needs a llama.cpp tree: build the project here, or set XQUANT_SRC")


def libraries() -> Path:
    """The folder with ggml's libraries."""
    from xquant_gguf import _native

    folder = _native.load().directory
    if not (folder / "libggml-base.so").is_file():
        pytest.skip(f"needs ggml's shared libraries; {folder} has none")
    return folder


def compiled(sources: Iterable[Path], out: Path, *more: str) -> list[Path]:
    """Objects of the sources; those of CUDA as C++."""
    ggml = tree() / "ggml"
    includes = [f"-I{CPP}", f"-isystem{ggml / 'include'}", f"-isystem{ggml / 'src'}"]
    objects = []
    for source in sources:
        objects.append(out / f"{source.parent.name}-{source.stem}.o")
        flags = [*FLAGS, *more, *includes, "-x", "c++"]
        run(compiler(), *flags, "-c", source, "-o", objects[-1])
    return objects


def linked(objects: Iterable[Path], out: Path, *more: str) -> Path:
    """A program, or with -shared a library, beside ggml's."""
    folder = libraries()
    ggml = [f"-L{folder}", "-lggml", "-lggml-base", "-lggml-cpu", f"-Wl,-rpath,{folder}"]
    run(compiler(), *more, "-Wl,--no-undefined", *objects, *ggml, "-lpthread", "-o", out)
    return out


__all__ = ["CPP", "EMULATED", "HERE", "NODES", "ROOT", "compiled", "libraries", "linked", "tree"]
