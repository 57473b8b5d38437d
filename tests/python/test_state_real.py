"""Saved states of the packed cache through llama.cpp's API: which tokens they hold, and when."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import saved
import tiny

from xquant_gguf.config import resolve_kv
from xquant_gguf.eval.contexts import Context, Model

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("packed_library")]

TINY = {"block_count": 3, "attention__key_length": 64, "attention__value_length": 64}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    model = Model(str(tiny.write(tmp_path_factory.mktemp("model"), "states", **TINY)))
    yield model
    model.close()


@pytest.fixture
def context(loaded: Model) -> Iterator[Any]:
    """Open contexts, and close them behind the test."""
    opened: list[Context] = []

    def one(kv: str = "balanced", model: Model = loaded, **kwargs: Any) -> Context:
        flags = {k: kwargs.pop(k) for k in ("window", "sink", "max_ubatch") if k in kwargs}
        kwargs = {"n_ctx": 1024, "threads": 1, **kwargs}
        opened.append(Context(model, resolve_kv(kv, **flags), **kwargs))
        return opened[-1]

    yield one
    for ctx in opened:
        ctx.close()


def words(n: int, seed: int = 0) -> list[int]:
    """Token ids of nothing in particular."""
    return random.Random(seed).choices(range(tiny.VOCABULARY), k=n)


def copy(ctx: Context, source: int, to: int, end: int = -1) -> None:
    memory = ctx.model.api.llama_get_memory(ctx.handle)
    ctx.model.api.llama_memory_seq_cp(memory, source, to, -1, end)
    ctx.held[to] = ctx.held[source]


# ---- copies between streams that wait for the next decode ----


def test_a_waiting_stream_copy_is_carried_out_before_a_state_is_written(context: Any) -> None:
    ctx = context(sequences=3, unified=False, n_ctx=3 * 512)
    text = words(300)
    ctx.feed(text[:-1], logits="last")
    ctx.feed(words(40, 1), logits="last", sequence=1)
    copy(ctx, 0, 1)
    state = saved.save(ctx, 1)
    assert saved.restore(ctx, state, 2)
    want = ctx.feed(text[-1:], sequence=0)
    for sequence in (1, 2):
        assert np.array_equal(ctx.feed(text[-1:], sequence=sequence), want), sequence


def test_a_waiting_stream_copy_is_carried_out_before_a_state_is_read(context: Any) -> None:
    """Else it would copy what was restored over it, below cells of what was there before."""
    ctx = context(sequences=2, unified=False)
    text = words(300)
    ctx.feed(words(200, 1), logits="last")
    numbers = saved.save(ctx)
    saved.remove(ctx, 0)
    ctx.feed(text[:-1], logits="last")
    copy(ctx, 0, 1)
    assert saved.restore(ctx, numbers, 0)
    alone = context(n_ctx=512)
    alone.feed(text[:-1], logits="last")
    assert np.array_equal(ctx.feed(text[-1:], sequence=1), alone.feed(text[-1:]))
