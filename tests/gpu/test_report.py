"""gpu.json to documents. The figures in here are made up; nothing of them was measured."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from .ggml import ROOT

sys.path.insert(0, str(ROOT / "python" / "gpu"))

import report  # noqa: E402


def step(stage: str, status: str = "passed", **more: Any) -> dict[str, Any]:
    return {"stage": stage, "status": status, "rows": [], **more}


def depth(kv: str, tokens: int, ms: float, seconds: float | None = None) -> dict[str, Any]:
    filled = "prompt" if seconds else "repeated" if tokens else "nothing"
    row = {"kv": kv, "depth": tokens, "filled": filled, "step_ms": ms}
    return {**row, "prefill_tokens": tokens, "prefill_s": seconds}


GPU = {
    "name": "CUDA0",
    "description": "Made-up GPU",
    "kind": "gpu",
    "backend": "CUDA",
    "has_kernels": True,
}
MADE_UP: dict[str, Any] = {
    "format": 1,
    "written": "2000-01-01T00:00:00Z",
    "bundle": {"backend": "cuda", "arch": "90", "commit": "made-up", "quick": False},
    "steps": {
        "device": step(
            "device",
            device={
                "devices": [GPU],
                "attributes": {"multiprocessors": 100},
                "nvidia_smi": {
                    "driver_version": "1.2",
                    "clocks.max.sm": "1000",
                    "clocks.max.mem": "2000",
                },
            },
        ),
        "copy": step("device", rows=[{"what": "copy", "gb_s": 1000.0}]),
        "cases": step("kernels", "failed", total={"passed": 9, "failed": 1}, why="1 failed: x"),
        "attention: f16": step(
            "speed",
            rows=[{"kv": "f16", "what": "attend", "rows": 4, "us": 10.0, "gb_s": 500.0}],
        ),
        "speed: llama, f16": step(
            "speed", rows=[depth("f16", 0, 6.0), depth("f16", 32768, 12.0, 8.0)]
        ),
        "speed: llama, balanced": step(
            "speed", "out of time", rows=[depth("balanced", 0, 6.0), depth("balanced", 32768, 8.0)]
        ),
        "profile: seal": step(
            "profile", rows=[{"us": 5.0, "dram_pct": 42.0, "stalls": {"wait": 2.0}}]
        ),
        "memcheck: streams": step("sanitize", "skipped", why="no compute-sanitizer here"),
    },
}


def test_what_is_written(tmp_path: Path) -> None:
    page, readme = tmp_path / "gpu.md", tmp_path / "README.md"
    page.write_text((ROOT / "docs/gpu.md").read_text("utf-8"), encoding="utf-8")
    readme.write_text((ROOT / "README.md").read_text("utf-8"), encoding="utf-8")
    source = tmp_path / "gpu.json"
    source.write_text(json.dumps(MADE_UP), encoding="utf-8")
    written = []
    for _ in range(2):  # the marks stay
        sys.argv = ["report.py", str(source), str(page), str(readme)]
        report.main()
        written.append(page.read_text("utf-8") + readme.read_text("utf-8"))
    assert written[0] == written[1]
    text = written[0]
    for wanted in (
        "**Made-up GPU**, driver 1.2, clocks up to 1000 and 2000 MHz",
        "Kernel cases: 1 failed, 9 passed.",
        "- cases: failed: 1 failed: x",
        "- memcheck: streams: skipped: no compute-sanitizer here",
        "| f16 | attend | 4 | 10.0 | 500 | 50% |",
        "| balanced | 32768 | repeated | 8.00 | 1.50 |",
        "| seal | 5.0 | 42.0 | – | – | – | wait 2.0 |",
        "on Made-up GPU through cuda 5 of 8 steps of its checks passed, 9 of 10 kernel cases; "
        "2 steps failed or did not end",
    ):
        assert wanted in text, wanted
    assert "nothing here has ever run on one" not in readme.read_text("utf-8")


def test_reckoned_is_gpu_models_arithmetic() -> None:
    """By hand: weights and an f16 cache over the bandwidth; attention's share from the steps."""
    found = report.Report(copy.deepcopy(MADE_UP))
    shape = report.LARGE["llama"]
    layer = 4096 * (4096 * 2 + 1024 * 2) + 3 * 4096 * 14336
    weights = (32 * layer + 4096 * 128256) * 4.5 / 8 + (2 * 32 + 1) * 4096 * 4
    assert report.weights(shape) == pytest.approx(weights)
    cache = 32 * 2 * 8 * 128 * 2 * 32768
    assert found.reckoned(shape, "f16", 32768) == pytest.approx((weights + cache) / 1e9)
    at = {row["depth"]: row for row in MADE_UP["steps"]["speed: llama, f16"]["rows"]}
    assert found.share(shape, "f16", at, 32768) == f"{cache / 6e-3 / 1e12:.0%}"
    assert report.model_of(report.LARGE["hybrid"]).layers == 8


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"bundle": {"backend": "cpu", "commit": ""}}, "dry run"),
        ({"bundle": {**MADE_UP["bundle"], "quick": True}}, "tiny sizes"),
        ({"format": 2}, "format 2"),
        ({"steps": {}}, "names the machine"),
    ],
)
def test_what_says_nothing_of_a_gpu_is_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(SystemExit, match=why):
        report.Report({**MADE_UP, **change})


def test_documents_claim_nothing_yet() -> None:
    """Until a gpu.json lies beside the other results."""
    if not list((ROOT / "docs/results").glob("gpu*.json")):
        assert "**nothing here has ever run on one.**" in (ROOT / "README.md").read_text("utf-8")
        assert "\nNothing: no GPU was at hand." in (ROOT / "docs/gpu.md").read_text("utf-8")
