"""A short reply behind a prompt long enough to be packed: packed caches against f16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from ..config import XQuantConfig
from ..errors import UnsupportedModelError
from ..eval.contexts import Context, Logits, Model
from ..eval.divergence import Baseline
from ..stock import StockKV
from .caches import opened

PROMPT_TOKENS = 640
REPLY_TOKENS = 32
BUDGETS = {"lossless": 0.1}
"""Largest mean KL divergence from f16, in nats, by preset."""

OTHERS = 1.0
"""The same for every other cache: a coarse one may be far from f16, a broken one is farther."""

_BASE = "f16"
_BATCH = 128
_SURE = 3.0  # times as likely as any other token: no rounding turns that over
_QUESTION = "\n\nQuestion: What is this story about, and who is in it?\nAnswer:"


@dataclass(frozen=True)
class Reply:
    """How a cache continued.

    Attributes:
        kl: mean KL(f16 || cache) over the reply, in nats. budget: what passes.
        agreed: leading tokens of the reply that are f16's own greedy choice.
        flipped: tokens that f16 was sure of and the cache was not. tokens: of the reply.
        where: what computed it, CPU or GPU.
    """

    kv: str
    kl: float
    budget: float
    agreed: int
    flipped: int
    tokens: int
    where: str = "CPU"

    @property
    def passed(self) -> bool:
        """Near enough to f16; a cache with a budget of its own also kept every sure token."""
        return self.kl <= self.budget and not (self.kv in BUDGETS and self.flipped)


def compare_replies(
    model: Model, kvs: Mapping[str, XQuantConfig | StockKV], *, threads: int, where: str = "CPU"
) -> tuple[list[Reply], dict[str, str]]:
    """Feed every cache the prompt and f16's greedy reply, token by token.

    Args:
        kvs: caches by name, ``f16`` among them. where: what the model's layers lie on.

    Returns:
        A reply for every other cache, and why a cache has none.

    Raises:
        UnsupportedModelError: the model cannot run with f16 here.
    """
    refused: dict[str, str] = {}
    n_ctx = PROMPT_TOKENS + REPLY_TOKENS + 96
    with opened(model, kvs, refused, n_ctx=n_ctx, threads=threads, batch=_BATCH) as caches:
        if _BASE in refused:
            raise UnsupportedModelError("the model must run with an f16 cache", refused[_BASE])
        prompt = _prompt(model)
        tokens, logits = _greedy(caches.pop(_BASE), prompt)
        base = Baseline(logits)
        sure = _sure(logits)
        replies = []
        for name, context in caches.items():
            scores = base.compare(_forced(context, prompt, tokens), [*tokens[1:], tokens[-1]])
            same = scores.same_top
            replies.append(
                Reply(
                    name,
                    float(scores.kl.mean(dtype=np.float64)),
                    BUDGETS.get(name, OTHERS),
                    len(same) if same.all() else int(same.argmin()),
                    int((sure & ~same).sum()),
                    len(tokens),
                    where,
                )
            )
    return replies, refused


def _prompt(model: Model) -> list[int]:
    text = files("xquant_gguf.calibrate").joinpath("text.txt").read_text(encoding="utf-8")
    question = model.tokenize(_QUESTION, bos=False)
    return model.tokenize(text)[: PROMPT_TOKENS - len(question)] + question


def _greedy(context: Context, prompt: list[int]) -> tuple[list[int], Logits]:
    """f16's most likely tokens, and the logits that each was taken from."""
    rows = [context.feed(prompt, logits="last")[0]]
    tokens = [int(rows[0].argmax())]
    while len(tokens) < REPLY_TOKENS:
        rows.append(context.feed(tokens[-1:], logits="last")[0])
        tokens.append(int(rows[-1].argmax()))
    return tokens, np.stack(rows)


def _forced(context: Context, prompt: list[int], tokens: list[int]) -> Logits:
    """Logits at the same places behind the same tokens."""
    rows = [context.feed(prompt, logits="last")[0]]
    rows += [context.feed([token], logits="last")[0] for token in tokens[:-1]]
    return np.stack(rows)


def _sure(logits: Logits) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Rows whose first token is ``_SURE`` times as likely as the second."""
    second, first = np.partition(logits, -2, axis=-1)[:, -2:].T
    found: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = first - second > np.log(_SURE)
    return found
