"""A text in windows, each fed to all caches in step, as decoding would meet it.

The packed cache decides by a token's own position which tiles it reads packed
(``cpp/format/xq_table.h``), and stock types quantise a row when it is written, so
feeding a text in batches gives the figures of feeding it one token at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from ..config import XQuantConfig, resolve_kv
from ..errors import ConfigError
from ..stock import StockKV
from .contexts import Context, Model
from .divergence import Baseline, TokenScores, summary
from .resume import Pieces

Progress = Callable[[int], None]


def windows(tokens: Sequence[int], n_ctx: int, skip: int, wanted: int) -> list[list[int]]:
    """Cut a text into contexts until ``wanted`` tokens are scored.

    The first ``skip`` tokens of every context are not scored: nothing is packed yet.
    The last context may be shorter.
    """
    out: list[list[int]] = []
    scored = 0
    for start in range(0, len(tokens), n_ctx):
        part = list(tokens[start : start + min(n_ctx, skip + 1 + wanted - scored)])
        if len(part) < skip + 2 or scored >= wanted:
            break
        out.append(part)
        scored += len(part) - skip - 1
    return out


def cut_text(model: Model, text: str, n_ctx: int, skip: int, wanted: int) -> list[list[int]]:
    """The windows of a text, see :func:`windows`.

    Raises:
        ConfigError: a context has no scored tokens, or the text has too few of them.
    """
    if n_ctx < skip + 2:
        raise ConfigError(
            "--ctx must be larger than --skip by 2 or more",
            f"--ctx {n_ctx} with --skip {skip}",
            "give a larger --ctx or a smaller --skip",
        )
    needed = -(-wanted // (n_ctx - skip - 1)) * n_ctx
    found = windows(model.tokenize(text[: 16 * needed]), n_ctx, skip, wanted)
    scored = sum(len(window) - skip - 1 for window in found)
    if scored < wanted:
        raise ConfigError(
            f"the text must give --tokens {wanted} scored tokens",
            f"a text that gives {scored} with --ctx {n_ctx} --skip {skip}",
            f"use --tokens {scored}" if scored else "give a longer text or a smaller --skip",
        )
    return found


def measure(
    reference: Context,
    caches: Mapping[str, Context],
    text: Sequence[int],
    *,
    skip: int,
    progress: Progress = lambda tokens: None,
) -> dict[str, TokenScores]:
    """Feed one window to all caches in step and compare each token's distribution.

    Args:
        reference: the f16 cache. caches: by name; one may be the reference itself.
        text: tokens that fit into the contexts, more than ``skip + 1``.
        skip: first tokens that are not scored.
        progress: called with the number of tokens just fed.
    """
    parts: dict[str, list[TokenScores]] = {name: [] for name in caches}
    others = [context for context in caches.values() if context is not reference]
    for context in (reference, *others):
        context.clear()
    inputs, following = text[:-1], text[1:]
    for start in range(0, len(inputs), Context.BATCH):
        part = inputs[start : start + Context.BATCH]
        first = max(0, skip - start)
        if first >= len(part):
            for context in (reference, *others):
                context.feed(part, logits="last", copy=False)
        else:
            # views: every context has logits of its own, which stay until its next batch
            base = Baseline(reference.feed(part, copy=False)[first:])
            after = following[start + first : start + len(part)]
            for name, context in caches.items():
                mine = base.logits
                if context is not reference:
                    mine = context.feed(part, copy=False)[first:]
                parts[name].append(base.compare(mine, after))
        progress(len(part))
    return {name: _joined(found) for name, found in parts.items()}


def run(
    model: Model,
    kvs: Mapping[str, XQuantConfig | StockKV],
    texts: Sequence[Sequence[int]],
    *,
    n_ctx: int,
    skip: int,
    threads: int,
    pieces: Pieces,
    progress: Progress = lambda tokens: None,
) -> dict[str, dict[str, Any]]:
    """KL, same top and perplexity of every cache, by name; keys as in :func:`summary`.

    A window is one piece: those in ``pieces`` are not fed again.
    """
    found: list[dict[str, TokenScores]] = []
    with ExitStack() as stack:
        opened: tuple[Context, dict[str, Context]] | None = None
        for i, text in enumerate(texts):
            kept = pieces.get("kl", i)
            if kept is None:
                opened = opened or _open(stack, model, kvs, n_ctx, threads)
                scores = measure(*opened, text, skip=skip, progress=progress)
                pieces.put({name: part.to_json() for name, part in scores.items()}, "kl", i)
            else:
                scores = {name: TokenScores.from_json(kept[name]) for name in kvs}
                progress(len(text) - 1)
            found.append(scores)
    return {name: summary([scores[name] for scores in found]) for name in kvs}


def _open(
    stack: ExitStack,
    model: Model,
    kvs: Mapping[str, XQuantConfig | StockKV],
    n_ctx: int,
    threads: int,
) -> tuple[Context, dict[str, Context]]:
    """The f16 cache and one context a name; the name of f16 itself takes the reference."""
    f16 = resolve_kv("f16")

    def new(kv: XQuantConfig | StockKV) -> Context:
        context = Context(model, kv, n_ctx=n_ctx, threads=threads, swa_full=False)
        stack.callback(context.close)
        return context

    reference = new(f16)
    return reference, {name: reference if kv == f16 else new(kv) for name, kv in kvs.items()}


def _joined(parts: Sequence[TokenScores]) -> TokenScores:
    return TokenScores(
        np.concatenate([part.kl for part in parts]),
        np.concatenate([part.same_top for part in parts]),
        np.concatenate([part.nll for part in parts]),
    )
