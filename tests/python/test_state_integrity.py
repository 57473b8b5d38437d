"""Damaged and foreign states: refused, with the reason, and the cache is empty and usable."""

from __future__ import annotations

import random
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import saved
import tiny

from xquant_gguf.config import resolve_kv
from xquant_gguf.eval.contexts import Context, Model

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("packed_library")]

SMALL = {
    "block_count": 1,
    "embedding_length": 64,
    "feed_forward_length": 64,
    "attention__head_count": 1,
    "attention__head_count_kv": 1,
    "attention__key_length": 32,
    "attention__value_length": 32,
    "rope__dimension_count": 32,
}
WORDS = random.Random(0).choices(range(tiny.VOCABULARY), k=100)
Open = Callable[..., Context]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("model"), "small", **SMALL)


@pytest.fixture
def context(path: Path) -> Iterator[Open]:
    opened: list[Any] = []

    def one(file: Path = path, **kwargs: Any) -> Context:
        kv = resolve_kv("balanced", window=32, sink=0, max_ubatch=32)
        model = Model(str(file))
        ctx = Context(model, kv, **{"n_ctx": 256, "threads": 1, **kwargs})
        opened.extend((model, ctx))
        return ctx

    yield one
    for each in reversed(opened):
        each.close()


def filled(context: Open, **kwargs: Any) -> Context:
    """A tile of codes, one of rows and one that is partly filled."""
    ctx = context(**kwargs)
    ctx.feed(WORDS[:70], logits="last")
    assert [t.sealed for t in saved.tiles(saved.save(ctx))] == [True, False, False]
    return ctx


def reason(ctx: Context) -> str:
    return str(ctx.model.native.last_error())


def empty_and_usable(ctx: Context, want: Any) -> None:
    """Bit for bit what a fresh cache gives."""
    assert ctx.held == [0] * len(ctx.held) and saved.tokens(ctx) == 0
    assert np.array_equal(ctx.feed(WORDS[:40]), want)


@pytest.mark.parametrize("whole", [False, True])
def test_every_truncation_is_refused(context: Open, whole: bool) -> None:
    sequence = -1 if whole else 0
    ctx = filled(context)
    state = saved.save(ctx, sequence)
    want = context().feed(WORDS[:40])
    start = len("llama") + 4 if whole else saved.OUTER
    for n in range(len(state)):
        assert not saved.restore(ctx, state[:n], sequence), n
        if n >= start:  # llama.cpp looks at the bytes before it asks the cache
            assert ctx.held == [0], n
    empty_and_usable(ctx, want)
    assert saved.restore(ctx, state, sequence)
    assert ctx.held == [70]


@pytest.mark.parametrize("whole", [False, True])
def test_every_flip_is_refused(context: Open, whole: bool) -> None:
    """10,000 flips of one bit. The sequence number in llama.cpp's header is nobody's to check."""
    sequence = -1 if whole else 0
    ctx = filled(context)
    state = saved.save(ctx, sequence)
    want = context().feed(WORDS[:40])
    rng = random.Random(1)
    start = len("llama") + 4 if whole else saved.OUTER
    bits = rng.sample(range(8 * start, 8 * len(state)), k=5000)
    for i, bit in enumerate(bits):
        damaged = bytearray(state)
        damaged[bit // 8] ^= 1 << bit % 8
        assert not saved.restore(ctx, bytes(damaged), sequence), bit
        assert ctx.held == [0], bit
        assert reason(ctx).startswith("xquant: cannot restore the session: "), bit
        if i % 500 == 0:
            empty_and_usable(ctx, want)
    assert saved.restore(ctx, state, sequence)
    assert ctx.held == [70]


def test_llama_cpps_own_header(context: Open) -> None:
    """A flip in it is refused, or changes nothing: the number of the sequence is not used."""
    ctx = filled(context)
    state, more = saved.save(ctx), WORDS[70:80]
    want = ctx.feed(more)
    for bit in range(8 * saved.OUTER):
        damaged = bytearray(state)
        damaged[bit // 8] ^= 1 << bit % 8
        taken = saved.restore(ctx, bytes(damaged))
        assert taken == (bit >= 32)
        if taken:
            assert np.array_equal(ctx.feed(more), want)


def test_the_length_in_the_header_of_a_whole_state_is_bounded(context: Open) -> None:
    """It is allocated by llama.cpp before what follows is read: 4 GB for the one in this test."""
    resource = pytest.importorskip("resource")

    ctx = filled(context)
    state = saved.save(ctx, -1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not saved.restore(ctx, b"\xf0\xff\xff\xff" + state[4:], -1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 64 * 1024
    assert saved.restore(ctx, state, -1)


def test_what_llama_cpp_refuses_leaves_the_cache_as_it_was(context: Open) -> None:
    """The name of another architecture: our part of the state is never reached."""
    ctx, other = filled(context), filled(context)
    state = bytearray(saved.save(ctx, -1))
    state[4] ^= 1
    assert not saved.restore(ctx, bytes(state), -1)
    more = WORDS[70:80]
    assert np.array_equal(ctx.feed(more), other.feed(more))


def test_parts_that_are_moved_left_out_or_doubled_are_refused(context: Open) -> None:
    state = saved.save(filled(context))
    at = [(start - 4, start + n + 4) for start, n in saved.sections(state)]
    head, a, b, c = state[: at[1][0]], *(state[x:y] for x, y in at[1:])
    ctx = context()
    for parts in (b + a + c, a + c, a + b, a + a + b + c, a + b + b, a + c + b, b"", a):
        assert not saved.restore(ctx, head + parts)
    assert saved.restore(ctx, head + a + b + c)


def test_lengths_and_counts_are_bounded_before_anything_is_allocated(context: Open) -> None:
    """Also with a checksum that fits, as whoever writes a state by hand can make it."""
    ctx = filled(context)
    state = saved.save(ctx)
    (head, _), (first, _), *_ = saved.sections(state)
    for at in (head - 4, first - 4):
        damaged = bytearray(state)
        struct.pack_into("<I", damaged, at, 0xFFFFFFF0)
        refused(ctx, bytes(damaged), "a length of 4294967280 bytes")
    for offset in (0, 12, 16):  # kind, tiles, tokens
        refused(ctx, resealed(state, head + offset, 0x7FFFFFFF), "it h")
    refused(ctx, resealed(state, first, 3), "a tile of no stream")
    refused(ctx, resealed(state, first + 8, 0), "a tile without cells")
    refused(ctx, resealed(state, first + 8, 0x7FFFFFFF), "a section is too long")
    refused(ctx, resealed(state, first + 12, 7), "it is damaged")
    for position in (0x80000000, 0x7FFFFFFF):
        refused(ctx, resealed(state, first + 16, position), "below 0 or of 2^30")


def refused(ctx: Context, state: bytes, why: str) -> None:
    start = time.monotonic()
    assert not saved.restore(ctx, state)
    assert time.monotonic() - start < 1
    assert why in reason(ctx)
    assert ctx.held == [0]


def resealed(state: bytes, at: int, value: int) -> bytes:
    """A word replaced, and every checksum made again."""
    changed = bytearray(state)
    struct.pack_into("<I", changed, at, value)
    crc = zlib.crc32(changed[saved.OUTER : saved.OUTER + 8])
    for start, n in saved.sections(state):
        crc = zlib.crc32(changed[start - 4 : start + n], crc)
        struct.pack_into("<I", changed, start + n, crc)
    return bytes(changed)


def test_a_state_belongs_to_the_weights(context: Open, path: Path) -> None:
    """Another model of the same shapes, and one that differs in a single matrix."""
    state = saved.save(filled(context))
    twin = context(tiny.write(path.parent, "twin", **SMALL))
    assert saved.restore(twin, state)
    other = context(tiny.write(path.parent, "other", seed=2, **SMALL))
    assert not saved.restore(other, state)
    assert "another model: the same shapes and other weights" in reason(other)
    merged = path.with_name("merged.gguf")
    data = bytearray(path.read_bytes())
    where = matrix(path, "blk.0.ffn_down.weight")
    data[where] = bytes(reversed(data[where]))
    merged.write_bytes(data)
    assert not saved.restore(context(merged), state)


def matrix(path: Path, name: str) -> slice:
    from gguf import GGUFReader

    found = next(t for t in GGUFReader(path).tensors if t.name == name)
    return slice(int(found.data_offset), int(found.data_offset) + int(found.n_bytes))


def test_states_of_other_kinds_are_refused_with_the_reason(context: Open, path: Path) -> None:
    ctx = filled(context, sequences=2)
    api = ctx.model.api
    one, whole = saved.save(ctx), saved.save(ctx, -1)
    header = whole[: len("llama") + 4]
    for state, sequence, why in (
        (one[: saved.OUTER] + whole[len(header) :], 0, "it holds a whole context"),
        (header + one[saved.OUTER :], -1, "it holds one sequence"),
        (one.replace(b"XQST", b"XQS1", 1), 0, "older release"),
        (one.replace(b"XQST\3", b"XQST\2", 1), 0, "version 2 and this release reads 3"),
    ):
        assert not saved.restore(ctx, state, sequence)
        assert why in reason(ctx)
    stock = Context(Model(str(path)), resolve_kv("f16"), n_ctx=256, threads=1)
    stock.feed(WORDS[:10], logits="last")
    assert not saved.restore(ctx, saved.save(stock))
    assert "no session of a packed cache" in reason(ctx)
    assert api.llama_memory_seq_pos_max(api.llama_get_memory(ctx.handle), 0) == -1


def test_session_files(context: Open, tmp_path: Path) -> None:
    """llama.cpp's own files around the state of a sequence: llama-server's slots."""
    import ctypes

    ctx = filled(context, sequences=2)
    api, count = ctx.model.api, ctypes.c_size_t()
    tokens, room = (ctypes.c_int32 * 70)(*WORDS[:70]), (ctypes.c_int32 * 256)()
    file = tmp_path / "session"
    want = ctx.feed(WORDS[70:75])
    saved.remove(ctx, 0, 70)
    name = str(file).encode()
    assert api.llama_state_seq_save_file(ctx.handle, name, 0, tokens, 70)
    data = file.read_bytes()
    for damaged in (data[:-1], data[: len(data) // 2], data[:-9] + b"x" + data[-8:]):
        file.write_bytes(damaged)
        load = api.llama_state_seq_load_file
        assert load(ctx.handle, name, 1, room, 256, ctypes.byref(count)) == 0
        assert api.llama_memory_seq_pos_max(api.llama_get_memory(ctx.handle), 1) == -1
    file.write_bytes(data)
    assert api.llama_state_seq_load_file(ctx.handle, name, 1, room, 256, ctypes.byref(count))
    assert list(room[: count.value]) == WORDS[:70]
    ctx.held[1] = 70
    assert np.allclose(ctx.feed(WORDS[70:75], sequence=1), want, atol=0.05)
    assert ctx.held == [70, 75]
