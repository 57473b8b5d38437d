"""Whether a context fits into memory, and the longest that does, before a model is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .config import XQuantConfig
from .errors import ConfigError, OutOfMemoryError
from .estimate import CELL_BYTES, Estimator, Room
from .gguf_header import ModelInfo
from .memory import MIB, available_bytes, cache_bytes, f16_bytes
from .stock import StockKV

MOST = 2**31 - 256
"""Tokens of the longest context that llama.cpp can be asked for."""

_AMPLE = 2**31  # with so much free, scores and logits of a batch have room
_SAFE = 16  # ... and so has an f16 cache this many times smaller, with all that grows with it


def fitted_ctx(
    path: str, info: ModelInfo, kv: XQuantConfig | StockKV, keywords: Mapping[str, Any]
) -> int:
    """``n_ctx`` of a ``Llama``'s keywords as a number, if it fits.

    Args:
        keywords: ``n_ctx`` is a number of tokens, 0 for as many as the model was made for, or
            "max" for as many of these as fit.

    Raises:
        ConfigError: it is something else.
        OutOfMemoryError: cache and computation take more than the machine has free. What lies on
            a GPU is not checked unless "max" was asked for; llama.cpp says if it is too much.
    """
    n_ctx = keywords.get("n_ctx", 512)
    if n_ctx != "max" and (
        isinstance(n_ctx, bool) or not isinstance(n_ctx, int) or not 0 <= n_ctx <= MOST
    ):
        raise ConfigError(
            f"n_ctx is a number of tokens from 1 to {MOST}, 0 for the model's own, or 'max'",
            repr(n_ctx),
            "try n_ctx=4096",
        )
    free = available_bytes()
    on_gpu = bool(keywords.get("n_gpu_layers", 0)) and keywords.get("offload_kqv", True)
    if keywords.get("vocab_only", False) or (n_ctx != "max" and (on_gpu or free is None)):
        return 0 if n_ctx == "max" else int(n_ctx)
    asked = info.n_ctx_train if n_ctx == "max" else n_ctx or info.n_ctx_train
    if n_ctx != "max" and free and free > _AMPLE and 0 < _SAFE * f16_bytes(info, asked) <= free:
        return int(n_ctx)
    settings = {
        "threads": keywords.get("n_threads") or os.cpu_count() or 4,
        "batch": min(keywords.get("n_batch", 512), keywords.get("n_ubatch", 512)),
        "swa_full": keywords.get("swa_full"),
        "flash_attn": bool(keywords.get("flash_attn", False)),
    }
    with Estimator(path, gpu_layers=keywords.get("n_gpu_layers", 0)) as estimator:
        room = Room(host=free)
        if not asked:
            return 0
        endless = free is not None and asked * CELL_BYTES > free
        if n_ctx != "max" and not endless and estimator.use(kv, asked, **settings).fits(room):
            return int(n_ctx)
        largest = estimator.largest_ctx(kv, room, most=asked, **settings)
        if n_ctx == "max" and largest:
            return largest
        needed = (
            cache_bytes(info, kv, asked)
            if endless
            else estimator.use(kv, asked, **settings).beside_weights
        )
    raise OutOfMemoryError(
        f"cache and computation must fit into the {(free or 0) / MIB:,.0f} MiB of memory available",
        f"{needed / MIB:,.0f} MiB for n_ctx={asked}",
        f"use n_ctx={largest} or less" if largest else "free some memory",
    )
