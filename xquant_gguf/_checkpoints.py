"""Checkpoints of what a cache cannot roll back: recurrent states and small sliding windows.

Such a state says what the model knows after all tokens so far. To go back, one from before is
needed. Copies are taken while tokens are read, and an edited prompt goes on from the nearest one
instead of from the start. Keys and values that every token keeps are not copied.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

_PARTIAL_ONLY = 1  # LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY: without the cache that keeps every token
_APART = 512  # tokens from one checkpoint to the next while a prompt is read, or a reply written
_SHORT = 16  # tokens; shorter pieces of a prompt are read again sooner than copied

DEFAULT_BYTES = 256 * 1024 * 1024
"""How much memory checkpoints of one ``Llama`` may take, unless it is asked for another amount."""


class Checkpoints:
    """Copies of one sequence's state, by the number of tokens behind it.

    Args:
        api: the module ``llama_cpp``.
        model, context: its handles.
        max_bytes: what all copies together may take. Where they would take more, those go whose
            neighbours lie closest. A state that is larger on its own is never copied.
    """

    def __init__(self, api: Any, model: Any, context: Any, max_bytes: int) -> None:
        self._api = api
        self._context = context
        self._max_bytes = max_bytes
        self._kept: dict[int, bytes] = {}
        self._wanted = max_bytes > 0 and bool(
            api.llama_model_is_hybrid(model)
            or api.llama_model_is_recurrent(model)
            or api.llama_model_n_swa(model)
        )

    @property
    def positions(self) -> tuple[int, ...]:
        """Numbers of tokens that the model can go back to, in ascending order."""
        return tuple(sorted(self._kept))

    @property
    def bytes(self) -> int:
        """Memory that the copies take."""
        return sum(map(len, self._kept.values()))

    def pieces(self, held: int, count: int) -> Iterator[tuple[int, int]]:
        """Cut ``count`` tokens behind ``held`` where a checkpoint is wanted, and take it there.

        Yields:
            Ranges ``(start, stop)`` of the new tokens. When the next one is asked for, the one
            before must have been read.
        """
        if not self._wanted:
            yield 0, count
            return
        if held and (count > 1 or held >= max(self._kept, default=0) + _APART):
            self._take(held)
        start = 0
        for stop in (*range(_APART, count - _SHORT, _APART), count - 1 if count > _SHORT else 0):
            if stop > start:
                yield start, stop
                self._take(held + stop)
                start = stop
        yield start, count

    def forget(self, behind: int = 0) -> None:
        """Drop the copies that more than ``behind`` tokens lie before; without it all of them."""
        self._kept = {at: copy for at, copy in self._kept.items() if 0 < at <= behind}

    def go_back(self, at_most: int) -> int:
        """Return to the last checkpoint with at most so many tokens, and drop those behind it.

        Returns:
            The tokens that the cache holds then. 0 if there is no such checkpoint; the cache is
            then as it was and must be emptied.
        """
        self.forget(at_most)
        while self._kept:
            at = max(self._kept)
            copy = self._kept[at]
            buffer = (ctypes.c_uint8 * len(copy)).from_buffer_copy(copy)
            read = self._api.llama_state_seq_set_data_ext(
                self._context, buffer, len(copy), 0, _PARTIAL_ONLY
            )
            memory = self._api.llama_get_memory(self._context)
            if read == len(copy) and self._api.llama_memory_seq_rm(memory, 0, at, -1):
                return at
            del self._kept[at]
        return 0

    def _take(self, at: int) -> None:
        if at in self._kept:
            return
        size = int(self._api.llama_state_seq_get_size_ext(self._context, 0, _PARTIAL_ONLY))
        if not 0 < size <= self._max_bytes:
            return
        while self._kept and self.bytes + size > self._max_bytes:
            self._drop_the_closest()
        buffer = (ctypes.c_uint8 * size)()
        written = int(
            self._api.llama_state_seq_get_data_ext(self._context, buffer, size, 0, _PARTIAL_ONLY)
        )
        if written == size:
            self._kept[at] = bytes(buffer)

    def _drop_the_closest(self) -> None:
        at = self.positions
        gaps = {here: after - before for before, here, after in zip((0, *at), at, at[1:])}
        del self._kept[min(gaps, key=gaps.__getitem__) if gaps else at[0]]
