"""The Metal sources read by clang as C++ for OpenCL, which knows address spaces as Metal does.

No front end for Metal is to be had outside macOS. Apple's is clang with address
spaces from OpenCL, so clang's own OpenCL C++ mode refuses much of what Metal
would: a threadgroup pointer passed as a device pointer, `half` as a name, std::.
What it cannot see: attributes, Metal's library (a shim) and resource limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .build import CPP, HERE

cindex = pytest.importorskip("clang.cindex", reason="no libclang: pip install libclang")

FLAGS = ["-x", "clcpp", "-cl-std=clc++2021", "-cl-no-stdinc", "--target=spir64"]
FLAGS += ["-Xclang", "-cl-ext=+cl_khr_fp16", "-D__METAL_VERSION__=320", "-DXQ_SYNTAX_ONLY"]
FLAGS += [f"-I{CPP}", f"-I{HERE / 'shim'}", "-Wall"]
FLAGS += [f"-Wno-{name}" for name in ("unknown-attributes", "unknown-pragmas", "unused-function")]
FLAGS += ["-Wno-duplicate-decl-specifier"]


def parse(name: str) -> Any:
    return cindex.Index.create().parse(str(CPP / "kernels/gpu/metal" / name), args=FLAGS)


@pytest.mark.parametrize("name", ("attend.metal", "seal.metal"))
def test_address_spaces(name: str) -> None:
    unit = parse(name)
    assert [str(d) for d in unit.diagnostics if d.severity >= cindex.Diagnostic.Warning] == []


@pytest.mark.parametrize("name", ("attend.metal", "seal.metal"))
def test_every_pointer_names_its_space(name: str) -> None:
    """OpenCL gives a bare pointer the generic space; Metal has none and wants a word."""
    assert sorted(set(bare_pointers(parse(name).cursor, "?"))) == []


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
