"""A run under AddressSanitizer, with arrays and shared memory of the exact size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .build import CPP, HERE, LIMIT, SOURCES, compiler, copied, emulated, run

OPTIONS = "detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=0"


def sanitised(impl: str, out: Path, cpp: Path = CPP) -> subprocess.CompletedProcess[str]:
    library = emulated(impl, out, cpp, ("-fsanitize=address", "-g1"))
    runtime = run(compiler(), "-print-file-name=libasan.so").strip()
    if not os.path.isabs(runtime):
        pytest.skip("the compiler has no AddressSanitizer")
    path = os.pathsep.join([str(HERE.parent), str(HERE.parents[1])])
    return subprocess.run(
        [sys.executable, "-m", "gpu.run_sanitised", impl, str(library)],
        env={**os.environ, "PYTHONPATH": path, "LD_PRELOAD": runtime, "ASAN_OPTIONS": OPTIONS},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=LIMIT,
    )


@pytest.mark.parametrize("impl", list(SOURCES))
def test_no_access_out_of_bounds(impl: str, tmp_path: Path) -> None:
    done = sanitised(impl, tmp_path)
    assert done.returncode == 0 and "checks passed" in done.stdout, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "text", "defect"),
    [
        ("layout.h", "l.floats = l.work", "l.floats = l.work - 4"),
        ("values.h", "first + lane < dv", "true"),
        ("attend.h", "cell < a.n_kv", "cell <= a.n_kv"),
    ],
    ids=("shared memory", "page", "mask"),
)
def test_it_sees_reads_behind_the_end(file: str, text: str, defect: str, tmp_path: Path) -> None:
    cpp = copied(tmp_path)
    path = cpp / "kernels/gpu" / file
    source = path.read_text(encoding="utf-8")
    assert text in source
    path.write_text(source.replace(text, defect, 1), encoding="utf-8")
    done = sanitised("cuda-emulated", tmp_path, cpp)
    assert "heap-buffer-overflow" in done.stdout, done.stdout
