"""States of random histories: what is restored is what was visible, and nothing else moves."""

from __future__ import annotations

import random
from typing import Any

import pytest
import saved
from test_state_real import context, copy, loaded, together, words

__all__ = ["context", "loaded"]  # fixtures

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("packed_library")]

N_SEQ = 4
SETTINGS = {
    "balanced": {},
    "lossless": {"window": 32, "sink": 0, "max_ubatch": 32},
    "xquant": {"window": 64, "max_ubatch": 64},
    "tiny": {"window": 32, "sink": 40, "max_ubatch": 32},
}


def step(ctx: Any, rng: random.Random) -> None:
    """One thing that a user does to sequences; a full context is left as it is."""
    from xquant_gguf.errors import ContextFullError

    s, kind = rng.randrange(N_SEQ), rng.randrange(8)
    held = ctx.held[s]
    try:
        if kind < 3:
            ctx.feed(words(rng.choice([1, 7, 31, 33, 90]), rng.random()), logits="last", sequence=s)
        elif kind == 3:
            ctx.feed(words(rng.randrange(1, 20), rng.random()), logits="last", sequence=s)
        elif kind == 4 and held:
            saved.remove(ctx, s, rng.randrange(held))
        elif kind == 5 and held > 4:
            start = rng.randrange(held - 2)
            saved.remove(ctx, s, start, min(held - 1, start + rng.randrange(1, 70)))
        elif kind == 6 and held:
            to = rng.randrange(N_SEQ)
            if to != s:
                saved.remove(ctx, to)
                copy(ctx, s, to, rng.randrange(1, held + 1))
                saved.remove(ctx, to, held)
        elif kind == 7:
            for _ in range(rng.randrange(1, 24)):
                at = list(ctx.held)
                together(ctx, [words(1, rng.random()) for _ in at])
    except (ContextFullError, AssertionError):
        for q in range(N_SEQ):
            saved.remove(ctx, q, ctx.held[q])  # says what is held


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kv", SETTINGS)
def test_random_histories(context: Any, kv: str, seed: int) -> None:
    rng = random.Random(f"{kv} {seed}")
    flags = SETTINGS[kv]
    ctx = context(kv, sequences=N_SEQ, n_ctx=1024, **flags)
    for _ in range(4):
        for _ in range(rng.randrange(4, 12)):
            step(ctx, rng)
        visible = []
        for s in range(N_SEQ):
            state = saved.save(ctx, s)
            assert state == saved.save(ctx, s)  # saving changes nothing
            tiles = saved.tiles(state)
            visible.append(sorted(p for t in tiles for p in t.positions))
            fresh = context(kv, n_ctx=1024, **flags)
            assert saved.restore(fresh, state)
            assert fresh.held[0] == ctx.held[s] and saved.tokens(fresh) == len(visible[s])
            again = sorted(p for t in saved.tiles(saved.save(fresh)) for p in t.positions)
            assert again == visible[s]
            fresh.close()
        whole = saved.save(ctx, -1)
        s = rng.randrange(N_SEQ)
        mine, others = saved.save(ctx, s), [saved.save(ctx, o) for o in range(N_SEQ) if o != s]
        if rng.random() < 0.5:
            saved.remove(ctx, s)
        if not saved.restore(ctx, mine, s):
            assert "empty tiles" in str(ctx.model.native.last_error())
            assert ctx.held[s] == 0
            assert saved.restore(ctx, whole, -1)
        places = [[t.positions for t in saved.tiles(o)] for o in others]
        now = [saved.save(ctx, o) for o in range(N_SEQ) if o != s]
        assert sorted(map(sorted, places)) == sorted(
            sorted(t.positions for t in saved.tiles(o)) for o in now
        )
        target = context(kv, sequences=N_SEQ, n_ctx=1024, **flags)
        assert saved.restore(target, whole, -1)
        again, want = saved.save(target, -1), saved.forms(whole)
        got = saved.forms(again)
        assert {k: cells for k, (cells, _) in got.items()} == {k: c for k, (c, _) in want.items()}
        # A tile sealed early, whose page is read while it is there, may be read as codes then.
        assert all(got[k][1] or not sealed for k, (_, sealed) in want.items())
        assert again == whole or got != want
        target.close()
