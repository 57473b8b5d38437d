"""Sliding windows: the small form is the default, and a rewind never reads tokens it has lost."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import logits, tokens

from xquant_gguf.errors import UnsupportedModelError

ARCHS = ["gpt-oss", "gemma3", "qwen35"]
SMALL = [{"kv": "balanced"}, {"kv": "f16", "swa_full": False}, {"kv": "q8_0", "swa_full": False}]


@pytest.fixture
def load(opened: Callable[..., Any]) -> Callable[..., Any]:
    """Open models with small batches, so that windows are soon left."""
    return lambda path, **settings: opened(path, **{"n_ctx": 1024, "n_ubatch": 128, **settings})


@pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind["kv"])
@pytest.mark.parametrize("arch", ARCHS)
def test_a_deep_rewind_equals_a_fresh_run(
    tiny: Callable[[str], Path], load: Callable[..., Any], arch: str, kind: dict[str, Any]
) -> None:
    long, other = tokens(800), tokens(20, 2)
    llm, fresh = load(tiny(arch), **kind), load(tiny(arch), **kind)
    llm.eval(long)
    llm.n_tokens = 300
    llm.eval(other)
    fresh.eval(long[:300] + other)
    assert llm.n_tokens == 320
    assert np.array_equal(logits(llm), logits(fresh))
    llm.eval(tokens(5, 3))  # and it goes on from there
    fresh.eval(tokens(5, 3))
    assert np.array_equal(logits(llm), logits(fresh))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("arch", ["gemma3", "gpt-oss", "llama4"])
def test_f16_is_counted_alike_by_itself_and_beside_a_packed_cache(
    tiny: Callable[[str], Path], load: Callable[..., Any], arch: str, whole: bool
) -> None:
    path = tiny(arch)
    f16, q8_0, packed = (
        load(path, kv=kv, n_ctx=4096, swa_full=whole).kv_cache.snapshot()
        for kv in ("f16", "q8_0", "balanced")
    )
    assert f16.bytes_total == f16.bytes_f16 == packed.bytes_f16
    assert q8_0.bytes_total == pytest.approx(f16.bytes_total * 8.5 / 16, rel=1e-3)


@pytest.mark.model
@pytest.mark.parametrize("kind", SMALL[:2], ids=lambda kind: kind["kv"])
def test_a_deep_rewind_of_gemma_equals_a_fresh_run(
    gemma: Path, load: Callable[..., Any], kind: dict[str, Any]
) -> None:
    llm, fresh = load(gemma, **kind), load(gemma, **kind)
    llm.eval(tokens(800))
    llm.n_tokens = 300
    llm.eval(tokens(20, 2))
    fresh.eval(tokens(800)[:300] + tokens(20, 2))
    assert np.array_equal(logits(llm), logits(fresh))


@pytest.mark.parametrize("arch", ["gpt-oss", "gemma3"])
def test_an_edited_prompt_equals_a_fresh_one(
    tiny: Callable[[str], Path], load: Callable[..., Any], arch: str
) -> None:
    long = tokens(800)
    edited = long[:300] + tokens(50, 2)
    llm, fresh = load(tiny(arch)), load(tiny(arch))
    next(llm.generate(long, temp=0.0))
    assert next(llm.generate(edited, temp=0.0)) == next(fresh.generate(edited, temp=0.0))
    assert np.array_equal(logits(llm), logits(fresh))


def test_a_saved_state_that_is_rewound_equals_a_fresh_run(
    tiny: Callable[[str], Path], load: Callable[..., Any]
) -> None:
    long, other = tokens(800), tokens(20, 2)
    llm, again, fresh = (load(tiny("gpt-oss")) for _ in range(3))
    llm.eval(long)
    again.load_state(pickle.loads(pickle.dumps(llm.save_state())))
    again.n_tokens = 300
    again.eval(other)
    fresh.eval(long[:300] + other)
    assert np.array_equal(logits(again), logits(fresh))


@pytest.mark.parametrize("arch", ["gpt-oss", "gemma3", "llama4"])
def test_what_the_window_still_holds_is_not_read_again(
    tiny: Callable[[str], Path], load: Callable[..., Any], read: list[int], arch: str
) -> None:
    llm = load(tiny(arch))
    llm.eval(tokens(800))
    assert sum(read) == 800
    read.clear()
    llm.n_tokens = 790
    llm.eval(tokens(5, 2))
    for token in tokens(140, 3):
        llm.eval([token])
    assert read == [5, *[1] * 140]


def test_a_batch_that_failed_does_not_hide_a_rewind(
    tiny: Callable[[str], Path], load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import llama_cpp

    llm, fresh = load(tiny("gpt-oss")), load(tiny("gpt-oss"))
    long = tokens(800)
    stock = llama_cpp.Llama.eval

    def fails(self: Any, tokens: Any) -> None:
        stock(self, tokens)
        self.n_tokens = 300
        raise RuntimeError("llama_decode returned 2")

    monkeypatch.setattr(llama_cpp.Llama, "eval", fails)
    with pytest.raises(RuntimeError):
        llm.eval(long)
    monkeypatch.setattr(llama_cpp.Llama, "eval", stock)
    llm.eval(tokens(20, 2))
    fresh.eval(long[:300] + tokens(20, 2))
    assert np.array_equal(logits(llm), logits(fresh))


def test_images_are_not_read_again_as_text(
    tiny: Callable[[str], Path], load: Callable[..., Any]
) -> None:
    import llama_cpp

    llm = load(tiny("gpt-oss"))
    llm.eval(tokens(10))
    llama_cpp.Llama.eval(llm, tokens(290, 2))  # as an image handler: behind our back
    llm.eval(tokens(500, 3))
    llm.n_tokens = 310
    with pytest.raises(UnsupportedModelError, match="images cannot be"):
        llm.eval([5])
    llm.reset()
    llm.eval(tokens(10))


def test_whole_windows_can_be_asked_for(
    tiny: Callable[[str], Path], load: Callable[..., Any], read: list[int]
) -> None:
    whole, small = load(tiny("gemma3"), n_ctx=4096, swa_full=True), load(tiny("gemma3"), n_ctx=4096)
    assert small.kv_cache.bytes["unpacked"] < whole.kv_cache.bytes["unpacked"] / 4
    assert load(tiny("gemma3"), swa_full=None).context_params.swa_full is False
    assert load(tiny("gemma3"), kv="f16").context_params.swa_full is True
    whole.eval(tokens(800))
    whole.n_tokens = 300
    whole.eval([5])
    assert sum(read) == 801


def test_contexts_of_the_tools_refuse_what_would_read_lost_tokens(
    tiny: Callable[[str], Path],
) -> None:
    from xquant_gguf.config import resolve_kv
    from xquant_gguf.eval.contexts import Context, Model

    model = Model(str(tiny("gpt-oss")))
    context = Context(model, resolve_kv("balanced"), n_ctx=1024, threads=2)
    context.feed(tokens(800), logits="last")
    context.rewind(790)
    with pytest.raises(UnsupportedModelError, match="from 790 to 300 tokens"):
        context.rewind(300)
    context.close()
    whole = Context(model, resolve_kv("balanced"), n_ctx=1024, threads=2, swa_full=True)
    whole.feed(tokens(800), logits="last")
    whole.rewind(300)
    whole.close()
    model.close()
