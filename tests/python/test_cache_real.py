"""The packed cache under real models: what it allocates, rewinds, and independence of batching."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import subprocess_env

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("packed_library")]

STORY = (
    "The keeper of the lighthouse wrote a letter every evening. He told of ships, of storms and of "
    "the dog that slept beside the lamp. On the third day of March a stranger came ashore. "
)

NAMES = ("Ada", "Boris", "Chloe", "Daniel", "Edith", "Farid", "Greta", "Hugo", "Ines", "Jonas")


def model(path: Path, **kwargs: Any) -> Any:
    from xquant_gguf import Llama

    kwargs = {"n_ctx": 1024, "n_threads": 2, "n_threads_batch": 2, "verbose": False, **kwargs}
    return Llama(str(path), **kwargs)


def greedy(llm: Any, tokens: list[int], n: int, *, reset: bool = True) -> list[int]:
    """The next ``n`` tokens; llama_cpp reuses the longest prefix it already holds."""
    out: list[int] = []
    for token in llm.generate(tokens, temp=0.0, repeat_penalty=1.0, reset=reset):
        out.append(token)
        if len(out) == n:
            return out
    return out


def divergence(p: Any, q: Any) -> float:
    """Mean KL(p || q) of two sets of logits, in nats.

    SmolLM2 amplifies a last-bit difference in one matrix product (ggml rounds activations
    to 8 bits) to about 0.003, with an f16 cache too; packing costs 0.02 and more.
    """
    from xquant_gguf.eval.divergence import log_softmax

    p, q = log_softmax(np.atleast_2d(p)), log_softmax(np.atleast_2d(q))
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def last_logits(llm: Any) -> Any:
    return np.array(llm._ctx.get_logits_ith(-1)[: llm.n_vocab()])


def forget(llm: Any) -> None:
    llm._ctx.kv_cache_clear()
    llm.reset()


# ---- bytes ----


@pytest.mark.parametrize(
    ("name", "n_ctx", "f16_bytes", "at_most"),
    [("smollm2", 8192, 188_743_680, 0.25), ("qwen", 32768, 402_653_184, 0.19)],
)
@pytest.mark.parametrize("kv", ["balanced", "xquant"])
def test_allocated_bytes_against_f16(
    request: pytest.FixtureRequest, name: str, n_ctx: int, f16_bytes: int, at_most: float, kv: str
) -> None:
    llm = model(request.getfixturevalue(name), n_ctx=n_ctx, kv=kv)
    figures = llm.kv_cache.as_dict()
    assert figures["bytes_f16"] == f16_bytes
    assert figures["bytes_total"] <= at_most * f16_bytes
    if kv == "xquant":
        assert figures["code_bits"] <= 1.4
    llm.close()


FILL = """
import json, sys
from xquant_gguf import Llama
def resident():
    with open("/proc/self/status") as status:
        return next(int(l.split()[1]) * 1024 for l in status if l.startswith("VmRSS"))
llm = Llama(sys.argv[1], n_ctx=4096, n_threads=2, n_threads_batch=2, verbose=False, kv=sys.argv[2])
tokens = llm.tokenize(b"One two three four five six seven eight nine ten. " * 600)[:4095]
llm.eval(tokens[:700])  # more than n_batch: weights, compute and logit buffers are in use
warm = resident()
llm.eval(tokens[700:])
figures = llm.kv_cache.as_dict()
assert figures["tokens"] == 4095
print(json.dumps([resident(), resident() - warm, figures["bytes_total"], figures["bytes_f16"]]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_process_is_smaller_by_what_the_cache_saves(smollm2: Path) -> None:
    """After a full context the process holds no hidden f16 copy of the cache."""
    resident, grown, total = {}, {}, {}
    for kv in ("f16", "balanced"):
        command = [sys.executable, "-c", FILL, str(smollm2), kv]
        run = subprocess.run(
            command, env=subprocess_env(), capture_output=True, text=True, timeout=600
        )
        assert run.returncode == 0, run.stderr
        resident[kv], grown[kv], total[kv], f16 = json.loads(run.stdout)
    assert total["f16"] == f16
    assert resident["f16"] - resident["balanced"] >= 0.9 * (f16 - total["balanced"])
    assert grown["balanced"] <= 32 * 1024 * 1024  # logits of a batch, not keys and values


@pytest.mark.slow
def test_qwen_answers_on_a_packed_cache(qwen: Path) -> None:
    """Qwen2.5's key biases break 4-bit groups over channels; groups over tokens absorb them."""
    llm = model(qwen, n_ctx=2048)
    lines = "\n".join(f"{name} has the number {100 + 7 * i}." for i, name in enumerate(NAMES))
    question = f"{lines}\n{STORY * 8}\nWhich number does {NAMES[3]} have? Answer with the number."
    reply = llm.create_chat_completion(
        [{"role": "user", "content": question}], temperature=0.0, max_tokens=20
    )
    assert llm.kv_cache.snapshot().tokens > 400
    assert "121" in reply["choices"][0]["message"]["content"]


@pytest.mark.slow
def test_sliding_window_models_pack_their_full_attention_layers(gemma: Path) -> None:
    """Gemma 3: head dim 256, every sixth layer attends to everything, the others keep f16."""
    llm = model(gemma, n_ctx=2048)
    cache = llm.kv_cache.snapshot()
    assert [layer["il"] for layer in cache.layers] == [5, 11, 17]
    assert cache.bytes_unpacked > 0
    tokens = llm.tokenize(STORY.encode() * 25)[:900]
    llm.eval(tokens)
    packed = last_logits(llm)
    llm.close()
    stock = model(gemma, n_ctx=2048, kv="f16")
    stock.eval(tokens)
    assert divergence(last_logits(stock), packed) < 0.1


# ---- rewinding ----


def test_prefix_reuse_equals_a_cleared_cache(smollm2: Path) -> None:
    """200 greedy tokens, then the same prompt again: the tiles of the reply are taken back."""
    llm = model(smollm2)
    prompt = llm.tokenize(STORY.encode() * 8)
    assert len(prompt) > 256  # some of the prompt itself is packed
    first = greedy(llm, prompt, 200)
    again = greedy(llm, prompt, 200)
    reused = last_logits(llm)
    forget(llm)
    llm.eval(
        prompt[:-1]
    )  # what the second run found: all but the token that is always evaluated again
    fresh = greedy(llm, prompt, 200)
    assert len(fresh) == 200
    assert again == fresh
    assert np.array_equal(reused, last_logits(llm))  # bit for bit
    assert first[:100] == fresh[:100]  # ggml multiplies a batch and a single token in other orders
    other = prompt[:-20] + llm.tokenize(b" The dog barked.", add_bos=False)
    branched = greedy(llm, other, 60)
    forget(llm)
    assert branched == greedy(llm, other, 60)


def test_generation_after_a_rewind_within_the_window(smollm2: Path) -> None:
    llm = model(smollm2)
    prompt = llm.tokenize(STORY.encode() * 8)
    llm.eval(prompt)
    fresh = last_logits(llm)
    for cut in (1, 31, 32, 33, 100, 128):
        assert llm._ctx.kv_cache_seq_rm(0, len(prompt) - cut, -1)
        llm.n_tokens = len(prompt) - cut
        llm.eval(prompt[-cut:])
        if cut == 1:
            assert divergence(fresh, last_logits(llm)) < 0.01
        else:
            assert np.array_equal(fresh, last_logits(llm)), cut
        after = greedy(llm, prompt, 20)
        forget(llm)
        assert after == greedy(llm, prompt, 20), cut
        forget(llm)
        llm.eval(prompt)


def test_a_rewind_by_320_tokens_is_exact(smollm2: Path) -> None:
    """As far as the default settings' pages reach; every piece is evaluated as in the first run."""
    llm = model(smollm2)
    tokens = llm.tokenize(STORY.encode() * 20)[:608]
    pieces = [tokens[i : i + 32] for i in range(0, len(tokens), 32)]
    for piece in pieces:
        llm.eval(piece)
    fresh = last_logits(llm)
    assert llm._ctx.kv_cache_seq_rm(0, len(tokens) - 320, -1)
    llm.n_tokens = len(tokens) - 320
    for piece in pieces[-10:]:
        llm.eval(piece)
    assert np.array_equal(fresh, last_logits(llm))


def test_a_deep_rewind_keeps_working(smollm2: Path) -> None:
    """Beyond the backup pages a tile stays packed, and its emptied cells are not written again."""
    llm = model(smollm2, max_ubatch=32)
    tokens = llm.tokenize(STORY.encode() * 20)[:700]
    llm.eval(tokens)
    assert llm._ctx.kv_cache_seq_rm(0, 333, -1)
    llm.n_tokens = 333
    llm.eval(tokens[333:500])
    assert llm.kv_cache.tokens == 500
    rewound = last_logits(llm)
    forget(llm)
    llm.eval(tokens[:500])
    assert divergence(last_logits(llm), rewound) < 0.1
    assert rewound.argmax() == last_logits(llm).argmax()


# ---- batching ----


def test_results_do_not_depend_on_how_the_prompt_is_cut(smollm2: Path) -> None:
    """A token sees packed what is older than its window, in prefill as in decoding."""
    prompt: list[int] = []
    seen = []
    for step in (1, 32, 256):
        llm = model(smollm2, logits_all=True)
        prompt = prompt or llm.tokenize(STORY.encode() * 10)[:420]
        for start in range(0, len(prompt), step):
            llm.eval(prompt[start : start + step])
        seen.append(llm.scores[: len(prompt)].copy())
        llm.close()
    for other in seen[1:]:
        assert divergence(seen[0], other) < 0.005
        assert (other.argmax(-1) == seen[0].argmax(-1)).mean() > 0.98
    assert np.array_equal(seen[1][:400], seen[2][:400])  # attention adds up in the same order


def test_two_sequences_do_not_see_each_other(smollm2: Path) -> None:
    """Two sequences whose tokens share tiles: each predicts what it predicts alone.

    Not bit for bit: a group of keys then spans tokens of both.
    """
    from xquant_gguf.config import resolve_kv
    from xquant_gguf.eval.contexts import Context, Model

    loaded = Model(str(smollm2))
    tokens = loaded.tokenize(STORY * 8)[:300]
    other = loaded.tokenize("Numbers: " + " ".join(map(str, range(300))))[:300]
    alone = []
    for text in (tokens, other):
        context = Context(loaded, resolve_kv("balanced"), n_ctx=512, threads=2)
        alone.append(context.feed(text, logits="last")[0])
        context.close()
    both = Context(loaded, resolve_kv("balanced"), n_ctx=1024, threads=2, sequences=2)
    last = {}
    for start in range(0, 300, 50):  # interleaved, so that tiles hold cells of both
        for sequence, text in enumerate((tokens, other)):
            last[sequence] = both.feed(text[start : start + 50], logits="last", sequence=sequence)
    for sequence in (0, 1):
        mine = last[sequence][0]
        assert divergence(alone[sequence], mine) < 0.1, sequence
        assert divergence(alone[1 - sequence], mine) > 1.0
        assert mine.argmax() == alone[sequence].argmax()
    both.close()
    loaded.close()


def test_streams_of_their_own(smollm2: Path) -> None:
    """Without a unified cache a sequence gets the bits it gets alone; a copy has its tiles."""
    from xquant_gguf.config import resolve_kv
    from xquant_gguf.eval.contexts import Context, Model

    loaded = Model(str(smollm2))
    texts = [
        loaded.tokenize(STORY * 8)[:330],
        loaded.tokenize("Numbers: " + " ".join(map(str, range(300))))[:330],
    ]
    kv = resolve_kv("balanced")
    alone = []
    for text in texts:
        context = Context(loaded, kv, n_ctx=512, threads=2)
        alone.append([context.feed(text[:-1], logits="last")[0], context.feed(text[-1:])[0]])
        context.close()
    both = Context(loaded, kv, n_ctx=1024, threads=2, sequences=2, unified=False)
    assert both.snapshot().n_ctx == 1024
    for sequence, text in enumerate(texts):
        got = both.feed(text[:-1], logits="last", sequence=sequence)[0]
        assert np.array_equal(got, alone[sequence][0]), sequence
    memory = loaded.api.llama_get_memory(both.handle)
    loaded.api.llama_memory_seq_rm(memory, 1, -1, -1)
    loaded.api.llama_memory_seq_cp(memory, 0, 1, -1, -1)
    both.held[1] = both.held[0]
    for sequence in (1, 0):
        got = both.feed(texts[0][-1:], sequence=sequence)[0]
        assert np.array_equal(got, alone[0][1]), sequence
    both.close()


@pytest.mark.parametrize("unified", [True, False])
def test_one_sequence_saved_and_restored_as_another(smollm2: Path, unified: bool) -> None:
    """llama_state_seq_*: the state is packed, and goes on as the original does.

    To the last bit where the copy's tiles lie as the original's in chunks of 256 cells, whose
    sums are made apart: 512 tokens are two whole chunks.
    """
    import ctypes

    from xquant_gguf.config import resolve_kv
    from xquant_gguf.eval.contexts import Context, Model

    loaded = Model(str(smollm2))
    api = loaded.api
    text = loaded.tokenize(STORY * 14)[:513]
    context = Context(
        loaded, resolve_kv("balanced"), n_ctx=2048, threads=2, sequences=2, unified=unified
    )
    context.feed(text[:512], logits="last")
    size = api.llama_state_seq_get_size(context.handle, 0)
    assert size < 0.6 * 512 * context.snapshot().bytes_f16 / 2048  # window and sinks are f16
    data = (ctypes.c_uint8 * size)()
    assert api.llama_state_seq_get_data(context.handle, data, size, 0) == size
    assert api.llama_state_seq_set_data(context.handle, data, size, 1) == size
    context.held[1] = 512
    want = context.feed(text[512:], sequence=0)[0]
    assert np.array_equal(context.feed(text[512:], sequence=1)[0], want)
    # A damaged state leaves the sequence empty and the others untouched.
    assert api.llama_state_seq_set_data(context.handle, data, size // 2, 1) == 0
    memory = api.llama_get_memory(context.handle)
    assert api.llama_memory_seq_pos_max(memory, 1) == -1
    assert api.llama_memory_seq_pos_max(memory, 0) == 512
    context.close()
    loaded.close()
