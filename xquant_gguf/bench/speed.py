"""Decode and prefill speed of several caches, in turns, so that a machine's drift hits all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..eval.contexts import Context
from ..stock import StockKV
from .repeat import repeat_to

Progress = Callable[[str, int], None]
"""Called with what was just done, and for how many tokens."""


@dataclass(frozen=True)
class Row:
    """One cache at one depth.

    Attributes:
        kv: the cache's name. depth: tokens it held while the next one was decoded.
        decode_tok_s: from the median step; ``_q1`` and ``_q3`` from the slower and the
            faster quartile of the steps.
        prefill_tok_s: tokens between the depth before and this one over the time they
            took, in one pass; None at depth 0, and where they were not a prompt.
        attention_ms: median step at this depth minus median step at depth 0, that is,
            everything that grows with depth; None at depth 0. ``_q1`` and ``_q3`` take the
            quartiles of the steps at this depth instead.
        kv_bytes: bytes allocated for the cache at the context length of the run.
    """

    kv: str
    depth: int
    decode_tok_s: float
    prefill_tok_s: float | None
    attention_ms: float | None
    kv_bytes: int
    decode_tok_s_q1: float
    decode_tok_s_q3: float
    attention_ms_q1: float | None
    attention_ms_q3: float | None


def measure(
    caches: Mapping[str, Context],
    tokens: Sequence[int],
    depths: Sequence[int],
    *,
    batch: int,
    rounds: int,
    steps: int,
    repeat: int = 0,
    progress: Progress = lambda what, tokens: None,
) -> Iterator[list[Row]]:
    """Fill all caches to one depth after the other; yields each depth's rows once it is done.

    Args:
        caches: empty contexts, by name.
        tokens: at least one more than the largest depth.
        depths: ascending, the first is 0.
        batch: tokens of the prompt fed at once.
        rounds: how often each cache has its turn at decoding.
        steps: timed single-token steps in a turn.
        repeat: beyond this depth stock caches are filled with the rows that they hold
            (:func:`~.repeat.repeat_to`); 0 for never.

    Raises:
        UnsupportedModelError: ``repeat`` with a cache that is not a plain one.
    """
    for context in caches.values():  # buffers and weights are touched for the first time here
        context.feed(tokens[: max(1, min(batch, depths[-1]))], logits="last")
        context.clear()
    held = 0
    empty_ms: dict[str, float] = {}
    for depth in depths:
        short_cut = {
            name: context
            for name, context in caches.items()
            if held and 0 < repeat < depth and isinstance(context.kv, StockKV)
        }
        prompted = {name: context for name, context in caches.items() if name not in short_cut}
        filling = _fill(prompted, tokens[held:depth], batch, progress)
        for name, context in short_cut.items():
            repeat_to(context, depth)
            progress(f"repeat {name}", depth - held)
        decoding = _decode(caches, tokens[depth], depth, rounds, steps, progress)
        if depth == 0:
            empty_ms = {name: float(np.median(ms)) for name, ms in decoding.items()}
        yield [
            _row(
                name,
                depth,
                decoding[name],
                empty_ms[name],
                (depth - held) / filling[name] if depth and name in filling else None,
                context.snapshot().bytes_total,
            )
            for name, context in caches.items()
        ]
        held = depth


def _fill(
    caches: Mapping[str, Context], tokens: Sequence[int], batch: int, progress: Progress
) -> dict[str, float]:
    """Feed a prompt batch by batch, each batch to every cache in turn; seconds by cache.

    Of each batch only the last token's logits are asked for.
    """
    seconds = dict.fromkeys(caches, 0.0)
    for start in range(0, len(tokens), batch):
        part = tokens[start : start + batch]
        for name, context in caches.items():
            before = time.perf_counter()
            context.feed(part, logits="last")
            seconds[name] += time.perf_counter() - before
            progress(f"prefill {name}", len(part))
    return seconds


def _decode(
    caches: Mapping[str, Context],
    token: int,
    depth: int,
    rounds: int,
    steps: int,
    progress: Progress,
) -> dict[str, list[float]]:
    """Milliseconds of every timed step. Each is undone, so all of them happen at ``depth``.

    A turn starts with a step that is not timed: it brings this cache's data back into
    the processor's caches, and seals what the prompt left for the next token to seal.
    """
    found: dict[str, list[float]] = {name: [] for name in caches}
    for _ in range(rounds):
        for name, context in caches.items():
            for step in range(steps + 1):
                before = time.perf_counter()
                context.feed([token], logits="last")
                elapsed = time.perf_counter() - before
                context.rewind(depth)
                if step:
                    found[name].append(1000 * elapsed)
                    progress(f"decode {name}", 1)
    return found


def _row(
    name: str,
    depth: int,
    ms: Sequence[float],
    empty_ms: float,
    prefill_tok_s: float | None,
    kv_bytes: int,
) -> Row:
    fast, median, slow = (float(q) for q in np.quantile(ms, (0.25, 0.5, 0.75)))
    return Row(
        kv=name,
        depth=depth,
        decode_tok_s=1000 / median,
        prefill_tok_s=prefill_tok_s,
        attention_ms=median - empty_ms if depth else None,
        kv_bytes=kv_bytes,
        decode_tok_s_q1=1000 / slow,
        decode_tok_s_q3=1000 / fast,
        attention_ms_q1=fast - empty_ms if depth else None,
        attention_ms_q3=slow - empty_ms if depth else None,
    )
