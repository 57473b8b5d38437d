"""ggml nodes through the CUDA host code and emulated launches, against the CPU callbacks."""

from __future__ import annotations

from pathlib import Path

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
