"""The Vulkan shaders as an implementation for the kernel tests: a small host for them.

The shaders are the production text but for two things. What is constant for a layer is a
specialization constant there, so that every layer is compiled for itself, which takes a
software device up to minutes; here it is read from the device's memory, and each shader is
compiled once. And a main around theirs looks after shared memory (shared.glsl).
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .build import CPP, FLAGS, GPU, HERE, compiler, copied, run

sys.path.insert(0, str(CPP.parent / "python" / "build"))
from shaders import SHADERS, Shader, compiled, glsl, ranked_words  # noqa: E402

HOST = HERE / "vulkan_host"
SINGLE = [Shader(f"{do}_one", f"{do}_one", layered=False, exact=True) for do in ("seal", "unpack")]
"""Shaders of single strips, which only tests ask for."""
USED = [*SHADERS, *SINGLE]
PATIENCE = 300
"""Seconds for a dispatch, which may have to compile its shader first."""

CONSTANT = re.compile(r"layout\(constant_id = (\d+)\) +const (int|float) +(\w+) = [^;]+;")
WHERE = """
layout(constant_id = 1) const uint XQ_LOW = 0u;
layout(constant_id = 2) const uint XQ_HIGH = 0u;
layout(buffer_reference, std430, buffer_reference_align = 4) buffer xq_host { int at[64]; };
#define XQ_HOST xq_host(uint64_t(XQ_HIGH) << 32 | uint64_t(XQ_LOW))
#define xq_mutant XQ_HOST.at[61]
#define XQ_USED XQ_HOST.at[62]
#define XQ_OVERRUN XQ_HOST.at[63]
"""
"""Places as in vulkan_host/device.h."""


def in_memory(source: str) -> str:
    """The shader with its constants, but the size of shared memory, at an address."""

    def load(match: re.Match[str]) -> str:
        number, type, name = match.groups()
        if number == "0":
            return match.group()
        loaded = f"XQ_HOST.at[{number}]"
        return f"#define {name} {loaded if type == 'int' else f'intBitsToFloat({loaded})'}"

    main = "void main()"
    assert source.count(main) == 1
    source = CONSTANT.sub(load, source).replace(main, "void xq_main()")
    around = (HOST / "shared.glsl").read_text("utf-8")
    head, body = source.split("\n\n", 1)
    return "\n".join([head, WHERE, body, around])


def tree(out: Path) -> Path:
    """The sources, with those of single strips beside them."""
    cpp = copied(out)
    for shader in SINGLE:
        shutil.copy(HOST / f"{shader.name}.h", cpp / GPU)
        shutil.copy(HOST / f"{shader.name}.comp", cpp / GPU / "vulkan")
    return cpp


def compile_shaders(cpp: Path, out: Path, glslc: str) -> None:
    for shader in USED:
        source = out / f"{shader.name}.comp"
        source.write_text(in_memory(glsl(shader, cpp)), encoding="utf-8")
        (out / f"{shader.name}.inc").write_text(compiled(source, glslc), encoding="utf-8")
    words = f"#define XQ_RANKED_WORDS {ranked_words(cpp)}\n"
    (out / "shared_words.h").write_text(words, encoding="utf-8")


def vulkan(out: Path, change: Callable[[Path], None] | None = None) -> Path:
    """The library; the test is skipped where there is nothing to build it with.

    ``change`` gets a copy of cpp/kernels/gpu/vulkan to put defects into.
    """
    glslc = shutil.which("glslc")
    if not glslc:
        pytest.skip("no glslc, to compile the shaders with")
    empty = out / "empty.cpp"
    empty.write_text("#include <vulkan/vulkan.h>\nint main() {}\n", encoding="utf-8")
    command = [compiler(), str(empty), "-lvulkan", "-o", str(out / "empty")]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no headers or loader of Vulkan (Debian: libvulkan-dev)")
    cpp = tree(out)
    if change:
        change(cpp / GPU / "vulkan")
    compile_shaders(cpp, out, glslc)
    return linked(out)


def linked(out: Path) -> Path:
    sources = [*(HOST / f"{name}.cpp" for name in ("device", "child", "calls"))]
    sources += [CPP / GPU / "emulated/api.cpp"]
    flags = [*FLAGS, f"-I{CPP}", f"-I{out}", "-shared", "-Wl,--no-undefined"]
    library = out / "vulkan.so"
    run(compiler(), *flags, *sources, "-lvulkan", "-o", library)
    return library


def started(path: Path) -> ctypes.CDLL:
    """The library with a device; the test is skipped where there is none."""
    library = ctypes.CDLL(str(path))
    for function in (library.xq_vulkan_start, library.xq_vulkan_device):
        function.restype = ctypes.c_char_p
    library.xq_vulkan_patience(PATIENCE)
    error = library.xq_vulkan_start().decode()
    if error.startswith("no Vulkan device"):
        pytest.skip(error)
    assert not error, error
    print(library.xq_vulkan_device().decode())
    return library
