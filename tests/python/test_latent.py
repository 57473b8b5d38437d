"""Latent attention (MLA): f16 keeps latents once, a packed cache as keys and as values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import logits, nmse, tokens

from xquant_gguf import Llama
from xquant_gguf.errors import UnsupportedModelError

pytestmark = pytest.mark.usefixtures("packed_library")
ARCHS = ("deepseek2", "mistral4", "kimi-linear")
TEXT = tokens(700)
LATENT, ROTATED = (
    512,
    64,
)  # elements of a token in every layer: what values are, and what RoPE turns


@pytest.fixture
def load(tiny: Callable[[str], Path], opened: Callable[..., Any]) -> Callable[..., Any]:
    """Open the tiny model of an architecture."""
    return lambda arch, **settings: opened(tiny(arch), **{"n_ctx": 1024, **settings})


def read(llm: Llama, step: int = 700) -> np.ndarray:
    for start in range(0, len(TEXT), step):
        llm.eval(TEXT[start : start + step])
    return logits(llm)


@pytest.mark.parametrize("arch", ARCHS)
def test_against_f16(load: Callable[..., Llama], arch: str) -> None:
    """Nothing sealed is f16 but for rounding; what is sealed errs as caches of its bits do."""
    truth = read(load(arch, kv="f16"))
    q4_0 = nmse(read(load(arch, kv="q4_0")), truth)
    assert nmse(read(load(arch, kv="lossless", window=1024)), truth) < 2e-3
    assert nmse(read(load(arch, kv="lossless")), truth) < q4_0
    assert nmse(read(load(arch, kv="balanced")), truth) < 20 * q4_0


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("step", (1, 70))
def test_a_prompt_may_be_cut_anywhere(load: Callable[..., Llama], arch: str, step: int) -> None:
    """A last bit may choose another code, one token at a time as with `q4_0` (0.0016)."""
    whole = read(load(arch, kv="balanced"))
    assert nmse(read(load(arch, kv="balanced"), step), whole) < 1e-2


@pytest.mark.parametrize("arch", ARCHS)
def test_a_state_goes_on_as_it_was(load: Callable[..., Llama], arch: str) -> None:
    llm, other = load(arch, kv="balanced"), load(arch, kv="balanced")
    llm.eval(TEXT[:600])
    other.load_state(llm.save_state())
    for model in (llm, other):
        model.eval(TEXT[600:])
    assert np.array_equal(logits(llm), logits(other))


@pytest.mark.parametrize(("arch", "layers"), [("deepseek2", 4), ("kimi-linear", 1)])
def test_bytes(load: Callable[..., Llama], arch: str, layers: int) -> None:
    """f16 is counted with latents once, beside every kind of cache; two packed stores are less."""
    f16 = layers * 8192 * (LATENT + ROTATED) * 2
    for kv in ("f16", "q8_0", "balanced"):
        cache = load(arch, kv=kv, n_ctx=8192).kv_cache.snapshot()
        assert cache.bytes_f16 == f16
        assert cache.bytes_total == pytest.approx(
            {"f16": f16, "q8_0": f16 * 8.5 / 16}.get(kv, 0.39 * f16), rel=0.01
        )
    packed = load(arch, kv="balanced", n_ctx=8192).kv_cache.snapshot()
    codes = (packed.bytes_codes + packed.bytes_scales) / f16
    assert codes == pytest.approx(
        (2 * LATENT + ROTATED) * 2.31 / ((LATENT + ROTATED) * 16), rel=0.01
    )
    assert {(row["head_dim_k"], row["head_dim_v"]) for row in packed.layers} == {(576, 512)}


def test_attention_that_chooses_tokens_is_refused(load: Callable[..., Llama]) -> None:
    """DeepSeek 3.2 reads its cache through an index of tokens, which has no packed form."""
    with pytest.raises(UnsupportedModelError) as caught:
        load("deepseek32", kv="balanced")
    assert "every layer's attention must have a packed form" in str(caught.value)
    assert "f16" in caught.value.remedy
