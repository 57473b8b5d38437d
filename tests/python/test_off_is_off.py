"""Off means off: with a stock cache, the patched library gives the unpatched one's bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LOGITS = """
import hashlib, sys, llama_cpp
llm = llama_cpp.Llama(sys.argv[1], n_ctx=512, n_threads=2, n_threads_batch=2, logits_all=True,
                      verbose=False, flash_attn=sys.argv[2] == "1")
text = b"The lighthouse keeper climbed the stairs and looked over the sea. " * 30
tokens = llm.tokenize(text)[:300]
llm.eval(tokens[:260])
for token in tokens[260:]:
    llm.eval([token])
print(len(tokens), hashlib.sha256(llm.scores[: len(tokens)].tobytes()).hexdigest())
"""


def digest(library: Path, model: Path, flash: bool) -> str:
    env = {k: v for k, v in os.environ.items() if k != "XQUANT_GGUF_LIB"}
    env["LLAMA_CPP_LIB_PATH"] = str(library)
    command = [sys.executable, "-c", LOGITS, str(model), str(int(flash))]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout.split("\n")[-2]


@pytest.fixture(scope="module")
def stock_library() -> Path:
    """The unpatched library: XQUANT_STOCK_LIB, or built once into the cache (some minutes)."""
    named = os.environ.get("XQUANT_STOCK_LIB")
    if named:
        return Path(named)
    script = ROOT / "python" / "build" / "stock.py"
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return Path(run.stdout.split("\n")[-2])


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("flash", [False, True])
def test_logits_with_a_stock_cache_are_bit_identical(
    stock_library: Path, smollm2: Path, flash: bool
) -> None:
    from xquant_gguf import _native

    ours = digest(_native.library_directory(), smollm2, flash)
    assert ours.startswith("300 ")
    assert ours == digest(stock_library, smollm2, flash)
