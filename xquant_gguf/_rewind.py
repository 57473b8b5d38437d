"""Sliding windows: how much of them a cache keeps, and when a rewind would miss tokens of them.

A small window cache forgets tokens that have left the window. After a rewind the next token may
need some of those again. llama.cpp does not check that: attention would read what is left.
"""

from __future__ import annotations

from typing import Any

from .config import XQuantConfig
from .stock import StockKV


def keeps_whole_windows(kv: XQuantConfig | StockKV) -> bool:
    """Whether window layers keep every token, llama.cpp's ``swa_full``, unless it is asked for.

    Stock caches do, as in ``llama_cpp``. Packed ones keep the window and a micro-batch: window
    layers are not packed, and whole ones would take most of the memory.
    """
    return not isinstance(kv, XQuantConfig)


def rewind(
    api: Any, model: Any, context: Any, n_past: int, sequence: int = 0, *, arch: str
) -> bool:
    """Drop the tokens of a sequence from position ``n_past`` on.

    Args:
        api: the module ``llama_cpp``. model, context: its handles.
        arch: the model's architecture, as its file names it.

    Returns:
        Whether the next token can follow at ``n_past``. False if the cache cannot drop tokens
        (recurrent states), or if tokens that the next one sees have left a window already.
    """
    memory = api.llama_get_memory(context)
    if not api.llama_memory_seq_rm(memory, sequence, n_past, -1):
        return False
    n_swa = int(api.llama_model_n_swa(model))
    if n_swa == 0 or n_past == 0 or api.llama_model_is_hybrid(model):
        return True  # a hybrid's first position is that of its recurrent state
    needed = max(0, n_past - n_swa + 1)
    if arch in _CHUNKED:
        needed = n_past // n_swa * n_swa
    return 0 <= int(api.llama_memory_seq_pos_min(memory, sequence)) <= needed


_CHUNKED = ("llama4",)
"""Architectures whose windows begin at multiples of their length; all others slide."""
