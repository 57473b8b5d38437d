"""An edited prompt goes on from the nearest checkpoint where a cache cannot roll back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import logits, nmse, tokens

from xquant_gguf import Llama

pytestmark = pytest.mark.usefixtures("packed_library")

ARCHS = ["qwen35", "lfm2", "gpt-oss"]
KINDS = [{"kv": "balanced"}, {"kv": "f16", "swa_full": False}]
TURN = 60
TURNS = 20


@pytest.fixture
def load(tiny: Callable[[str], Path], opened: Callable[..., Any]) -> Callable[..., Any]:
    """Open the tiny model of an architecture."""
    return lambda arch, **settings: opened(tiny(arch), **{"n_ctx": 4096, **settings})


def chat(llm: Llama, turns: int, say: Callable[[int], list[int]]) -> list[int]:
    """A conversation of prompts and short replies; returns all of it."""
    held: list[int] = []
    for turn in range(turns):
        held = reply(llm, held + say(turn))
    return held


def reply(llm: Llama, prompt: list[int], count: int = 8) -> list[int]:
    stream = llm.generate(prompt, temp=0.0)
    found = [next(stream) for _ in range(count)]
    stream.close()
    return prompt + found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["kv"])
@pytest.mark.parametrize("arch", ARCHS)
def test_an_edit_half_way_reads_what_is_behind_the_nearest_checkpoint(
    load: Callable[..., Llama], read: list[int], arch: str, kind: dict[str, Any]
) -> None:
    llm = load(arch, **kind)
    held = chat(llm, TURNS, lambda turn: tokens(TURN, turn))
    edited = held[: 10 * (TURN + 8)] + tokens(TURN, 99)
    before = max(at for at in llm.checkpoints if at <= 10 * (TURN + 8))
    assert before > 8 * (TURN + 8)  # one was taken at each turn
    read.clear()
    reply(llm, edited, 1)
    assert sum(read) <= len(edited) - before
    again = sum(read)
    assert again < 4 * TURN

    fresh = load(arch, **kind, checkpoint_bytes=0)
    reply(fresh, edited, 1)
    budget = 0.05 if kind["kv"] == "balanced" else 1e-4
    error = nmse(logits(llm), logits(fresh))
    print(f"{arch}, {kind}: {again} of {len(edited)} tokens were read, NMSE {error:.1g}")
    assert error < budget
    assert len(reply(llm, edited + [5])) == len(edited) + 9  # and it goes on from there


@pytest.mark.parametrize("arch", ARCHS)
def test_the_same_prompt_again_is_not_read_again(
    load: Callable[..., Llama], read: list[int], arch: str
) -> None:
    llm = load(arch)
    first = reply(llm, tokens(700), 20)
    read.clear()
    assert reply(llm, tokens(700), 20) == first
    assert sum(read) <= 21


def test_without_checkpoints_all_of_it_is_read(load: Callable[..., Llama], read: list[int]) -> None:
    llm = load("qwen35", checkpoint_bytes=0)
    held = chat(llm, 4, lambda turn: tokens(TURN, turn))
    read.clear()
    edited = held[:100] + tokens(50, 9)
    reply(llm, edited, 1)
    assert sum(read) == 150
    assert llm.checkpoints == ()


def test_the_bytes_are_bounded_and_the_rest_lie_apart(load: Callable[..., Llama]) -> None:
    llm = load("gpt-oss")
    llm.eval(tokens(20))
    llm.eval(tokens(2))
    size = llm._checkpoints.bytes // len(llm.checkpoints)
    few = load("qwen35")
    few.eval(tokens(600))
    size = max(size, few._checkpoints.bytes // len(few.checkpoints))
    bounded = load("qwen35", checkpoint_bytes=4 * size)
    chat(bounded, TURNS, lambda turn: tokens(TURN, turn))
    assert bounded._checkpoints.bytes <= 4 * size
    at = bounded.checkpoints
    assert 3 <= len(at) <= 4
    assert at[0] < TURNS * (TURN + 8) / 2 < at[-1]


@pytest.mark.parametrize("arch", ARCHS)
def test_what_came_of_other_tokens_is_forgotten(load: Callable[..., Llama], arch: str) -> None:
    llm, fresh = load(arch), load(arch)
    llm.eval(tokens(700))
    assert llm.checkpoints
    state = llm.save_state()
    llm.reset()
    llm.eval(tokens(30, 2))
    llm.eval(tokens(30, 3))
    assert all(at < 60 for at in llm.checkpoints)
    llm.load_state(state)
    assert llm.checkpoints == ()
    llm.eval([5])
    fresh.eval(tokens(700) + [5])
    assert nmse(logits(llm), logits(fresh)) < 1e-4


def test_models_that_roll_back_have_none(load: Callable[..., Llama]) -> None:
    llm = load("qwen2")
    chat(llm, 3, lambda turn: tokens(TURN, turn))
    assert llm.checkpoints == ()
