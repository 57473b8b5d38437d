"""Log-probabilities of a text that the model has read, in the form of OpenAI's completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def echoed(
    tokens: Sequence[int], first: int, scores: Any, best: int, text_of: Callable[..., bytes]
) -> dict[str, Any]:
    """Log-probability of every token given those before it.

    Args:
        tokens: prompt and reply.
        first: tokens of the prompt that are not told (a BOS).
        scores: a row of logits behind each token.
        best: how many of the most likely tokens to tell at each place.
        text_of: tokens to bytes.

    Returns:
        ``tokens``, ``text_offset``, ``token_logprobs``, ``top_logprobs``; the last two have None
        for the first token, as OpenAI's have.
    """
    told: dict[str, Any] = {
        "tokens": [], "text_offset": [], "token_logprobs": [], "top_logprobs": []
    }  # fmt: skip
    shown = list(tokens[first:])
    offset = 0
    for i, token in enumerate(shown):
        text = _text(text_of([token], prev_tokens=shown[:i]))
        told["tokens"].append(text)
        told["text_offset"].append(offset)
        offset += len(text)
        if i == 0:
            told["token_logprobs"].append(None)
            told["top_logprobs"].append(None)
            continue
        row = _log_softmax(scores[first + i - 1])
        top = np.argsort(-row, kind="stable")[:best]
        likely = {_text(text_of([int(t)], prev_tokens=shown[:i])): float(row[t]) for t in top}
        likely[text] = float(row[token])
        told["token_logprobs"].append(float(row[token]))
        told["top_logprobs"].append(likely)
    return told


def _log_softmax(row: Any) -> Any:
    shifted = row.astype(np.float64) - row.max()
    return shifted - np.log(np.exp(shifted).sum())


def _text(data: bytes) -> str:
    return data.decode("utf-8", "ignore")
