"""``Llama.save_state`` and ``load_state``: other context lengths, and damage anywhere in it."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from xquant_gguf.errors import SessionFileError

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("packed_library")]

WORDS = random.Random(0).choices(range(tiny.VOCABULARY), k=1100)
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def load(folder: Path) -> Iterator[Open]:
    from xquant_gguf import Llama

    opened: list[Any] = []

    def one(kv: str = "balanced", arch: str = "llama", **kwargs: Any) -> Any:
        path = folder / f"{arch}.gguf"
        if not path.exists():
            tiny.write(folder, arch, arch)
        kwargs = {"n_ctx": 512, "n_threads": 1, "verbose": False, **kwargs}
        opened.append(Llama(str(path), kv=kv, **kwargs))
        return opened[-1]

    yield one
    for llm in opened:
        llm.close()


def logits(llm: Any) -> Any:
    return np.array(llm._ctx.get_logits_ith(-1)[: llm.n_vocab()])


@pytest.mark.parametrize("logits_all", [False, True])
@pytest.mark.parametrize("kv", ["f16", "balanced"])
def test_a_state_goes_into_another_context_length(load: Open, kv: str, logits_all: bool) -> None:
    llm = load(kv, n_ctx=512, logits_all=logits_all)
    llm.eval(WORDS[:300])
    state = pickle.loads(pickle.dumps(llm.save_state()))
    llm.eval(WORDS[300:320])
    for n_ctx, n_batch in ((1024, 512), (1024, 64), (512, 128)):
        other = load(kv, n_ctx=n_ctx, n_batch=n_batch, logits_all=logits_all)
        other.eval(WORDS[500:530])
        other.load_state(state)
        assert other.n_tokens == other.kv_cache.tokens == 300
        assert other.input_ids[:300].tolist() == WORDS[:300]
        if logits_all:
            assert np.array_equal(other.scores[:300], state.scores)
        other.eval(WORDS[300:320])
        assert np.abs(logits(other) - logits(llm)).max() < 0.05
        other.eval(WORDS[320 : n_ctx - 5])  # token and score arrays have the room of the context
        assert other.n_tokens == n_ctx - 5
    small = load(kv, n_ctx=256)
    with pytest.raises(SessionFileError, match="300 tokens, and a context of 256"):
        small.load_state(state)
    assert small.n_tokens == small.kv_cache.tokens == 0
    small.eval(WORDS[:200])


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
@pytest.mark.parametrize("kv", ["f16", "balanced"])
def test_damage_anywhere_is_refused(load: Open, kv: str, arch: str) -> None:
    """Also where nothing but our checksum looks: f16 keys, window caches, token ids and scores."""
    llm = load(kv, arch, logits_all=True)
    llm.eval(WORDS[:60])
    fresh = logits(llm)
    state = llm.save_state()
    rng = random.Random(1)
    for i in range(400):
        damaged = copy.copy(state)
        if i % 4 == 0:
            damaged.llama_state = damaged.llama_state[: rng.randrange(len(damaged.llama_state))]
            damaged.llama_state_size = len(damaged.llama_state)
        elif i % 4 == 1:
            damaged.input_ids = flipped(damaged.input_ids, rng, 60)
        elif i % 4 == 2:
            damaged.scores = flipped(damaged.scores, rng, damaged.scores.size)
        else:
            data = bytearray(damaged.llama_state)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            damaged.llama_state = bytes(data)
        with pytest.raises(SessionFileError):
            llm.load_state(damaged)
        assert llm.n_tokens == 0
    assert llm.kv_cache.tokens == 0
    llm.eval(WORDS[:60])
    assert np.array_equal(logits(llm), fresh)
    llm.load_state(state)
    assert llm.n_tokens == 60


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_tokens", -1),
        ("n_tokens", 10**9),
        ("n_tokens", None),
        ("llama_state", b""),
        ("llama_state", None),
        ("llama_state_size", 2**40),
        ("scores", np.zeros((3, 7), np.float32)),
        ("input_ids", np.zeros(3, np.int32)),
    ],
)
def test_a_state_without_a_checksum_must_have_lengths_that_fit(
    load: Open, name: str, value: Any
) -> None:
    """As llama_cpp's own ``LlamaState`` is; the packed part has checksums all the same."""
    llm = load()
    llm.eval(WORDS[:60])
    state = llm.save_state()
    del state.checksum
    setattr(state, name, value)
    with pytest.raises(SessionFileError):
        llm.load_state(state)
    assert llm.n_tokens == llm.kv_cache.tokens == 0


def test_the_length_of_llama_cpps_header_is_bounded(load: Open) -> None:
    """It would be allocated: up to 4 GB, before the first byte behind it is read."""
    llm = load()
    llm.eval(WORDS[:60])
    state = llm.save_state()
    del state.checksum
    state.llama_state = b"\xff\xff\xff\xff" + state.llama_state[4:]
    with pytest.raises(SessionFileError, match="impossible length"):
        llm.load_state(state)


def flipped(array: Any, rng: random.Random, among: int) -> Any:
    """One bit of one of the first ``among`` elements changed."""
    changed = array.copy()
    bits = changed.reshape(-1).view(np.uint32)
    bits[rng.randrange(among)] ^= np.uint32(1 << rng.randrange(32))
    return changed
