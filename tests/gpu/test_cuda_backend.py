"""ggml's CUDA backend with our kernels in it configures; files that are ours or changed compile.

Nothing else is built: all of it takes too long for every run.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .build import LIMIT, run
from .ggml import ROOT
from .test_nvcc import PLAIN, nvcc

pytestmark = pytest.mark.slow

OURS = ("attend", "batch", "nodes", "seal", "store")
CUBLAS = "XQUANT_CUBLAS"
"""Names a folder with include/cublas_v2.h, where the toolkit has none."""

Entry = dict[str, str]


def cublas_headers() -> Path:
    printed = run(nvcc(), "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull)
    toolkit = next(line.split("TOP=", 1)[1] for line in printed.splitlines() if "TOP=" in line)
    for folder in (os.environ.get(CUBLAS), toolkit):
        if folder and (Path(folder) / "include" / "cublas_v2.h").is_file():
            return Path(folder) / "include"
    pytest.skip(f"no cublas_v2.h: install cuBLAS with the toolkit, or set {CUBLAS}")


def sdist_is_here() -> bool:
    sys.path.insert(0, str(ROOT / "python" / "build"))
    import upstream

    pin = upstream.read_pin()
    return (upstream.cache_dir() / pin.sha256 / pin.sdist).is_file()


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("cmake"):
        pytest.skip("no cmake")
    nvcc()
    cublas_headers()
    if not sdist_is_here():
        pytest.skip("the pinned sdist is not in the cache")
    out = tmp_path_factory.mktemp("cuda") / "build"
    stand_in = out.parent / "libnothing.a"  # for libraries that only linking reads
    stand_in.write_bytes(b"!<arch>\n")
    libraries = [f"-DCUDA_{name}_LIBRARY={stand_in}" for name in ("cublas", "cuda_driver")]
    options = ["-DGGML_CUDA=ON", "-DGGML_NATIVE=OFF", "-DCMAKE_CUDA_ARCHITECTURES=89-real"]
    compilers = [f"-DCMAKE_CUDA_COMPILER={nvcc()}", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    run("cmake", "-S", ROOT, "-B", out, *options, *libraries, *compilers)
    return out


@pytest.fixture(scope="module")
def entries(configured: Path) -> dict[str, Entry]:
    """How ours and the changed file are compiled, by name."""
    found: dict[str, Entry] = {}
    for entry in json.loads((configured / "compile_commands.json").read_text("utf-8")):
        path = Path(entry["file"])
        if path.suffix == ".cu" and (ROOT / "cpp" in path.parents or path.name == "ggml-cuda.cu"):
            found[path.stem] = entry
    return found


def test_every_source_belongs_to_the_backend(entries: dict[str, Entry]) -> None:
    assert set(entries) == {*OURS, "ggml-cuda"}


def test_sealing_is_compiled_behind_fast_math(entries: dict[str, Entry]) -> None:
    words = shlex.split(entries["seal"]["command"])
    assert all(words.index(flag) > words.index("-use_fast_math") for flag in PLAIN)
    assert not set(PLAIN) & set(shlex.split(entries["attend"]["command"]))


def test_they_compile_and_find_each_other(entries: dict[str, Entry]) -> None:
    """Ours without a warning; and the backend needs no symbol of libllama."""
    needed: dict[str, set[str]] = {}
    defined: set[str] = set()
    for name, entry in entries.items():
        out, printed = compile_entry(entry)
        print(f"compiled {name}.cu")
        assert name not in OURS or "warning" not in printed, printed
        needed[name] = symbols(out, "--undefined-only")
        defined |= symbols(out, "--defined-only")
    assert any("xq_cuda_compute" in symbol for symbol in needed["ggml-cuda"])
    for wanted in needed.values():
        missing = {s for s in wanted - defined if "xq" in s or "llama_" in s}
        assert not missing, missing


def compile_entry(entry: Entry) -> tuple[Path, str]:
    words = shlex.split(entry["command"])
    folder = Path(entry["directory"])
    out = folder / words[words.index("-o") + 1]
    out.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "CPATH": str(cublas_headers())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout
    return out, done.stdout


def symbols(path: Path, which: str) -> set[str]:
    return {line.split()[-1] for line in run("nm", which, path).splitlines() if line.strip()}
