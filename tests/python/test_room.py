"""A packed cache takes what an f16 cache of as many cells takes, whatever holes its tiles have."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import tiny
from test_aborts import Context

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("packed_library")]


def both(path: Path, **kwargs: int) -> tuple[Context, Context]:
    kwargs = {"n_ctx": 1024, "sequences": 4, **kwargs}
    return Context(path, kv="f16", **kwargs), Context(path, kv="balanced", ubatch=64, **kwargs)


def least(path: Path) -> float:
    """Correlation of logits with f16's; random weights are not made for two bits."""
    return 0.95 if "tiny" not in path.name else 0.5


def tokens(rng: random.Random, n: int) -> list[int]:
    return [rng.randrange(100, 500) for _ in range(n)]


@pytest.fixture(scope="module", params=["tiny", "smollm2"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "tiny":
        return tiny.write(tmp_path_factory.mktemp("tiny"), "tiny")
    return Path(request.getfixturevalue("smollm2"))


def test_four_sequences_in_turns_one_removed(path: Path) -> None:
    """Every tile has holes; all 1024 cells are used in the end, and what is seen is right."""
    rng = random.Random(1)
    contexts = both(path)
    for _ in range(7):
        batch = tokens(rng, 128)
        for ctx in contexts:
            assert ctx.decode(batch, [0, 1, 2, 3]) == 0
    for ctx in contexts:
        ctx.remove(3, 0)
    for start in range(0, 352, 32):
        batch = tokens(rng, 32)
        f16, packed = (ctx.feed(batch, [start // 32 % 3]) for ctx in contexts)
        assert np.corrcoef(f16, packed)[0, 1] > least(path), start
    assert [ctx.decode(tokens(rng, 1), [0]) for ctx in contexts] == [1, 1]


def test_holes_in_one_sequence(path: Path) -> None:
    rng = random.Random(2)
    contexts = both(path, sequences=1)
    for _ in range(8):
        batch = tokens(rng, 128)
        for ctx in contexts:
            assert ctx.decode(batch, [0]) == 0
    for ctx in contexts:
        for start in range(40, 1000, 30):
            ctx.remove(0, start, start + 14)
    for _ in range(4):
        batch = tokens(rng, 100)
        f16, packed = (ctx.feed(batch, [0]) for ctx in contexts)
        assert np.corrcoef(f16, packed)[0, 1] > least(path)


@pytest.mark.parametrize("seed", range(6))
def test_random_histories(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    contexts = both(tiny.write(tmp_path, "tiny"), n_ctx=512)
    refused = 0
    for step in range(150):
        what, sequence = rng.randrange(10), rng.randrange(4)
        held = contexts[0].held
        if what == 0:
            start = rng.randrange(held[sequence] + 1)
            end = rng.choice((-1, start + 20, start + 70))
            for ctx in contexts:
                ctx.remove(sequence, start, end)
        elif what == 1 and rng.randrange(3) == 0:
            for ctx in contexts:
                ctx.remove(sequence, 0)
        elif what == 2:
            source = rng.randrange(4)
            for ctx in contexts if source != sequence else ():
                ctx.remove(sequence, 0)
                memory = ctx.api.llama_get_memory(ctx.handle)
                ctx.api.llama_memory_seq_cp(memory, source, sequence, -1, -1)
        else:
            who = rng.choice(([sequence], [0, 1, 2, 3]))
            batch = tokens(rng, rng.choice((1, 4, 32, 60, 100)))
            f16, packed = (ctx.decode(batch, who) for ctx in contexts)
            assert f16 == packed, step
            refused += f16
            if f16 == 0:
                rows = [
                    np.ctypeslib.as_array(
                        ctx.api.llama_get_logits_ith(ctx.handle, -1), (ctx.vocabulary,)
                    )
                    for ctx in contexts
                ]
                assert np.isfinite(rows[1]).all()
                assert np.corrcoef(*rows)[0, 1] > 0.8, step
        assert contexts[0].held == contexts[1].held
    assert refused > 0
