"""Models whose cache cannot be packed are refused at load, with rule, value and remedy."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("packed_library")

VOCAB = 64


def write_model(path: Path, head_dim: int) -> Path:
    """A one-layer llama with two heads and random weights: enough to create a context."""
    width, hidden = 2 * head_dim, 32
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(head_dim)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{i}>".encode() for i in range(VOCAB)])
    writer.add_token_scores([0.0] * VOCAB)
    writer.add_token_types([int(gguf.TokenType.NORMAL)] * VOCAB)
    rng = np.random.default_rng(1)
    shapes = {
        "token_embd": (VOCAB, width),
        "output_norm": (width,),
        "blk.0.attn_norm": (width,),
        "blk.0.ffn_norm": (width,),
        "blk.0.attn_q": (width, width),
        "blk.0.attn_k": (width, width),
        "blk.0.attn_v": (width, width),
        "blk.0.attn_output": (width, width),
        "blk.0.ffn_gate": (hidden, width),
        "blk.0.ffn_up": (hidden, width),
        "blk.0.ffn_down": (width, hidden),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("head_dim", [20, 16, 24, 268, 584])
def test_head_dims_that_cannot_be_packed(tmp_path: Path, head_dim: int) -> None:
    from xquant_gguf import Llama
    from xquant_gguf.errors import UnsupportedModelError

    path = write_model(tmp_path / "odd.gguf", head_dim)
    with pytest.raises(UnsupportedModelError) as caught:
        Llama(path, n_ctx=256, verbose=False)
    assert "multiples of 8 from 32 to 576" in caught.value.rule
    assert str(head_dim) in caught.value.value
    assert "f16" in caught.value.remedy
    Llama(path, n_ctx=256, verbose=False, kv="f16").close()  # the remedy works


@pytest.mark.parametrize("head_dim", [40, 80, 96, 128, 256])
def test_unusual_head_dims_that_can(tmp_path: Path, head_dim: int) -> None:
    """Past the window, so that packed tiles are read, against f16."""
    from xquant_gguf import Llama

    path = write_model(tmp_path / "fine.gguf", head_dim)
    tokens = [int(t) for t in np.random.default_rng(2).integers(0, VOCAB, 250)]
    logits = []
    for kv, settings in (("f16", {}), ("balanced", {"k_bits": 4, "v_bits": 4, "window": 32})):
        llm = Llama(path, n_ctx=256, verbose=False, kv=kv, **settings)
        llm.eval(tokens)
        logits.append(np.array(llm._ctx.get_logits_ith(-1)[:VOCAB]))
        llm.close()
    assert np.square(logits[1] - logits[0]).mean() / np.square(logits[0]).mean() < 0.05


def test_the_command_line_says_it_in_one_line(
    tmp_path: Path, run_chat: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    result = run_chat(write_model(tmp_path / "odd.gguf", 20), "--prompt", "hello")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "head dims" in result.stderr and "f16" in result.stderr
