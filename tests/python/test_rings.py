"""Packed sliding windows: rings of tiles, and the full-size form."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import logits, nmse, tokens, write

SHAPES = {
    "500": ("gemma3", {"attention__sliding_window": 500}),
    "333": ("gemma3", {"attention__sliding_window": 333}),
}
SETTINGS = {"kv": "lossless", "window": 32, "swa": "packed", "n_ctx": 2048, "n_ubatch": 256}
ORDER = 1e-3  # sums in another order, and what a random model makes of that; a lost token makes 0.1


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("rings")

    def make(name: str) -> Path:
        path = folder / f"{name}.gguf"
        arch, settings = SHAPES[name]
        return path if path.exists() else write(folder, name, arch, **settings)

    return make


@pytest.fixture
def load(opened: Callable[..., Any]) -> Callable[..., Any]:
    """Open models with packed windows and small batches."""
    return lambda path, **settings: opened(path, **{**SETTINGS, **settings})


def read(llm: Any, long: list[int], piece: int) -> None:
    for at in range(0, len(long), piece):
        llm.eval(long[at : at + piece])


@pytest.mark.parametrize("name", SHAPES)
def test_a_ring_is_packed_and_reads_what_the_whole_cache_does(
    shape: Callable[[str], Path], load: Callable[..., Any], name: str
) -> None:
    ring, whole = load(shape(name)), load(shape(name), swa_full=True)
    plain = load(shape(name), swa="f16")
    cells = {layer["cells"] for layer in ring.kv_cache.layers}
    assert len(cells) == 2 and max(cells) == 2048
    assert ring.kv_cache.bytes["unpacked"] == whole.kv_cache.bytes["unpacked"] == 0
    assert ring.kv_cache.bytes_total < plain.kv_cache.bytes_total
    assert ring.kv_cache.bytes_total < whole.kv_cache.bytes_total
    for llm in (ring, whole):
        read(llm, tokens(1500), 1500)
        read(llm, tokens(40, 2), 1)
        assert llm.kv_cache.tokens == 1540
    assert nmse(logits(ring), logits(whole)) < ORDER


def test_pieces_make_no_difference(shape: Callable[[str], Path], load: Callable[..., Any]) -> None:
    results = []
    for piece in (1600, 128, 50):
        llm = load(shape("500"))
        read(llm, tokens(1600), piece)
        llm.eval([7])
        results.append(logits(llm))
    assert max(nmse(result, results[0]) for result in results) < ORDER


def test_windows_that_packing_does_not_make_smaller_stay(
    tiny: Callable[[str], Path], load: Callable[..., Any]
) -> None:
    packed, plain = load(tiny("gpt-oss")), load(tiny("gpt-oss"), swa="f16")
    assert packed.kv_cache.bytes == plain.kv_cache.bytes
    assert packed.kv_cache.bytes["unpacked"] > 0
    for llm in (packed, plain):
        llm.eval(tokens(700))
    assert np.array_equal(logits(packed), logits(plain))


@pytest.mark.parametrize("back, most", [(5, ORDER), (300, ORDER), (900, 0.05)])
def test_a_rewind_equals_a_fresh_run(
    shape: Callable[[str], Path], load: Callable[..., Any], back: int, most: float
) -> None:
    long, other = tokens(1600), tokens(20, 2)  # the ring's 768 cells twice, and 64
    llm, fresh = load(shape("333")), load(shape("333"))
    llm.eval(long)
    llm.n_tokens -= back
    llm.eval(other)
    fresh.eval(long[: 1600 - back] + other)
    assert nmse(logits(llm), logits(fresh)) < most
    for model in (llm, fresh):
        read(model, tokens(300, 3), 40)
    assert nmse(logits(llm), logits(fresh)) < most


def test_many_rewinds_into_packed_tokens_find_room(
    shape: Callable[[str], Path], load: Callable[..., Any]
) -> None:
    llm = load(shape("500"), sink=0, max_ubatch=32, checkpoint_bytes=0)
    llm.eval(tokens(1000))
    for step in range(24):  # each leaves a sealed tile with holes
        llm.n_tokens = 900 - 350 + 3 * step
        llm.eval(tokens(400, step))
    read(llm, tokens(600, 9), 200)
    fresh = load(shape("500"), sink=0, max_ubatch=32)
    fresh.eval([int(t) for t in llm.input_ids[: llm.n_tokens]])
    assert nmse(logits(llm), logits(fresh)) < 0.05  # some tokens were packed twice


def test_a_saved_state_holds_the_ring(
    shape: Callable[[str], Path], load: Callable[..., Any]
) -> None:
    llm, again = load(shape("333")), load(shape("333"))
    llm.eval(tokens(1300))
    state = pickle.loads(pickle.dumps(llm.save_state()))
    again.load_state(state)
    for model in (llm, again):
        read(model, tokens(700, 2), 60)
    assert nmse(logits(again), logits(llm)) < ORDER


def test_a_state_whose_ring_is_damaged_leaves_nothing(
    shape: Callable[[str], Path], load: Callable[..., Any]
) -> None:
    import llama_cpp

    llm, other = load(shape("333")), load(shape("333"))
    llm.eval(tokens(600))
    size = llama_cpp.llama_state_seq_get_size(llm._ctx.ctx, 0)
    data = (llama_cpp.ctypes.c_uint8 * size)()
    assert llama_cpp.llama_state_seq_get_data(llm._ctx.ctx, data, size, 0) == size
    data[size - 40] ^= 1  # in the part of the ring, which comes last
    assert llama_cpp.llama_state_seq_set_data(other._ctx.ctx, data, size, 0) == 0
    assert other.kv_cache.tokens == 0
    other.eval(tokens(600))
    assert np.array_equal(logits(other), logits(llm))


def test_an_estimate_is_what_is_allocated(
    shape: Callable[[str], Path], load: Callable[..., Any]
) -> None:
    from xquant_gguf.config import resolve_kv
    from xquant_gguf.estimate import Estimator

    kv = resolve_kv("lossless", swa="packed", window=32)
    for name, swa_full in (("500", None), ("333", None), ("333", True)):
        llm = load(shape(name), swa_full=swa_full)
        with Estimator(str(shape(name))) as model:
            assert model.use(kv, 2048, batch=256, swa_full=swa_full).kv == (
                llm.kv_cache.bytes_total
            )
