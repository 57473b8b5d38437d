"""Tiny models of many architectures: packed, they agree with f16 (all of them: docs/models.md)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, subprocess_env
from tiny import write

pytestmark = pytest.mark.usefixtures("packed_library")

NAMES = ["qwen2", "qwen3", "qwen35", "qwen3moe", "gemma2", "gemma3", "gemma3n", "gemma4-d256"]
NAMES += ["gpt-oss", "llama", "llama4", "phi2", "phi3", "glm4", "granite", "granitehybrid", "lfm2"]
NAMES += ["nemotron_h", "olmo2", "cohere2", "falcon-h1", "mpt", "baichuan-13b", "starcoder2"]
NAMES += [
    "deepseek2",
    "deepseek2-nomla",
    "kimi-linear",
    "mistral4",
    "minicpm3",
    "qwen2vl",
    "smollm3",
]
FLOOR = 1e-3
HIGHER = ("qwen3moe", "gpt-oss", "llama4", "deepseek2", "deepseek2-nomla", "mistral4", "gemma3n")
"""Where a rounding error grows: it may choose other experts, or pass many stacked streams."""
OF_Q4_0 = 1.5


@pytest.mark.parametrize("name", NAMES)
def test_packed_agrees_with_f16(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, name)
    tool = ROOT / "python/archs/agreement.py"
    done = subprocess.run(
        [sys.executable, tool, name, path],
        env=subprocess_env(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-500:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["outcome"] == "packed"
    assert found["exact"] < (5 * FLOOR if name in HIGHER else FLOOR)
    q4_0 = found["q4_0"] or 0.01  # not every head dim is a multiple of its block
    assert found["sealed"] < max(OF_Q4_0 * q4_0, 2 * found["exact"])
