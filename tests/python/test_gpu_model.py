"""The model behind docs/gpu.md: its arithmetic, and that the page has today's presets."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from xquant_gguf.config import resolve_kv
from xquant_gguf.memory import cache_bytes

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python" / "bench"))

import gpu_count  # noqa: E402
import gpu_facts  # noqa: E402
import gpu_model  # noqa: E402


def test_weights_are_those_of_the_usual_files() -> None:
    """Bytes of published Q4_K_M files: 4.92, 4.68 and 4.08 GB."""
    for model, size in zip(gpu_facts.MODELS, (4.92e9, 4.68e9, 4.08e9)):
        whole = model.weights() + model.width * model.vocabulary * 4.5 / 8
        assert whole == pytest.approx(size, rel=0.003)


def test_bytes_by_hand() -> None:
    model = gpu_facts.LLAMA_31
    f16, q4_0, balanced = (resolve_kv(name) for name in ("f16", "q4_0", "balanced"))
    row = 2 * 32 * 8 * 128
    assert gpu_count.kv_read(model, f16, 1024) == 1024 * row * 2
    assert gpu_count.true_bits(model, q4_0) == 4.5
    whole = 128 + 32 + 16  # window, sink tile, half a tile
    packed = gpu_count.true_bits(model, balanced) / 8
    want = row * (whole * 2 + (1024 - whole) * packed)
    assert gpu_count.kv_read(model, balanced, 1024) == pytest.approx(want)


def test_instructions_by_hand() -> None:
    """16 codes of 2 bits: a load, 4 shifts, 4 masks, and 8 dp4a and 4 loads a query head."""
    count = gpu_count.word(2, 3, dp4a=True)
    assert (count.issued, count.integer, count.shared) == (1 + 8 + 3 * 12, 8 + 3 * 8, 3 * 4)
    count = gpu_count.word(2, 3, dp4a=False)
    assert (count.issued, count.integer, count.shared) == (1 + 8 + 16 + 3 * 20, 8, 3 * 4)


def test_the_slowest_unit_decides() -> None:
    device = gpu_facts.RTX_4090
    clock = device.cores * device.hertz
    assert gpu_count.Count(128, 1, 1).seconds(device) == 1 / clock
    assert gpu_count.Count(128, 128, 1).seconds(device) == 2 / clock
    assert gpu_count.Count(128, 128, 128).seconds(device) == 4 / clock


def test_the_longest_context_is_the_last_that_fits() -> None:
    model, kv = gpu_facts.QWEN_25, resolve_kv("tiny")
    found = gpu_count.most_tokens(model, kv, 1e9)
    assert cache_bytes(model.info, kv, found) <= 1e9
    assert cache_bytes(model.info, kv, found + 256) > 1e9
    assert gpu_count.most_tokens(model, kv, 10) == 0


def test_the_page_has_the_tables_of_today() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert gpu_model.updated(text) == text, "run python python/bench/gpu_model.py docs/gpu.md"


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(SystemExit, match="no marks"):
        gpu_model.updated("# nothing")
