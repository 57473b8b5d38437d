"""Metal sources put into one text (python/build/flatten.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python" / "build"))

import flatten  # noqa: E402

FILES = {
    "device.h": """\
#pragma once
#if defined(__CUDACC__)
#include "cuda.h"
#elif defined(__METAL_VERSION__)
#include "metal.h"
#else
#include "host.h"
#endif
""",
    "metal.h": '#include <metal_stdlib>\n#include "common.h"\nint metal;\n',
    "common.h": """\
#ifndef COMMON_H
#define COMMON_H // once
#include "last.h"
int common;
#endif
""",
    "last.h": "#if !defined(__METAL_VERSION__)\n#include <stdint.h>\n#endif\nint last;\n",
    "a.metal": """\
#include "device.h"
#include "common.h"
#if __METAL_VERSION__ >= 320
kernel void f() {}
#else
int older;
#endif
""",
}
WANTED = """\
#include <metal_stdlib>
#ifndef COMMON_H
#define COMMON_H // once
int last;
int common;
#endif
int metal;
#if __METAL_VERSION__ >= 320
kernel void f() {}
#else
int older;
#endif
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_every_header_once_and_only_those_of_metal(root: Path) -> None:
    """cuda.h and host.h do not exist."""
    assert flatten.flattened(root, "a.metal") == flatten.FIRST + WANTED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('#if __METAL_VERSION__ > 2\n#include "last.h"\n#endif\n', "an include in a conditional"),
        ("#if defined(__CUDACC__)\n#elif FOO\n#endif\n", "of unknown value: FOO"),
        ("#if FOO\n", "a conditional without an end"),
    ],
)
def test_what_it_cannot_decide_is_refused(root: Path, text: str, message: str) -> None:
    (root / "a.metal").write_text(text, encoding="utf-8")
    with pytest.raises(flatten.FlattenError, match=message):
        flatten.flattened(root, "a.metal")


def test_a_missing_header_fails_the_build(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "last.h").unlink()
    assert flatten.main([str(root), "a.metal", "--out", str(root / "out.cpp")]) == 1
    assert "last.h" in capsys.readouterr().err


def test_the_string_is_the_text() -> None:
    text = 'a "quoted" \\ line\n\n// next\n'
    source = flatten.as_string("name", text)
    pieces = [line.strip() for line in source.splitlines() if line.startswith("    ")]
    body = "".join(piece.removesuffix(";")[1:-1] for piece in pieces)
    assert body.encode().decode("unicode_escape") == text


def test_our_sources_have_no_include_left() -> None:
    for name in ("attend", "seal"):
        text = flatten.flattened(ROOT / "cpp", f"kernels/gpu/metal/{name}.metal")
        assert '#include "' not in text and text.count("#include") == text.count("<metal_stdlib>")
        assert f"kernel_xq_{name}" in text and "__CUDACC__" not in text
