"""``xquant_gguf.Llama`` on SmolLM2-135M: figures, limits, state, and that failures stay quiet."""

from __future__ import annotations

import pickle
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from xquant_gguf import memory
from xquant_gguf.config import PRESETS, XQuantConfig
from xquant_gguf.errors import ContextFullError, SessionFileError, XQuantError

pytestmark = pytest.mark.model

Run = Callable[..., "subprocess.CompletedProcess[str]"]
KINDS = ["f16", "q8_0", "balanced", "xquant"]
LONG = "The lighthouse keeper counted the ships of the harbour every evening. " * 30


@pytest.fixture(scope="module")
def load(smollm2: Path) -> Iterator[Callable[..., Any]]:
    """Load SmolLM2 with ``kv=`` and other keywords; skips packed caches on a stock library."""
    from xquant_gguf import Llama, _native

    opened: list[Any] = []

    def one(kv: Any = "balanced", **kwargs: Any) -> Any:
        if not _native.load().packed and (isinstance(kv, XQuantConfig) or kv in KINDS[2:]):
            pytest.skip("XQUANT_GGUF_LIB names a stock llama.cpp: no packed cache to test")
        settings = {"n_ctx": 1024, "n_threads": 2, "n_threads_batch": 2, "verbose": False}
        opened.append(Llama(smollm2, kv=kv, **{**settings, **kwargs}))
        return opened[-1]

    yield one
    for llm in opened:
        llm.close()


def greedy(llm: Any, prompt: str, count: int = 24) -> str:
    done = llm.create_completion(prompt, max_tokens=count, temperature=0.0)
    return str(done["choices"][0]["text"])


@pytest.mark.parametrize("kv", KINDS)
def test_chat_and_figures(load: Callable[..., Any], kv: str) -> None:
    llm = load(kv)
    ask = [{"role": "user", "content": "Name the capital city of Italy."}]
    done = llm.create_chat_completion(ask, max_tokens=24, temperature=0.0)
    assert "Rome" in done["choices"][0]["message"]["content"]
    values = llm.kv_cache.as_dict()
    assert values["tokens"] == llm.n_tokens > 20
    assert (values["n_ctx"], len(values["layers"])) == (1024, 30)
    assert values["bytes_f16"] == memory.f16_bytes(llm.model_info, 1024)
    parts = ("codes", "scales", "residual", "unpacked")
    assert values["bytes_total"] == sum(values[f"bytes_{part}"] for part in parts)
    assert values["code_bits"] <= values["true_bits"] <= values["allocated_bits"] + 1e-6
    assert f"of {values['n_ctx']} tokens" in repr(llm.kv_cache)


@pytest.mark.parametrize(
    "kv, code, true, share",
    [("kivi2", 2, 3.1, 0.29), ("asymkv1.5", 1.5, 2.6, 0.26), ("xquant", 1 + 11 / 30, 2.5, 0.25),
     ("balanced", 2, 2.6, 0.25)],
)  # fmt: skip
def test_presets_cost_what_they_promise(
    load: Callable[..., Any], kv: str, code: float, true: float, share: float
) -> None:
    cache = load(PRESETS[kv], n_ctx=8192).kv_cache.snapshot()
    assert cache.code_bits == pytest.approx(code, rel=1e-4)
    assert cache.true_bits <= true
    assert cache.bytes_total <= share * cache.bytes_f16
    config = PRESETS[kv]
    assert isinstance(config, XQuantConfig)
    estimate = memory.packed_bytes(load("f16", n_ctx=256).model_info, config, 8192)
    assert estimate == pytest.approx(cache.bytes_total, rel=0.05)


def test_flags_reach_the_cache_and_do_not_leak(load: Callable[..., Any]) -> None:
    config = XQuantConfig(
        k_bits=3, k_alloc="uniform", k_share_from=0.5, v_1bit_from=28, v_fit="minmax"
    )
    layers = load(config).kv_cache.layers
    assert [layer["k_bits"] for layer in layers] == [3] * 30
    assert [layer["v_bits"] for layer in layers] == [2] * 28 + [1] * 2
    leaders = [layer["k_leader"] for layer in layers]
    assert leaders == [i - 1 if i >= 14 and i % 2 else -1 for i in range(30)]
    assert {layer["k_bits"] for layer in load("balanced").kv_cache.layers} == {2}


def test_settings_are_those_of_the_thread_that_creates(load: Callable[..., Any]) -> None:
    load("balanced", n_ctx=256)  # skips here, in the main thread, if it has to
    seen: dict[int, set[int]] = {}

    def create(bits: int) -> None:
        cache = load(XQuantConfig(k_bits=bits), n_ctx=256).kv_cache
        seen[bits] = {layer["k_bits"] for layer in cache.layers}

    threads = [threading.Thread(target=create, args=(bits,)) for bits in (1, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {1: {1}, 3: {3}, 4: {4}}


@pytest.mark.parametrize("kv", KINDS)
def test_a_full_context_is_refused_and_the_model_goes_on(load: Callable[..., Any], kv: str) -> None:
    llm = load(kv, n_ctx=256)
    before = greedy(llm, "Once upon a time", 8)
    with pytest.raises(ContextFullError, match=r"context of 256 tokens; got \d{3} tokens"):
        greedy(llm, LONG)
    with pytest.raises(ContextFullError):
        llm.eval([1] * 300)
    done = llm.create_completion("Once upon a time", max_tokens=None, temperature=0.0)
    assert done["choices"][0]["finish_reason"] == "length"
    assert llm.n_tokens == 255
    with pytest.raises(ValueError):
        llm.eval([1, 1])
    assert greedy(llm, "Once upon a time", 8) == before


def test_a_context_that_is_no_round_number_can_be_filled(load: Callable[..., Any]) -> None:
    llm = load("f16", n_ctx=100)
    done = llm.create_completion("Once upon a time", max_tokens=None, temperature=0.0)
    assert done["usage"]["total_tokens"] == llm.n_ctx() == 256


@pytest.mark.parametrize("kv", KINDS)
def test_a_saved_state_goes_on_as_before(load: Callable[..., Any], kv: str) -> None:
    llm = load(kv)
    llm.eval(llm.tokenize(LONG.encode())[:300])
    state = llm.save_state()
    first = [llm.sample(temp=0.0)]
    llm.eval(first)
    first.append(llm.sample(temp=0.0))
    other = load(kv)
    other.load_state(state)
    assert other.kv_cache.tokens == other.n_tokens == 300
    other.eval(first[:1])
    assert other.sample(temp=0.0) == first[1]


@pytest.mark.parametrize("kv", ["f16", "balanced"])
def test_a_damaged_state_is_refused(load: Callable[..., Any], kv: str) -> None:
    llm = load(kv)
    greedy(llm, "Hello", 2)
    state = llm.save_state()
    state.llama_state = state.llama_state[: len(state.llama_state) // 2]
    state.llama_state_size = len(state.llama_state)
    with pytest.raises(SessionFileError, match="same model"):
        llm.load_state(state)
    assert llm.n_tokens == 0
    assert greedy(llm, "Hello", 2)


def test_a_state_of_other_settings_is_refused(
    load: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    llm, other = load("balanced"), load(XQuantConfig(k_bits=3))
    llm.eval(llm.tokenize(LONG.encode())[:256])
    with pytest.raises(SessionFileError, match="other KV settings"):
        other.load_state(llm.save_state())
    assert other.kv_cache.tokens == 0
    assert capfd.readouterr() == ("", "")


def test_a_cache_without_room_says_so(
    load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where llama.cpp finds no cells it is a typed error, and the tokens before it are kept."""
    import llama_cpp

    llm = load("f16")
    tokens = llm.tokenize(b"One two three four five six")
    llm.eval(tokens[:4])

    def full(self: Any, batch: Any) -> None:
        raise RuntimeError("llama_decode returned 1")

    with monkeypatch.context() as patch:
        patch.setattr(llama_cpp.Llama, "eval", full)
        with pytest.raises(ContextFullError):
            llm.eval(tokens[4:])
    assert llm.n_tokens == 4
    llm.eval(tokens[4:])
    assert llm.n_tokens == len(tokens)


def test_progress_is_reported_and_may_stop_the_load(load: Callable[..., Any]) -> None:
    seen: list[float] = []
    load("f16", n_ctx=256, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0

    def stop(fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load("f16", n_ctx=256, progress=stop)


def test_pickle_keeps_the_cache(load: Callable[..., Any]) -> None:
    for kv in ("q8_0", "balanced"):
        llm = load(kv, n_ctx=256)
        again = pickle.loads(pickle.dumps(llm))
        assert again.kv_config == llm.kv_config
        assert again.kv_cache.bytes_total == llm.kv_cache.bytes_total
        again.close()


def test_a_closed_model_says_so(load: Callable[..., Any]) -> None:
    llm = load("f16", n_ctx=256)
    view = llm.kv_cache
    llm.close()
    llm.close()
    with pytest.raises(XQuantError, match="closed"):
        view.as_dict()


# the program


def test_one_prompt_gives_plain_text_and_nothing_else(run_chat: Run, smollm2: Path) -> None:
    args = ("--kv", "f16", "--ctx", 256, "--temperature", 0, "--threads", 2)
    done = run_chat(smollm2, *args, "--prompt", "Name the capital city of Italy.")
    assert done.returncode == 0, done.stderr
    assert "Rome" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr == ""
    piped = run_chat(smollm2, *args, stdin="Name the capital city of Italy.\n")
    assert piped.stdout == done.stdout


def test_the_packed_cache_answers_on_the_command_line(
    run_chat: Run, smollm2: Path, packed_library: None
) -> None:
    done = run_chat(
        smollm2, "--temperature", 0, "--threads", 2, "--prompt", "Name the capital city of Italy."
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Rome" in done.stdout


def test_a_prompt_too_long_and_a_reply_too_long(run_chat: Run, smollm2: Path) -> None:
    args = (smollm2, "--kv", "f16", "--ctx", 256, "--temperature", 0, "--threads", 2)
    refused = run_chat(*args, stdin=LONG)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert re.fullmatch(r"error: this message does not fit: [^\n]+\n", refused.stderr)
    cut = run_chat(*args, "--max-tokens", 5, "--prompt", "Tell me a story.")
    assert cut.returncode == 0
    assert "cut after 5 tokens" in cut.stderr
