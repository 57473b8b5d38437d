"""What our class inherits from llama_cpp and mends: log-probabilities, prompts, states, caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xquant_gguf.errors import PromptError

pytestmark = pytest.mark.model

PROMPT = "The capital of France is Paris"


@pytest.fixture(params=["f16", "balanced"])
def kv(request: pytest.FixtureRequest, packed_library: None) -> str:
    return str(request.param)


@pytest.fixture
def load(smollm2: Path, kv: str) -> Iterator[Callable[..., Any]]:
    from xquant_gguf import Llama

    opened: list[Any] = []

    def one(model: Path = smollm2, **kwargs: Any) -> Any:
        settings = {"n_ctx": 512, "n_threads": 2, "n_threads_batch": 2, **kwargs}
        opened.append(Llama(model, kv=kv, **settings))
        return opened[-1]

    yield one
    for llm in opened:
        llm.close()


def truth(llm: Any, tokens: list[int]) -> list[float]:
    """Each token's log-probability, from logits that a plain eval gives."""
    llm.reset()
    llm.eval(tokens)
    rows = llm.logits_to_logprobs(llm.scores[: len(tokens)])
    return [float(rows[i - 1][tokens[i]]) for i in range(1, len(tokens))]


@pytest.mark.parametrize("name", ["smollm2", "gemma"])
def test_echoed_log_probabilities_are_each_tokens_own(
    load: Callable[..., Any], name: str, request: pytest.FixtureRequest
) -> None:
    llm = load(request.getfixturevalue(name), logits_all=True)
    begins_with_bos = name == "gemma"
    tokens = llm.tokenize(PROMPT.encode(), add_bos=begins_with_bos)
    expected = truth(llm, tokens)
    done = llm.create_completion(PROMPT, max_tokens=1, temperature=0.0, echo=True, logprobs=3)
    choice = done["choices"][0]
    told = choice["logprobs"]
    assert choice["text"].startswith(PROMPT)
    assert "".join(told["tokens"]).startswith(PROMPT)
    skipped = 1 if begins_with_bos else 0
    assert told["token_logprobs"][0] is None and told["top_logprobs"][0] is None
    found = told["token_logprobs"][1 : len(tokens) - skipped]
    assert found == pytest.approx(expected[skipped:], abs=1e-3)
    for text, value, top, at in zip(*(told[k][1:] for k in (
        "tokens", "token_logprobs", "top_logprobs", "text_offset"))):  # fmt: skip
        assert top[text] == value <= max(top.values()) + 1e-9
        assert 3 <= len(top) <= 4
        assert choice["text"][at : at + len(text)] == text
    plain = llm.create_completion(PROMPT, max_tokens=1, temperature=0.0, logprobs=3)
    last = plain["choices"][0]["logprobs"]["token_logprobs"][0]
    assert told["token_logprobs"][-1] == pytest.approx(float(last), abs=1e-3)


def test_log_probabilities_need_all_logits_as_before(load: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="logits_all=False"):
        load().create_completion(PROMPT, max_tokens=1, echo=True, logprobs=1)


def test_an_empty_prompt_is_named(load: Callable[..., Any]) -> None:
    llm = load()
    for call in (
        lambda: llm.create_completion(""),
        lambda: llm(""),
        lambda: llm.create_completion([]),
        lambda: next(llm.generate([])),
        lambda: list(llm.create_completion("", stream=True)),
        lambda: llm.sample(),
    ):
        with pytest.raises(PromptError, match="token"):
            call()
    llm.eval(llm.tokenize(b"Once upon"))
    with pytest.raises(PromptError):
        next(llm.generate([]))
    llm.eval(llm.tokenize(b"Once upon"))
    assert isinstance(next(llm.generate([], reset=False)), int)


def test_an_empty_prompt_is_enough_for_a_model_with_a_bos(
    load: Callable[..., Any], gemma: Path
) -> None:
    assert load(gemma).create_completion("", max_tokens=2)["usage"]["prompt_tokens"] == 1


def test_half_a_character_is_named(load: Callable[..., Any]) -> None:
    llm = load()
    half = "an emoji, cut: \ud83d"
    for call in (
        lambda: llm(half),
        lambda: llm("a", stop=[half]),
        lambda: llm("a", suffix=half),
        lambda: llm.create_chat_completion([{"role": "user", "content": half}]),
        lambda: list(llm.create_completion(half, stream=True)),
    ):
        with pytest.raises(
            PromptError, match=r"must be Unicode; got '\\ud83d' at character [0-9]+"
        ):
            call()
    assert llm("a", max_tokens=1)


def test_states_hold_scores_only_where_there_are_any(load: Callable[..., Any]) -> None:
    llm = load()
    tokens = llm.tokenize(PROMPT.encode() * 20)
    llm.eval(tokens)
    state = llm.save_state()
    assert state.scores.shape == (0, llm.n_vocab())
    llm.eval([1])
    llm.load_state(state)
    assert llm.n_tokens == len(tokens)
    assert len(llm.scores) > 0
    every = load(logits_all=True)
    every.eval(tokens)
    kept = every.save_state()
    assert np.array_equal(kept.scores, every.scores[: len(tokens)])
    every.load_state(state)
    llm.load_state(kept)


def test_a_disk_cache_is_quiet_and_hits(
    load: Callable[..., Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import llama_cpp

    llm = load()
    llm.set_cache(llama_cpp.LlamaDiskCache(str(tmp_path), capacity_bytes=1 << 28))
    expected = llm(PROMPT, max_tokens=4, temperature=0.0)["choices"][0]["text"]
    llm.reset()
    loads = []
    stock = llm.load_state
    llm.load_state = lambda state: (loads.append(state.n_tokens), stock(state))
    assert llm(PROMPT, max_tokens=4, temperature=0.0)["choices"][0]["text"] == expected
    assert len(loads) == 1
    llm.cache.capacity_bytes = 0
    llm(PROMPT, max_tokens=4)
    assert len(llm.cache.cache) == 0
    assert capfd.readouterr() == ("", "")


def test_what_a_logits_processor_raises_is_raised(load: Callable[..., Any]) -> None:
    """llama_cpp prints it and goes on, so a constraint that fails constrains nothing."""
    from llama_cpp import LogitsProcessorList

    llm = load()

    def fails(ids: Any, scores: Any) -> Any:
        raise ArithmeticError("no mask")

    for stream in (False, True):
        with pytest.raises(ArithmeticError, match="no mask"):
            list(llm(PROMPT, logits_processor=LogitsProcessorList([fails]), stream=stream))
    with pytest.raises(ArithmeticError):
        llm.sample(logits_processor=LogitsProcessorList([fails]))
    assert llm(PROMPT, max_tokens=1)
