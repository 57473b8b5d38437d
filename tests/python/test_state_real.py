"""Saved states of the packed cache through llama.cpp's API: which tokens they hold, and when."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import saved
import tiny
from test_cache_real import divergence

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


def together(ctx: Context, texts: list[list[int]]) -> None:
    """One token of every sequence in turn, each turn a batch, as a server with slots does."""
    for n in range(len(texts[0])):
        ctx.batch.n_tokens = len(texts)
        for s, text in enumerate(texts):
            ctx.batch.token[s], ctx.batch.pos[s] = text[n], ctx.held[s]
            ctx.batch.n_seq_id[s], ctx.batch.seq_id[s][0], ctx.batch.logits[s] = 1, s, False
            ctx.held[s] += 1
        assert ctx.model.api.llama_decode(ctx.handle, ctx.batch) == 0


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


# ---- exactly the visible tokens ----


def test_a_state_goes_on_to_the_last_bit(context: Any) -> None:
    """Of a sequence and of a whole context; into more and fewer sequences, and streams."""
    text, more = words(700), words(20, 1)
    ctx = context(sequences=2)
    ctx.feed(text, logits="last")
    one, whole = saved.save(ctx), saved.save(ctx, -1)
    want = ctx.feed(more)
    for kwargs in ({}, {"sequences": 4}, {"sequences": 3, "unified": False, "n_ctx": 3 * 1024}):
        other = context(**kwargs)
        assert saved.restore(other, one, other.held and len(other.held) - 1)
        assert np.array_equal(other.feed(more, sequence=len(other.held) - 1), want), kwargs
        if kwargs.get("unified", True):
            assert saved.restore(other, whole, -1)
            assert other.held[0] == 700
            assert np.array_equal(other.feed(more), want), kwargs


def test_a_whole_state_needs_the_sequences_that_it_uses(context: Any) -> None:
    ctx = context(sequences=8)
    for s in (0, 3):
        ctx.feed(words(100, s), logits="last", sequence=s)
    state = saved.save(ctx, -1)
    few = context(sequences=3)
    few.feed(words(10), logits="last")
    assert not saved.restore(few, state, -1)
    assert few.held == [0, 0, 0]
    enough = context(sequences=4)
    assert saved.restore(enough, state, -1)
    assert enough.held == [100, 0, 0, 100]
    for s in (0, 3):
        want = ctx.feed(words(5), sequence=s)
        assert np.array_equal(enough.feed(words(5), sequence=s), want)


def test_a_state_depends_on_its_own_tokens_alone(context: Any) -> None:
    """Two contexts of the same history of sequence 0, and all else different."""
    states = []
    for seed in (1, 2):
        ctx = context(sequences=3)
        ctx.feed(words(320), logits="last")
        ctx.feed(words(50, seed), logits="last", sequence=1)
        ctx.feed(words(60, seed), logits="last")  # a tail that is removed, other tokens each time
        saved.remove(ctx, 0, 320)
        ctx.feed(words(64, 3), logits="last")
        ctx.feed(words(90, seed), logits="last", sequence=2)
        saved.remove(ctx, 1, 10)
        states.append(saved.save(ctx))
    assert states[0] == states[1]
    alone = context()
    alone.feed(words(320), logits="last")
    alone.feed(words(64, 3), logits="last")
    mine = {t.positions: t for t in saved.tiles(saved.save(alone)) if t.cells == saved.ALL}
    theirs = {t.positions: t for t in saved.tiles(states[0]) if t.cells == saved.ALL}
    assert len(mine.keys() & theirs.keys()) >= 8
    for positions in mine.keys() & theirs.keys():
        assert mine[positions].data == theirs[positions].data


def test_a_tile_that_sequences_share_gives_each_its_own_codes(context: Any) -> None:
    """Sequence 1 shares the first tokens of 0: the tile in which they part holds both."""
    ctx = context(sequences=2, window=32, sink=0, max_ubatch=32)
    ctx.feed(words(400), logits="last")
    copy(ctx, 0, 1, 170)
    ctx.held[1] = 170
    ctx.feed(words(200, 1), logits="last", sequence=1)
    state = saved.save(ctx, 1)
    tiles = saved.tiles(state)
    assert sorted(p for t in tiles for p in t.positions) == list(range(370))
    parted = next(t for t in tiles if 169 in t.positions)
    if parted.cells == saved.ALL:  # placed so that no tile is shared
        return
    assert parted.sealed and parted.cells == (1 << 170 % 32) - 1
    layer = saved.layer_bytes(tiles, TINY["block_count"])
    assert parted.size == 3 * (layer.meta + layer.token * (170 % 32))
    for scales in saved.value_scales(parted, TINY["block_count"]):
        assert not any(scales[170 % 32 :]) and any(scales[: 170 % 32])
    fresh = context(sequences=2, window=32, sink=0, max_ubatch=32)
    assert saved.restore(fresh, state, 0)
    want, got = ctx.feed(words(20, 2), sequence=1), fresh.feed(words(20, 2))
    assert divergence(want, got) < 1e-5


def test_rows_of_removed_tokens_are_not_saved(context: Any) -> None:
    states = []
    for seed in (1, 2):
        ctx = context()
        ctx.feed(words(40), logits="last")
        ctx.feed(words(20, seed), logits="last")
        saved.remove(ctx, 0, 40)
        states.append(saved.save(ctx))
    assert states[0] == states[1]
    f16 = context("f16")
    f16.feed(words(40), logits="last")
    assert len(states[0]) < len(saved.save(f16)) + 2000  # settings, identity and checksums


# ---- room ----


@pytest.mark.parametrize("n", [100, 255])
def test_eight_sequences_decoded_together_are_saved_and_restored(context: Any, n: int) -> None:
    ctx, stock = context(sequences=8, n_ctx=2048), context("f16", sequences=8, n_ctx=2048)
    fresh = context(sequences=8, n_ctx=2048)
    texts = [words(n, s) for s in range(8)]
    for each in (ctx, stock):
        together(each, texts)
    states = [saved.save(ctx, s) for s in range(8)]
    sizes = [len(saved.save(stock, s)) for s in range(8)]
    if n > 200:
        assert sum(map(len, states)) < 0.8 * sum(sizes)  # of 255 tokens 132 and more are f16
    for s, state in enumerate(states):
        assert saved.restore(fresh, state, s), s
    assert fresh.held == [n] * 8
    cost = []
    for s in range(8):
        f16, want, got = (x.feed(words(1, s), sequence=s) for x in (stock, ctx, fresh))
        assert n > 200 or divergence(want, got) < 1e-3, s  # all is f16
        cost.append([divergence(f16, want), divergence(f16, got)])
    original, restored = np.mean(cost, axis=0)
    assert restored < 2 * original + 0.01  # tokens that shared tiles are coded twice


def test_saving_and_restoring_while_others_live(context: Any) -> None:
    ctx = context(sequences=4, n_ctx=2048)
    for s in range(4):
        ctx.feed(words(200, s), logits="last", sequence=s)
    for s in range(4):
        state = saved.save(ctx, s)
        saved.remove(ctx, s)
        ctx.feed(words(70, 9), logits="last", sequence=s)
        others = [saved.save(ctx, o) for o in range(4) if o != s]
        assert saved.restore(ctx, state, s)
        assert ctx.held == [200] * 4
        assert others == [saved.save(ctx, o) for o in range(4) if o != s]


def test_sparse_tiles_are_merged_where_there_is_no_room(context: Any) -> None:
    ctx, stock = context(n_ctx=1024), context("f16", n_ctx=1024)
    for each in (ctx, stock):
        each.feed(words(900), logits="last")
        for start in range(0, 896, 32):
            saved.remove(each, 0, start + 10, start + 32)
    state = saved.save(ctx)
    small = context(n_ctx=512)
    assert saved.restore(small, state)
    assert saved.tokens(small) == 10 * 28 + 4
    ctx.held[0] = small.held[0] = stock.held[0] = 900
    want, got, f16 = ctx.feed(words(30, 1)), small.feed(words(30, 1)), stock.feed(words(30, 1))
    assert divergence(f16, got) < 1.5 * divergence(f16, want) + 0.01
    tiny_context = context(n_ctx=256)
    assert not saved.restore(tiny_context, state)
    assert tiny_context.held == [0]


def test_pages_are_made_for_a_restored_sequence(context: Any) -> None:
    """Windows of many short sequences in a context with pages for few."""
    ctx = context(sequences=2, n_ctx=4096, max_ubatch=32)
    state = []
    for s in range(2):
        source = context(max_ubatch=32)
        source.feed(words(150, s), logits="last")
        state.append(saved.save(source))
    for turn in range(3):
        for s in range(2):
            assert saved.restore(ctx, state[s], s), (turn, s)
            ctx.feed(words(40, turn), logits="last", sequence=s)
    assert ctx.held == [190, 190]
