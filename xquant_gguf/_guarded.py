"""llama_cpp's methods behind the gate, and what stands in their place after close()."""

from __future__ import annotations

import functools
from typing import Any

from . import _native
from ._gate import Gate, _closed

_native.load()  # before llama_cpp, which looks for its library when imported

import llama_cpp  # noqa: E402
from llama_cpp import _internals  # noqa: E402


def _inside(name: str) -> Any:
    """The method of that name, for which the model must be there; any number of threads at once."""
    stock = getattr(llama_cpp.Llama, name)

    @functools.wraps(stock)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._gate.inside():
            return stock(self, *args, **kwargs)

    return call


def _exclusive(name: str) -> Any:
    """The method of that name, which changes the context."""
    stock = getattr(llama_cpp.Llama, name)

    @functools.wraps(stock)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._gate.exclusive():
            return stock(self, *args, **kwargs)

    return call


class Guarded:
    """What ``Llama`` inherits, method by method; ``eval`` and streams are in ``llama.py``."""

    _gate: Gate

    tokenize = _inside("tokenize")
    detokenize = _inside("detokenize")
    tokenizer = _inside("tokenizer")
    n_ctx = _inside("n_ctx")
    n_embd = _inside("n_embd")
    n_vocab = _inside("n_vocab")
    token_bos = _inside("token_bos")
    token_eos = _inside("token_eos")
    token_nl = _inside("token_nl")
    pooling_type = _inside("pooling_type")

    reset = _exclusive("reset")
    create_embedding = _exclusive("create_embedding")


class LockedContext(_internals.LlamaContext):
    """llama_cpp's context wrapper; other threads may read the cache between two of its calls."""

    gate: Gate

    def decode(self, batch: Any) -> None:
        """Compute a batch."""
        with self.gate.decoding:
            super().decode(batch)

    def encode(self, batch: Any) -> None:
        """Compute a batch of an encoder."""
        with self.gate.decoding:
            super().encode(batch)

    def kv_cache_clear(self) -> None:
        """Drop all tokens."""
        with self.gate.decoding:
            super().kv_cache_clear()  # type: ignore[no-untyped-call]

    def kv_cache_seq_rm(self, seq_id: int, p0: int, p1: int) -> bool:
        """Drop tokens of a sequence."""
        with self.gate.decoding:
            return bool(super().kv_cache_seq_rm(seq_id, p0, p1))


class Gone:
    """The class of llama_cpp's wrappers once they are freed: whatever is asked of them raises."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("__class__", "close"):
            return object.__getattribute__(self, name)
        raise _closed()

    def close(self) -> None:
        """Nothing is left to free."""


def lock_context(context: Any, gate: Gate) -> None:
    """Put the gate into llama_cpp's context wrapper, and its flag into llama.cpp."""
    context.__class__ = LockedContext
    context.gate = gate
    _native.load().abort_when(context.ctx, gate.stop)


def mark_gone(*wrappers: Any) -> None:
    """Let freed wrappers say so instead of handing their dead pointers to llama.cpp."""
    for wrapper in wrappers:
        if wrapper is not None:
            wrapper.__class__ = Gone
