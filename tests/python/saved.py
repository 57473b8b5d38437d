"""Saving and restoring states through llama.cpp's API."""

from __future__ import annotations

import ctypes
from typing import Any


def save(ctx: Any, sequence: int = 0) -> bytes:
    """The state of one sequence, or of the whole context for -1."""
    api = ctx.model.api
    if sequence < 0:
        data = (ctypes.c_uint8 * api.llama_state_get_size(ctx.handle))()
        n = api.llama_state_get_data(ctx.handle, data, len(data))
    else:
        data = (ctypes.c_uint8 * api.llama_state_seq_get_size(ctx.handle, sequence))()
        n = api.llama_state_seq_get_data(ctx.handle, data, len(data), sequence)
    assert n == len(data) > 0
    return bytes(data)


def restore(ctx: Any, state: bytes, sequence: int = 0) -> bool:
    """Whether it is taken; ``ctx.held`` then says what the cache holds."""
    api = ctx.model.api
    data = ctypes.cast(ctypes.c_char_p(state), ctypes.POINTER(ctypes.c_uint8))
    if sequence < 0:
        n = api.llama_state_set_data(ctx.handle, data, len(state))
    else:
        n = api.llama_state_seq_set_data(ctx.handle, data, len(state), sequence)
    memory = api.llama_get_memory(ctx.handle)
    for s in range(len(ctx.held)):
        ctx.held[s] = api.llama_memory_seq_pos_max(memory, s) + 1
    assert n in (0, len(state))
    return bool(n)


def remove(ctx: Any, sequence: int, start: int = -1, end: int = -1) -> None:
    memory = ctx.model.api.llama_get_memory(ctx.handle)
    assert ctx.model.api.llama_memory_seq_rm(memory, sequence, start, end)
    ctx.held[sequence] = ctx.model.api.llama_memory_seq_pos_max(memory, sequence) + 1
