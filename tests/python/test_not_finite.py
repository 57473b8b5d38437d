"""A token whose keys and values are not finite: other sequences keep their bits, as with f16."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_cache_real import STORY, divergence

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("packed_library")]

Rows = NDArray[np.float32]


def context(path: Path, kv: str) -> Any:
    from xquant_gguf.config import resolve_kv
    from xquant_gguf.eval.contexts import Context, Model

    return Context(Model(str(path)), resolve_kv(kv), n_ctx=1024, threads=2, sequences=2)


def feed_rows(held: Any, rows: Rows, sequences: list[int], *, logits: bool = True) -> Rows:
    """Evaluate embeddings [n][n_embd], each behind its sequence; logits of all of them, or none."""
    api, n = held.model.api, len(rows)
    batch = api.llama_batch_init(n, rows.shape[1], 1)
    ctypes.memmove(batch.embd, np.ascontiguousarray(rows).ctypes.data, rows.nbytes)
    batch.n_tokens = n
    for i, sequence in enumerate(sequences):
        batch.pos[i] = held.held[sequence]
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = sequence
        batch.logits[i] = logits
        held.held[sequence] += 1
    assert api.llama_decode(held.handle, batch) == 0
    api.llama_batch_free(batch)
    if not logits:
        return rows[:0]
    pointer = api.llama_get_logits(held.handle)
    return np.ctypeslib.as_array(pointer, (n, held.model.n_vocab)).copy()


def embeddings(held: Any, n: int) -> Rows:
    n_embd = held.model.api.llama_model_n_embd(held.model.handle)
    return np.random.default_rng(n).standard_normal((n, n_embd)).astype(np.float32)


@pytest.mark.parametrize(
    ("kv", "bad"), [("balanced", np.nan), ("xquant", np.nan), ("balanced", np.inf), ("f16", np.nan)]
)
def test_other_sequences_keep_their_bits(smollm2: Path, kv: str, bad: float) -> None:
    """Beside the token in a batch, in tiles that it shares, and in those that it leaves behind."""
    seen = []
    for spoilt in (False, True):
        held = context(smollm2, kv)
        text = held.model.tokenize(STORY * 8)[:330]
        mine = [held.feed(text[:90], logits="last")]
        rows, sequences = embeddings(held, 24), [0, 1] * 12
        if spoilt:
            rows[5] = bad
        both = feed_rows(held, rows, sequences)
        assert np.isnan(both[5::2]).all() == spoilt
        mine += [both[::2], held.feed(text[90:120])]
        api = held.model.api
        assert api.llama_memory_seq_rm(api.llama_get_memory(held.handle), 1, -1, -1)
        mine += [held.feed(text[start : start + 70], logits="last") for start in (120, 190, 260)]
        seen.append(np.concatenate(mine))
        held.close()
        held.model.close()
    assert np.isfinite(seen[0]).all()
    assert np.array_equal(seen[0], seen[1])


@pytest.mark.parametrize("kv", ["balanced", "xquant"])
def test_tiles_sealed_with_it(smollm2: Path, kv: str) -> None:
    """Sealed with tokens that are not finite, the others of a tile are as exact as without."""
    seen = []
    for spoilt in (False, True):
        held = context(smollm2, kv)
        text = held.model.tokenize(STORY * 8)[:192]
        rows = embeddings(held, 192)
        if spoilt:
            rows[3] = np.nan
        mine = []
        for start in range(0, 192, 16):
            mine.append(held.feed(text[start : start + 16], logits="last"))
            feed_rows(held, rows[start : start + 16], [1] * 16, logits=False)
        assert held.snapshot().tokens == 384
        seen.append(np.concatenate(mine))
        held.close()
        held.model.close()
    assert np.isfinite(seen[1]).all()
    assert divergence(seen[0], seen[1]) < 0.1
