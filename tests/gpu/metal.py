"""ggml's Metal backend with our host code, on a fake device: built by our CMake."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .build import COMMON, CPP, HERE, METAL, compiler, run
from .ggml import compiled, tree
from .metal_signatures import SOURCES, flattened, table

UPSTREAM = ("", "-common", "-device", "-fusion", "-ops", "-tuning")
"""All of the backend's C++. Its Objective-C is what metal_device.cpp replaces."""

PROJECT = """
cmake_minimum_required(VERSION 3.21)
project(fake_metal LANGUAGES C CXX)
find_package(Python 3.9 COMPONENTS Interpreter REQUIRED)
add_subdirectory(backend) # another directory, as upstream's is
include({attach})
xq_attach_metal({tree})
"""
BACKEND = """
add_library(ggml-metal STATIC {sources})
target_include_directories(ggml-metal PRIVATE {tree}/ggml/include {tree}/ggml/src)
target_compile_features(ggml-metal PRIVATE cxx_std_17)
target_compile_options(ggml-metal PRIVATE -include memory) # libc++ does that
set_target_properties(ggml-metal PROPERTIES POSITION_INDEPENDENT_CODE ON)
"""


def metal_tree() -> Path:
    """A llama.cpp tree with this checkout's Metal hunks in it."""
    found = tree()
    backend = found / "ggml/src/ggml-metal/ggml-metal.cpp"
    if "xq_metal_address" not in backend.read_text("utf-8"):
        pytest.skip(f"{found} is patched by another series: build the project here")
    return found


def backend(out: Path, cpp: Path, *flags: str) -> Path:
    """The static library of the backend, from upstream's sources and ours below ``cpp``."""
    source = metal_tree()
    metal = source / "ggml/src/ggml-metal"
    names = [str(metal / f"ggml-metal{name}.cpp") for name in UPSTREAM]
    attach = cpp / "kernels/gpu/metal/attach.cmake"
    (out / "backend").mkdir(parents=True)
    texts = {"": PROJECT, "backend": BACKEND}
    for folder, text in texts.items():
        filled = text.format(attach=attach, tree=source, sources=" ".join(names))
        (out / folder / "CMakeLists.txt").write_text(filled, encoding="utf-8")
    options = [f"-DCMAKE_CXX_COMPILER={compiler()}", f"-DCMAKE_CXX_FLAGS={' '.join(flags)}"]
    python = f"-DPython_EXECUTABLE={sys.executable}"
    run("cmake", "-S", out, "-B", out / "build", *options, python)
    return built(out)


def built(out: Path) -> Path:
    """The library again, after a change of sources."""
    run("cmake", "--build", out / "build", "--target", "ggml-metal")
    return out / "build/backend/libggml-metal.a"


def device(out: Path, *flags: str, cpp: Path = CPP) -> list[Path]:
    """Objects of the fake device, with every kernel of the flattened sources in it."""
    include = f"-isystem{metal_tree() / 'ggml/src/ggml-metal'}"
    kernels = []
    for name in SOURCES:
        kernels.append(out / f"kernels_{name}.cpp")
        kernels[-1].write_text(table(name, flattened(name, cpp), out), encoding="utf-8")
    objects = compiled(kernels, out, *METAL, f"-I{HERE}", *flags)
    parts = [HERE / "metal_device.cpp", CPP / COMMON[0]]
    return objects + compiled(parts, out, include, *flags)
