"""The CUDA sources compile for every architecture; what ptxas says of registers and spills."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from .build import CPP, CUDA, run

pytestmark = pytest.mark.slow

ARCHITECTURES = ("75", "80", "86", "89", "90", "120")
FLAGS = ["-std=c++17", f"-I{CPP}", "-Werror", "all-warnings", "-Xptxas", "-v"]
PLAIN = ["-fmad=false", "-prec-div=true", "-prec-sqrt=true", "-ftz=false"]
"""What seal.cu is compiled with: its bytes must be those of other machines."""

KERNEL = re.compile(
    r"Compiling entry function '(?P<symbol>\S+)' for '\S+'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def nvcc() -> str:
    found = shutil.which("nvcc")
    if not found:
        pytest.skip("no nvcc: install the CUDA toolkit, 13.0 for all architectures")
    return found


def name_of(symbol: str) -> str:
    """attend_kernel<4> from its mangled name."""
    found = re.match(r"_Z(?:\d+)([a-z_]+?_kernel)(?:ILi(\d+)E)?", symbol)
    assert found, symbol
    return found[1] + (f"<{found[2]}>" if found[2] else "")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles(architecture: str, tmp_path: Path) -> None:
    kernels = {}
    for source in CUDA:
        more = PLAIN if source.stem == "seal" else []
        out = tmp_path / f"{source.stem}.o"
        target = f"-arch=sm_{architecture}"
        printed = run(nvcc(), *FLAGS, *more, target, "-c", CPP / source, "-o", out)
        assert "warning" not in printed, printed
        kernels.update({name_of(k["symbol"]): k for k in KERNEL.finditer(printed)})
    assert {"attend_kernel<1>", "attend_kernel<8>", "attend_batch_kernel<16>"} <= set(kernels)
    assert {"combine_kernel", "seal_kernel"} <= set(kernels)
    for name, k in sorted(kernels.items()):
        spills = f"{k['stores']} + {k['loads']} bytes spilt"
        print(f"sm_{architecture:4} {name:22} {k['registers']:>4} registers  {spills}")
        if name.startswith(("attend", "combine")):
            assert k["stack"] == k["stores"] == k["loads"] == "0", f"{name} spills"


@pytest.mark.parametrize("more", ([], ["-use_fast_math"]), ids=("", "behind fast math"))
def test_sealing_has_plain_f32_steps(more: list[str], tmp_path: Path) -> None:
    """No multiply-add, no approximate division or root, no flushing of small numbers."""
    out = tmp_path / "seal.ptx"
    flags = [*FLAGS[:2], *more, *PLAIN, "-arch=sm_86", "-ptx"]
    run(nvcc(), *flags, CPP / "kernels/gpu/cuda/seal.cu", "-o", out)
    steps = re.findall(r"^\s+((?:fma|mul|div|sqrt|add|sub)\.\S*f32)", out.read_text(), re.MULTILINE)
    assert {"div.rn.f32", "sqrt.rn.f32", "mul.rn.f32"} <= set(steps)
    assert all(re.fullmatch(r"(mul|div|sqrt|add|sub)\.rn\.f32|(add|sub)\.f32", s) for s in steps), (
        sorted(set(steps))
    )
