"""ggml nodes through the CUDA host code and emulated launches, against the CPU callbacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from .build import run
from .ggml import CPP, EMULATED, HERE, NODES, compiled, linked

CPU = ("attend", "seal", "dispatch", "generic", "by_mac", "segments")
SOURCES = [
    *(CPP / "kernels/cpu" / f"{name}.cpp" for name in CPU),
    *(CPP / f"{name}.cpp" for name in ("reference/reference", "cache/plan", "cache/config")),
    CPP / "graph/nodes.cpp",
    HERE / "nodes_check.cpp",
]
DEVICE = HERE / "nodes_cuda.cpp"
PORTABLE = ("-DXQ_HAVE_AVX2=0", "-DXQ_HAVE_AVX512=0", "-DXQ_HAVE_NEON=0")
LITTLE = "-DXQG_MOST_PARTS=5000"
"""So little room for partial results that a few tokens do not fit together."""


def test_nodes_as_on_the_cpu(tmp_path: Path) -> None:
    """Codes and metadata by the byte, outputs within their budget; slices change no bit."""
    objects = compiled([*EMULATED, *SOURCES, DEVICE], tmp_path, *PORTABLE)
    printed = run(linked(objects, tmp_path / "nodes"))
    assert "all checks passed" in printed
    again = tmp_path / "slices"
    again.mkdir()
    slices = compiled([NODES, DEVICE], again, *PORTABLE, LITTLE)
    names = {path.name for path in slices}
    rest = [path for path in objects if path.name not in names]
    assert run(linked([*slices, *rest], again / "nodes")) == printed


ELSEWHERE = """
enum cudaError_t { success }; // in the names that the vendors' headers of ggml give their own
typedef void * cudaStream_t;
#include "kernels/gpu/cuda/backend.h"
int main() {
    const bool launched = xq_cuda_compute(nullptr, nullptr, nullptr) == success;
    const bool taken = xq_cuda_supports(nullptr, nullptr) || xq_cuda_address(XQ_LAYER_CHECK);
    return launched || taken || xq_cuda_scratch(nullptr) != 1;
}
"""


@pytest.mark.parametrize("vendor", ("HIP", "MUSA"))
def test_other_vendors_builds_take_no_node(vendor: str, tmp_path: Path) -> None:
    """They compile the same patched ggml-cuda.cu, without our sources."""
    source = tmp_path / f"{vendor}.cpp"
    source.write_text(ELSEWHERE, encoding="utf-8")
    objects = compiled([source], tmp_path, f"-DGGML_USE_{vendor}")
    run(linked(objects, tmp_path / vendor))
