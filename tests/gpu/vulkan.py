"""The Vulkan shaders as an implementation for the kernel tests: a small host for them.

The shaders are the production text but for one thing. What is constant for a layer is a
specialization constant there, so that every layer is compiled for itself, which takes a
software device a minute; here it is read from the device's memory, and each shader is
compiled once.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .build import CPP, FLAGS, GPU, HERE, compiler, copied, run

sys.path.insert(0, str(CPP.parent / "python" / "build"))
from shaders import SHADERS, Shader, compiled, glsl, ranked_words  # noqa: E402

HOST = HERE / "vulkan_host"
SINGLE = [Shader(f"{do}_one", f"{do}_one", layered=False, exact=True) for do in ("seal", "unpack")]
"""Shaders of single strips, which only tests ask for."""
USED = [*SHADERS, *SINGLE]

CONSTANT = re.compile(r"layout\(constant_id = (\d+)\) +const (int|float) +(\w+) = [^;]+;")
WHERE = """
layout(constant_id = 1) const uint XQ_LOW = 0u;
layout(constant_id = 2) const uint XQ_HIGH = 0u;
"""
SHARED = {"XQ_USED": 62, "XQ_OVERRUN": 63}
"""What shared.glsl and the host tell each other, behind the constants."""


def loaded(name: str, number: int, type: str = "int") -> str:
    at = f"(uint64_t(XQ_HIGH) << 32 | uint64_t(XQ_LOW)) + uint64_t({4 * number})"
    return f"#define {name} xq_{type}_at({at}).v"


def in_memory(source: str) -> str:
    """The shader with its constants, but the size of shared memory, at an address."""

    def load(match: re.Match[str]) -> str:
        number, type, name = match.groups()
        return match.group() if number == "0" else loaded(name, int(number), type)

    main = "void main()"
    assert source.count(main) == 1
    source = CONSTANT.sub(load, source).replace(main, "void xq_main()")
    more = [loaded(name, number) for name, number in SHARED.items()]
    around = (HOST / "shared.glsl").read_text("utf-8")
    head, body = source.split("\n\n", 1)
    return "\n".join([head, WHERE, body, *more, around])


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


def vulkan(out: Path) -> Path:
    """The library; the test is skipped where there is nothing to build it with."""
    glslc = shutil.which("glslc")
    if not glslc:
        pytest.skip("no glslc, to compile the shaders with")
    empty = out / "empty.cpp"
    empty.write_text("#include <vulkan/vulkan.h>\nint main() {}\n", encoding="utf-8")
    command = [compiler(), str(empty), "-lvulkan", "-o", str(out / "empty")]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no headers or loader of Vulkan (Debian: libvulkan-dev)")
    compile_shaders(tree(out), out, glslc)
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
    error = library.xq_vulkan_start().decode()
    if error.startswith("no Vulkan device"):
        pytest.skip(error)
    assert not error, error
    print(library.xq_vulkan_device().decode())
    return library
