"""Batches that must be taken whole: pooled embeddings, and tokens that see each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cache_real import STORY

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("packed_library")]

MEAN = 1  # LLAMA_POOLING_TYPE_MEAN


def embedding(path: Path, kv: str, tokens: int, **kwargs: Any) -> Any:
    from xquant_gguf import Llama

    with_pool = {"embedding": True, "pooling_type": MEAN, "n_ubatch": 512, **kwargs}
    llm = Llama(str(path), kv=kv, n_ctx=1024, n_threads=1, verbose=False, **with_pool)
    text = llm.detokenize(llm.tokenize(STORY.encode() * 20)[1:tokens]).decode()
    row = np.array(llm.embed(text))
    llm.close()
    return row


@pytest.mark.parametrize("tokens", [200, 300, 510])
def test_pooled_embeddings_are_as_with_f16(smollm2: Path, tokens: int) -> None:
    """The mean over all tokens, not over the last micro-batch."""
    wanted = embedding(smollm2, "f16", tokens)
    got = embedding(smollm2, "quality", tokens)
    cosine = float(wanted @ got / np.linalg.norm(wanted) / np.linalg.norm(got))
    assert cosine > 0.999


def context(path: Path, kv: str, **settings: Any) -> Any:
    from xquant_gguf.config import resolve_kv
    from xquant_gguf.eval.contexts import Context, Model

    cache = resolve_kv(kv, **settings)
    return Context(Model(str(path)), cache, n_ctx=1024, threads=1, batch=512)


def test_tokens_that_see_each_other_in_one_micro_batch(smollm2: Path) -> None:
    """With room for them as with f16: the first token sees the last."""
    seen = []
    for kv, settings in (("f16", {}), ("quality", {"max_ubatch": 320})):
        ctx = context(smollm2, kv, **settings)
        ctx.model.api.llama_set_causal_attn(ctx.handle, False)
        seen.append(ctx.feed(ctx.model.tokenize(STORY * 8)[:300], logits="last")[0])
        ctx.close()
    assert np.corrcoef(*seen)[0, 1] > 0.99


def test_more_of_them_are_refused_and_the_process_lives(smollm2: Path) -> None:
    ctx = context(smollm2, "balanced")
    tokens = ctx.model.tokenize(STORY * 8)[:300]
    api, batch = ctx.model.api, ctx.batch
    api.llama_set_causal_attn(ctx.handle, False)
    batch.n_tokens = 300
    for i in range(300):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = tokens[i], i, 1
        batch.seq_id[i][0], batch.logits[i] = 0, False
    assert api.llama_decode(ctx.handle, batch) == -1
    why = ctx.model.native.last_error()
    assert "300 tokens and micro-batches of 256" in why
    assert "max_ubatch" in why
    api.llama_set_causal_attn(ctx.handle, True)
    assert api.llama_decode(ctx.handle, batch) == 0
    ctx.close()


def test_the_refusal_is_a_typed_error(smollm2: Path) -> None:
    import llama_cpp

    from xquant_gguf import Llama, UnsupportedModelError

    llm = Llama(str(smollm2), n_ctx=1024, n_threads=1, verbose=False)
    llama_cpp.llama_set_causal_attn(llm.ctx, False)
    with pytest.raises(UnsupportedModelError, match="300 tokens and micro-batches of 256"):
        llm.eval(llm.tokenize(STORY.encode() * 8)[:300])
    assert llm.n_tokens == 0
    llama_cpp.llama_set_causal_attn(llm.ctx, True)
    llm.eval(llm.tokenize(STORY.encode() * 8)[:300])
    llm.close()


def test_a_context_without_causal_attention_takes_them(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import llama_cpp

    params = llama_cpp.llama_context_default_params()
    params.attention_type = llama_cpp.LLAMA_ATTENTION_TYPE_NON_CAUSAL
    monkeypatch.setattr(llama_cpp, "llama_context_default_params", lambda: params)
    ctx = context(smollm2, "balanced")
    ctx.feed(ctx.model.tokenize(STORY * 12)[:512], logits="last")
    ctx.close()
