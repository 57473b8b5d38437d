"""Vulkan: the shaders are made of the bodies, and run on whatever device there is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import subprocess_env

from .build import run
from .ggml import CPP, HERE, compiled, libraries, linked
from .test_nodes import PORTABLE, SOURCES

sys.path.insert(0, str(CPP.parent / "python" / "build"))
from glsl.preprocess import SourceError  # noqa: E402
from glsl.translate import Translator  # noqa: E402
from shaders import SHADERS, glsl  # noqa: E402

DEVICE = "Vulkan0"
ANY = {"GGML_VK_VISIBLE_DEVICES": os.environ.get("GGML_VK_VISIBLE_DEVICES", "0")}
"""ggml leaves out software devices unless it is told to take one."""


def translated(tmp_path: Path, body: str, exact: bool = False) -> str:
    source = f"float xqg_shuffle_xor(float x, int mask);\n{body}"
    (tmp_path / "body.h").write_text(source, encoding="utf-8")
    unit = Translator(tmp_path, "body.h", {}, exact)
    unit.entry("f", [])
    return "\n".join(unit.out)


@pytest.mark.parametrize(
    ("body", "glsl"),
    [
        ("int f(uint32_t x) { return x; }", "return int(x);"),
        ("int f(float x) { return (int) (x + 0.5f); }", "return int((x + 0.5f));"),
        ("float f(bool a, int b) { return a ? b : 1.0f; }", "(a ? float(b) : 1.0f)"),
        ("int f(int x) { return x & 1 ? x : -x; }", "((x & 1) != 0)"),
        ("int f(XQ_GLOBAL const uint8_t * p) { return p[1] << 8; }", "int64_t(1)))).v) << 8)"),
        ("void f(XQ_GLOBAL uint16_t * p, int v) { p[v] = 3; }", "int64_t(v)*2))).v = uint16_t("),
        ("void f(XQ_SHARED float * p, float v) { p[2] = v; }", "xq_memory[(p + 2)] = floatBits"),
        ("struct a { float b[3]; int c; }; int f(XQ_SHARED a * p) { return p->c; }", "[(p + 3)]"),
        (
            "void g(XQ_LOCAL float * x) { x[0] = 1; } void f() { float y[4]; g(y); }",
            "inout float x",
        ),
        ("template <int N> int g() { return 2*N; } int f() { return g<3>(); }", "return 6;"),
        ("int g() { return 1; } void f() { (void) g(); }", "    g();"),
    ],
)
def test_what_c_means(tmp_path: Path, body: str, glsl: str) -> None:
    assert glsl in translated(tmp_path, body)


def test_exact_code_is_never_fused(tmp_path: Path) -> None:
    body = "float f(float a, float b) { a += b; b = b + 0.0f; return a*b - 1/a; }"
    text = translated(tmp_path, body, exact=True)
    assert "a = xq_add(a, b);" in text
    assert "b = xq_plus_zero(b);" in text
    assert "xq_sub(xq_mul(a, b), xq_div(1.0, a))" in text


@pytest.mark.parametrize(
    "body",
    [
        "int f() { goto x; }",
        "int f(XQ_GLOBAL const float * p) { return p; }",
        "int f() { return unknown; }",
        "struct a { int b; }; int f(a x) { return x.c; }",
        "int f(XQ_GLOBAL const int * p) { return *(p - 1) ? ; }",
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(tmp_path: Path, body: str) -> None:
    with pytest.raises(SourceError, match=r"body\.h:2"):
        translated(tmp_path, body)


@pytest.mark.parametrize("shader", SHADERS, ids=lambda s: s.name)
def test_shaders_compile(tmp_path: Path, shader: object) -> None:
    source = tmp_path / "shader.comp"
    source.write_text(glsl(shader, CPP), encoding="utf-8")
    glslc = shutil.which("glslc")
    if not glslc:
        pytest.skip("no glslc, to compile the shaders with")
    out = tmp_path / "shader.spv"
    run(glslc, "--target-env=vulkan1.2", "-O", "-Werror", source, "-o", out)
    if shutil.which("spirv-val"):
        run("spirv-val", "--target-env", "vulkan1.2", out)


# ---- on a device; a software device takes minutes, nearly all of them to compile shaders ----


@pytest.fixture(scope="module")
def vulkan() -> Path:
    folder = libraries()
    if not (folder / "libggml-vulkan.so").is_file():
        pytest.skip("the library was built without -DGGML_VULKAN=ON")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "rows"), [((), ""), *((("ranked keys",), rows) for rows in ("2", "4", "8"))]
)
def test_nodes_as_on_the_cpu(
    vulkan: Path, tmp_path: Path, scenario: tuple[str, ...], rows: str
) -> None:
    """Codes, metadata and pages by the byte, outputs within their budget."""
    sources = [path for path in SOURCES if path.name != "nodes_check.cpp"]
    objects = compiled([*sources, HERE / "backend_check.cpp"], tmp_path, *PORTABLE)
    program = linked(objects, tmp_path / "check")
    env = {**os.environ, **ANY, **({"XQUANT_VULKAN_ROWS": rows} if rows else {})}
    command = [program, DEVICE, *scenario]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=3000)
    if done.returncode == 77:
        pytest.skip(f"no Vulkan device: {done.stdout}")
    assert "all checks passed" in done.stdout, done.stdout


@pytest.mark.slow
@pytest.mark.model
def test_all_layers_on_vulkan(vulkan: Path, smollm2: Path) -> None:
    """Two parts of the graph, the token embedding and the rest: no plane goes to the host."""
    env = subprocess_env()
    path = os.pathsep.join([str(HERE.parent), env["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "gpu.on_vulkan", str(smollm2)],
        env={**env, **ANY, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=3000,
    )
    if f"using device {DEVICE}" not in done.stdout and done.returncode == 0:
        pytest.skip("no Vulkan device")
    assert done.returncode == 0 and done.stdout.endswith("passed\n"), done.stdout[-4000:]
    assert "splits = 2 / 2" in done.stdout
    assert f"{DEVICE} KV buffer size" in done.stdout and "CPU KV buffer size" not in done.stdout
