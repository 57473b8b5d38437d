"""The kernels of a Metal source as the fake device calls them: indices from the source itself."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from .build import CPP, compiler, run

sys.path.insert(0, str(CPP.parent / "python" / "build"))
import flatten  # noqa: E402

SOURCES = ("attend", "batch", "seal")
BUILTIN = {
    "threadgroup_position_in_grid": "xq_group()",
    "thread_index_in_threadgroup": "xq_thread()",
    "thread_index_in_simdgroup": "xq_thread() & 31u",
    "simdgroup_index_in_threadgroup": "xq_thread() >> 5",
}


def flattened(name: str, cpp: Path = CPP) -> str:
    """The text that the backend gives to Apple's compiler."""
    return flatten.flattened(cpp, f"kernels/gpu/metal/{name}.metal")


@dataclass(frozen=True)
class Parameter:
    space: str
    type: str
    attribute: str

    @property
    def index(self) -> int:
        return int(self.attribute.partition("(")[2].rstrip(")"))

    @property
    def bound(self) -> bool:
        return self.attribute.startswith("buffer(")

    @property
    def shared(self) -> bool:
        return self.attribute == "threadgroup(0)"

    def described(self) -> str:
        by_value = self.space == "constant"
        writes = not by_value and not self.type.startswith("const ")
        flags = f"{str(by_value).lower()}, {str(writes).lower()}"
        return f"{{{self.index}, sizeof({self.type.removeprefix('const ')}), {flags}}}"

    def passed(self) -> str:
        if self.shared:
            return f"({self.type} *) xq_emulator::shared_memory()"
        if not self.bound:
            return BUILTIN[self.attribute]
        pointer = f"({self.type} *) b.at[{self.index}]"
        return f"*{pointer}" if self.space == "constant" else pointer


@dataclass(frozen=True)
class Kernel:
    name: str
    parameters: tuple[Parameter, ...]

    def row(self) -> str:
        arguments = ", ".join(p.described() for p in self.parameters if p.bound)
        shared = str(any(p.shared for p in self.parameters)).lower()
        call = ", ".join(p.passed() for p in self.parameters)
        body = f"[](const xq_bound & b) {{ (void) b; {self.name}({call}); }}"
        return f'    {{"{self.name}", {{{arguments}}}, {shared}, {body}}},\n'


def kernels(text: str, scratch: Path, version: int = 320) -> list[Kernel]:
    """What the source declares, after the preprocessor: parameters are macros there."""
    (scratch / "metal_stdlib").write_text("", encoding="utf-8")
    source = scratch / "declarations.metal"
    source.write_text(text, encoding="utf-8")
    flags = ["-E", "-P", "-x", "c++", "-w", f"-D__METAL_VERSION__={version}", f"-I{scratch}"]
    printed = run(compiler(), *flags, source)
    declared = re.findall(r"\bkernel\s+void\s+(\w+)\s*\(((?:[^{]|\n)*?)\)\s*\{", printed)
    return [Kernel(name, tuple(map(parameter, text.split(",")))) for name, text in declared]


def parameter(text: str) -> Parameter:
    match = re.fullmatch(r"\s*(.+?)\s*[*&]?\s*\w+\s*\[\[(.+?)\]\]\s*", text, re.DOTALL)
    assert match, text
    kind, attribute = match.groups()
    space, _, rest = kind.partition(" ")
    if space in ("device", "constant", "threadgroup"):
        return Parameter(space, rest.rstrip(" *&"), attribute)
    return Parameter("", kind, attribute)


def table(name: str, text: str, scratch: Path) -> str:
    """A C++ source: the kernels compiled through the shim, and how each is bound and called."""
    flat = scratch / f"{name}.flat.metal"
    flat.write_text(text, encoding="utf-8")
    rows = "".join(kernel.row() for kernel in kernels(text, scratch))
    return (
        '#include "metal_device.h"\n'
        f'#include "{flat}"\n'
        "static uint3 xq_group() { return {(uint) xq_emulator::block_index(0), "
        "(uint) xq_emulator::block_index(1), (uint) xq_emulator::block_index(2)}; }\n"
        "static uint xq_thread() { return (uint) xq_emulator::thread_index(); }\n"
        f"static const xq_fake_library library({len(text.encode())}, {fnv(text)}u, {{\n{rows}}});\n"
    )


def fnv(text: str) -> int:
    value = 2166136261
    for byte in text.encode():
        value = (value ^ byte) * 16777619 % 2**32
    return value
