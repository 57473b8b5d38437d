"""Decodes that fail half way: the cache is as if they had never begun, to the last bit."""

from __future__ import annotations

import ctypes
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from conftest import ROOT
from cpp_compiler import compiler, llama_tree

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("packed_library")]

ABORTED = 2  # llama_decode's answer


@pytest.fixture(scope="module", params=["tiny", "smollm2"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "tiny":
        return tiny.write(tmp_path_factory.mktemp("tiny"), "tiny")
    return Path(request.getfixturevalue("smollm2"))


class Context:
    """A packed context of one thread that can be stopped before any node of its graphs."""

    def __init__(
        self, path: Path, *, kv: str = "balanced", ubatch: int = 256, **kwargs: Any
    ) -> None:
        from xquant_gguf.config import resolve_kv
        from xquant_gguf.eval import contexts

        kwargs = {"n_ctx": 2048, "threads": 1, **kwargs}
        cache = resolve_kv(kv, **({} if kv == "f16" else {"max_ubatch": ubatch}))
        self.inner = contexts.Context(contexts.Model(str(path)), cache, **kwargs)
        self.api, self.handle = self.inner.model.api, self.inner.handle
        self.vocabulary = self.inner.model.n_vocab
        self.nodes, self.after = 0, 1 << 30
        self.call = self.api.ggml_abort_callback(self._stop)
        self.api.llama_set_abort_callback(self.handle, self.call, None)

    def _stop(self, _: Any) -> bool:
        self.nodes += 1
        return self.nodes > self.after

    @property
    def held(self) -> list[int]:
        """Tokens of every sequence; positions have no holes here."""
        memory = self.api.llama_get_memory(self.handle)
        n_seq = len(self.inner.held)
        return [self.api.llama_memory_seq_pos_max(memory, s) + 1 for s in range(n_seq)]

    def decode(self, tokens: list[int], who: list[int], call: Any = None) -> int:
        """Tokens in turns behind their sequences, the last with logits; what llama_decode says."""
        batch, behind = self.inner.batch, self.held
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            sequence = who[i % len(who)]
            batch.token[i] = token
            batch.pos[i] = behind[sequence]
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = i == len(tokens) - 1
            behind[sequence] += 1
        self.nodes = 0
        return int((call or self.api.llama_decode)(self.handle, batch))

    def feed(self, tokens: list[int], who: list[int]) -> Any:
        assert self.decode(tokens, who) == 0
        row = self.api.llama_get_logits_ith(self.handle, -1)
        return np.ctypeslib.as_array(row, (self.vocabulary,)).copy()

    def abort(self, tokens: list[int], who: list[int], after: int) -> None:
        """Stopped before a node; no token of the micro-batch is left."""
        self.after, before = after, self.held
        assert self.decode(tokens, who) == ABORTED
        self.after = 1 << 30
        if len(tokens) <= 32:
            assert self.held == before

    def remove(self, sequence: int, start: int, end: int = -1) -> None:
        memory = self.api.llama_get_memory(self.handle)
        assert self.api.llama_memory_seq_rm(memory, sequence, start, end)


def same_with(
    path: Path, spoil: Callable[[Context, list[int], list[int], int], None], **kwargs: Any
) -> None:
    """Random batches and rewinds, twice: with failures before each batch, and without."""
    rng = random.Random(1)
    n_seq = kwargs.get("sequences", 1)
    plain, spoilt = Context(path, **kwargs), Context(path, **kwargs)
    turns = [[s] for s in range(n_seq)] + ([list(range(n_seq))] if n_seq > 1 else [])
    for step in range(25):
        if step % 6 == 5:
            sequence = rng.randrange(n_seq)
            left = max(1, plain.held[sequence] - rng.choice((1, 20, 60, 200)))
            for ctx in (plain, spoilt):
                ctx.remove(sequence, left)
        who = rng.choice(turns)
        n = rng.choice((1, 8, 32, 64, 96)) * len(who)
        batch = [rng.randrange(100, 500) for _ in range(min(n, 128 // len(who) * len(who)))]
        wanted = plain.feed(batch, who)
        spoil(spoilt, batch, who, plain.nodes)
        assert np.array_equal(wanted, spoilt.feed(batch, who)), step


def test_aborted_at_random_nodes(path: Path) -> None:
    """The same batch again after up to two aborts, as with a run that was never aborted."""
    rng = random.Random(2)

    def spoil(ctx: Context, batch: list[int], who: list[int], nodes: int) -> None:
        for _ in range(rng.randrange(3)):
            ctx.abort(batch, who, rng.randrange(nodes))

    same_with(path, spoil)


@pytest.mark.parametrize("unified", (True, False))
def test_several_sequences_aborted(path: Path, unified: bool) -> None:
    """Tiles shared by sequences, and streams of their own."""
    rng = random.Random(3)

    def spoil(ctx: Context, batch: list[int], who: list[int], nodes: int) -> None:
        ctx.abort(batch, who, rng.randrange(nodes))

    same_with(path, spoil, n_ctx=4096, sequences=3, unified=unified)


def test_another_batch_after_an_abort(path: Path) -> None:
    """What comes next need not be what was aborted."""
    rng = random.Random(4)

    def spoil(ctx: Context, batch: list[int], who: list[int], nodes: int) -> None:
        other = [rng.randrange(100, 500) for _ in range(rng.randrange(1, 128))]
        ctx.abort(other, who, rng.randrange(nodes - 40))  # fewer tokens have a few nodes fewer

    same_with(path, spoil)


def test_micro_batches_before_the_aborted_one_stay(path: Path) -> None:
    rng = random.Random(5)
    plain, spoilt = Context(path, ubatch=32), Context(path, ubatch=32)
    kept = set()
    for start in range(0, 1024, 128):
        batch = [rng.randrange(100, 500) for _ in range(128)]
        wanted = plain.feed(batch, [0])
        spoilt.abort(batch, [0], rng.randrange(plain.nodes))
        done = spoilt.held[0] - start
        assert done in (0, 32, 64, 96)
        kept.add(done)
        assert np.array_equal(wanted, spoilt.feed(batch[done:], [0])), start
    assert len(kept) > 1


class Watch(ctypes.Structure):
    _fields_ = (("at", ctypes.c_int), ("throws", ctypes.c_int))


@pytest.fixture
def callback(tmp_path: Path) -> Any:
    """tests/cpp/throwing.cpp, compiled against the library under test."""
    from xquant_gguf import _native

    lib = tmp_path / "throwing.so"
    folder, tree = _native.load().directory, llama_tree()
    command = [compiler(), "-std=c++17", "-O1", "-shared", "-fPIC"]
    command += [f"-I{tree / part}" for part in ("include", "ggml/include")]
    command += [str(ROOT / "tests" / "cpp" / "throwing.cpp"), "-o", str(lib)]
    subprocess.run([*command, f"-L{folder}", "-lllama", f"-Wl,-rpath,{folder}"], check=True)
    return ctypes.CDLL(str(lib))


@pytest.mark.parametrize("throws", (True, False))
def test_an_eval_callback_that_fails(
    path: Path, callback: Any, throws: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception leaves nothing behind. A graph that was stopped leaves its own tokens, as with
    f16, and older ones keep theirs.
    """
    import llama_cpp

    watch = Watch(-1, throws)
    params = llama_cpp.llama_context_default_params()
    params.cb_eval = ctypes.cast(callback.watch, llama_cpp.ggml_backend_sched_eval_callback)
    params.cb_eval_user_data = ctypes.cast(ctypes.pointer(watch), ctypes.c_void_p)
    plain = Context(path)
    with monkeypatch.context() as patch:
        patch.setattr(llama_cpp, "llama_context_default_params", lambda: params)
        spoilt = Context(path)
    decode = callback.decode
    decode.argtypes = llama_cpp.llama_decode.argtypes
    rng = random.Random(6)
    for start in range(0, 768, 96):
        batch = [rng.randrange(100, 500) for _ in range(96)]
        wanted = plain.feed(batch, [0])
        watch.at = rng.randrange(plain.nodes)
        assert spoilt.decode(batch, [0], decode) == (-100 if throws else 0)
        assert watch.at < 0
        assert spoilt.held[0] == start + (0 if throws else 96)
        if not throws:
            spoilt.remove(0, start)
        assert np.array_equal(wanted, spoilt.feed(batch, [0])), start
