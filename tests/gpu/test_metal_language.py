"""The Metal sources read by clang as C++ for OpenCL, which knows address spaces as Metal does.

No front end for Metal is to be had outside macOS. Apple's is clang with address
spaces from OpenCL, so clang's own OpenCL C++ mode refuses much of what Metal
would: a threadgroup pointer passed as a device pointer, `half` as a name, std::.
What it cannot see: attributes, Metal's library (a shim) and resource limits.

Read twice: as the sources are, and as the one text of each that Apple's compiler gets.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .build import CPP, HERE
from .metal_signatures import SOURCES, flattened, kernels

cindex = pytest.importorskip("clang.cindex", reason="no libclang: pip install libclang")

FLAGS = ["-x", "clcpp", "-cl-std=clc++2021", "-cl-no-stdinc", "--target=spir64"]
FLAGS += ["-Xclang", "-cl-ext=+cl_khr_fp16", "-DXQ_SYNTAX_ONLY"]
FLAGS += [f"-I{CPP}", f"-I{HERE / 'shim'}", "-Wall"]
FLAGS += [f"-Wno-{name}" for name in ("unknown-attributes", "unknown-pragmas", "unused-function")]
FLAGS += ["-Wno-duplicate-decl-specifier"]
VERSIONED = [*FLAGS, "-D__METAL_VERSION__=320"]


def parse(name: str, flat: bool, version: int = 320) -> Any:
    path = str(CPP / "kernels/gpu/metal" / f"{name}.metal")
    # warnings are on: the text switches them off for Apple's compiler only
    text = [(path, flattened(name).partition("\n")[2])] if flat else []
    flags = [*FLAGS, f"-D__METAL_VERSION__={version}"]
    return cindex.Index.create().parse(path, args=flags, unsaved_files=text)


def complaints(unit: Any) -> list[str]:
    return [str(d) for d in unit.diagnostics if d.severity >= cindex.Diagnostic.Warning]


@pytest.mark.parametrize("flat", (False, True))
@pytest.mark.parametrize("name", SOURCES)
def test_address_spaces(name: str, flat: bool) -> None:
    assert complaints(parse(name, flat)) == []


@pytest.mark.parametrize("flat", (False, True))
@pytest.mark.parametrize("name", SOURCES)
def test_every_pointer_names_its_space(name: str, flat: bool) -> None:
    """OpenCL gives a bare pointer the generic space; Metal has none and wants a word."""
    assert sorted(set(bare_pointers(parse(name, flat).cursor, "?"))) == []


@pytest.mark.parametrize("name", SOURCES)
def test_the_text_says_where_it_is_wrong(name: str) -> None:
    """A defect in the flattened text is seen, so it is the text that is read."""
    path = str(CPP / "kernels/gpu/metal" / f"{name}.metal")
    text = flattened(name).replace("XQ_SHARED float * shared", "XQ_GLOBAL float * shared")
    unit = cindex.Index.create().parse(path, args=VERSIONED, unsaved_files=[(path, text)])
    assert any("no matching function" in line for line in complaints(unit))


def test_sealing_needs_exact_arithmetic(tmp_path: Path) -> None:
    """Before Metal 3.2 the kernel is missing, which the host tells from a text that is wrong."""
    names = {
        version: {kernel.name for kernel in kernels(flattened("seal"), tmp_path, version)}
        for version in (310, 320)
    }
    assert names == {310: set(), 320: {"kernel_xq_seal", "kernel_xq_seal_strip"}}
    assert complaints(parse("seal", True, 310)) == []


def test_arguments_have_the_indices_that_the_host_counts(tmp_path: Path) -> None:
    """Values at 0, then every buffer in the order of the parameters."""
    for name in SOURCES:
        for kernel in kernels(flattened(name), tmp_path):
            indices = [p.index for p in kernel.parameters if p.bound]
            assert indices == list(range(len(indices))), kernel.name
            assert [p.space for p in kernel.parameters if p.bound][0] == "constant"


def bare_pointers(cursor: Any, function: str) -> Iterator[tuple[str, str]]:
    kinds = cindex.CursorKind
    for child in cursor.get_children():
        where = child.location.file
        if where is not None and str(CPP) not in where.name:
            continue
        inside = child.spelling if child.kind in FUNCTIONS else function
        if child.kind in (kinds.PARM_DECL, kinds.VAR_DECL, kinds.FIELD_DECL):
            kind = child.type.get_canonical()
            if kind.kind in (cindex.TypeKind.POINTER, cindex.TypeKind.LVALUEREFERENCE):
                spaces = ("__global", "__local", "__private", "__constant")
                if not any(space in kind.get_pointee().spelling for space in spaces):
                    yield inside, child.spelling
        yield from bare_pointers(child, inside)


FUNCTIONS = (cindex.CursorKind.FUNCTION_DECL, cindex.CursorKind.FUNCTION_TEMPLATE)
