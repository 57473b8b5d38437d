"""Decode and prefill speed beside the stock caches, with the benchmark's own measurement."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..bench.cli import check_memory, fill_tokens
from ..bench.speed import measure
from ..config import XQuantConfig
from ..eval.contexts import Model
from ..memory import available_bytes, padded_ctx
from ..stock import StockKV
from .caches import opened

STOCK_NAMES = ("f16", "q8_0", "q4_0")
_SPARE = 64  # cells beyond the deepest token, for steps that are undone
_BATCH = 512


def time_caches(
    model: Model,
    kvs: Mapping[str, XQuantConfig | StockKV],
    depths: Sequence[int],
    *,
    threads: int,
    rounds: int,
    steps: int,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Rows of ``xquant_gguf.bench``, and why a cache has none.

    Args:
        depths: tokens in the cache, ascending, the first 0.
        rounds: turns of each cache. steps: timed steps of a turn.

    Raises:
        OutOfMemoryError: the caches do not fit into memory side by side.
    """
    n_ctx = padded_ctx(depths[-1] + _SPARE)
    check_memory(model.info, kvs, n_ctx, available_bytes())
    tokens = fill_tokens(model, depths[-1] + 1, None)
    refused: dict[str, str] = {}
    result: dict[str, Any] = {"model": Path(model.path).name, "threads": threads, "n_ctx": n_ctx}
    with opened(model, kvs, refused, n_ctx=n_ctx, threads=threads, batch=_BATCH) as caches:
        rows = measure(caches, tokens, depths, batch=_BATCH, rounds=rounds, steps=steps)
        result["rows"] = [dataclasses.asdict(row) for step in rows for row in step]
    return result, refused
