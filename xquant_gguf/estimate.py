"""What a model and a cache take in memory, told by llama.cpp before anything is allocated.

llama.cpp can go through the creation of a model and a context without allocating: every buffer is
sized by the code that would allocate it. So these figures are those of the loaded model, for every
architecture: sliding windows, recurrent states, shared layers, GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any

from . import _native
from .config import XQuantConfig
from .memory import padded_ctx
from .stock import StockKV

_STEP = 256

CELL_BYTES = 64
"""About what llama.cpp keeps beside the cache for each token: the one thing that is allocated here,
so contexts of billions of tokens must not be asked for."""


@dataclass(frozen=True)
class Buffer:
    """Bytes in one kind of memory.

    Attributes:
        name: ggml's name, such as ``"CPU"`` or ``"CUDA0"``.
        host: whether it is the machine's own memory.
        weights, cache, compute: bytes of the model, of the KV cache with recurrent states, and of
            what graphs are computed in.
        free: bytes that the device has free now, 0 for host memory.
    """

    name: str
    host: bool
    weights: int
    cache: int
    compute: int
    free: int


@dataclass(frozen=True)
class Room:
    """Memory that may be taken beside what devices tell of themselves.

    Attributes:
        host: free bytes of the machine's own memory, None if unknown. Weights are not counted
            there: a model's file may be mapped, and be read from the disk again.
        budget: bytes for cache and computation wherever they lie, None for as many as fit.
    """

    host: int | None = None
    budget: int | None = None

    @property
    def known(self) -> bool:
        """Whether anything limits a context."""
        return self.host is not None or self.budget is not None


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that a model and a context take.

    Attributes:
        kv: the KV cache with sliding windows, as ``llm.kv_cache.bytes_total``.
        recurrent: recurrent states.
        weights: the model.
        compute: buffers that graphs are computed in, and attention's scratch beside them.
        buffers: the same by kind of memory, scratch not included.
    """

    kv: int
    recurrent: int
    weights: int
    compute: int
    buffers: tuple[Buffer, ...]

    @property
    def total(self) -> int:
        """All of it."""
        return self.kv + self.recurrent + self.weights + self.compute

    @property
    def beside_weights(self) -> int:
        """Bytes of cache, recurrent states and computation."""
        return self.total - self.weights

    def fits(self, room: Room) -> bool:
        """Whether there is room."""
        on_host = self.beside_weights
        for b in self.buffers:
            if not b.host:
                on_host -= b.cache + b.compute
                if b.weights + b.cache + b.compute > b.free:
                    return False
        if room.budget is not None and self.beside_weights > room.budget:
            return False
        return room.host is None or on_host <= room.host


class Estimator:
    """A model whose header alone is read, about half a second; estimates then take milliseconds.

    Args:
        path: a GGUF file.
        gpu_layers: how many layers lie on a GPU.

    Raises:
        ModelFileError: not a readable GGUF file.
        LibraryError: the library has no packed cache.
    """

    def __init__(self, path: str, *, gpu_layers: int = 0) -> None:
        from .eval.contexts import Model

        _native.load().require_packed()
        self._model = Model(path, gpu_layers=gpu_layers, dry=True)
        self.info = self._model.info

    def use(
        self,
        kv: XQuantConfig | StockKV,
        n_ctx: int,
        *,
        threads: int = 4,
        batch: int = 512,
        sequences: int = 1,
        unified: bool = True,
        swa_full: bool | None = None,
        flash_attn: bool = False,
    ) -> MemoryUse:
        """What a context with this cache would take.

        Args:
            n_ctx: tokens. threads: of the CPU, each with its own scratch.
            batch: tokens given to llama.cpp at once.
            sequences, unified: see ``Context``.
            swa_full: whether window layers keep every token; None is what ``Llama`` does.
            flash_attn: for an unquantised cache, as in ``Llama``; others need it and have it.

        Raises:
            UnsupportedModelError: the model cannot be run with this cache.
        """
        from .eval.contexts import Context

        context = Context(
            self._model,
            kv,
            n_ctx=n_ctx,
            threads=threads,
            batch=batch,
            sequences=sequences,
            unified=unified,
            swa_full=swa_full,
            flash_attn=flash_attn or isinstance(kv, XQuantConfig) or kv.quantised,
        )
        try:
            return memory_use(self._model.native, context.handle)
        finally:
            context.close()

    def largest_ctx(
        self, kv: XQuantConfig | StockKV, room: Room, *, most: int, **settings: Any
    ) -> int:
        """The longest context that fits, in tokens.

        Args:
            most: tokens that are enough, such as the model's own length.
            **settings: those of :meth:`use`.

        Returns:
            A multiple of 256, at most ``most``; 0 if not even 256 tokens fit.
        """
        if room.host is not None:
            most = min(most, room.host // CELL_BYTES)
        low, high = 0, padded_ctx(most) // _STEP
        while low < high:
            middle = (low + high + 1) // 2
            if self.use(kv, middle * _STEP, **settings).fits(room):
                low = middle
            else:
                high = middle - 1
        return min(low * _STEP, most)

    def close(self) -> None:
        """Free the header."""
        self._model.close()

    def __enter__(self) -> Estimator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def memory_use(native: _native.Native, context: Any) -> MemoryUse:
    """What a context and its model take; of one without allocation, what they would."""
    found = native.memory(context)
    report = native.report(context)
    buffers = tuple(
        Buffer(b["name"], b["host"], b["model"], b["context"], b["compute"], b["free"])
        for b in found["buffers"]
    )
    scratch = report["bytes"]["scratch"] if report else 0
    return MemoryUse(
        kv=sum(b.cache for b in buffers) - found["recurrent"],
        recurrent=found["recurrent"],
        weights=sum(b.weights for b in buffers),
        compute=sum(b.compute for b in buffers) + scratch,
        buffers=buffers,
    )
