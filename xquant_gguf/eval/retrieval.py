"""Key-value retrieval: the value of one key among many random ones, word for word.

The task of "Lost in the Middle" (Liu et al. 2023, arXiv 2307.03172): a JSON object of
random UUIDs, and the question for one of its keys. The answer is begun for the model
with the key and an opening quote, so that the value comes next.

Greedy decoding gives exactly the value if and only if each of the value's tokens is the
most likely one after the tokens before it. So the value is fed in one batch and
compared with the arg-max, in place of decoding it token by token; with the packed cache
attention does not depend on the batch (``cpp/format/xq_table.h``). A model that would spell
the value with other tokens than its tokeniser counts as a miss.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import XQuantConfig
from ..errors import ConfigError, UnsupportedModelError
from ..memory import padded_ctx
from ..stock import StockKV
from .contexts import Context, Model
from .prompts import Answered, answered, chat_prompt
from .resume import Pieces

DEPTHS = (0, 25, 50, 75, 100)
"""Where the key may stand, in percent of the pairs before the last one."""


@dataclass(frozen=True)
class Row:
    """One row of the data: distinct keys with their values, and the key that is asked for."""

    pairs: tuple[tuple[str, str], ...]
    key: str
    value: str


def read_rows(path: Path, wanted: int, largest: int) -> list[Row]:
    """The first rows of a ``.jsonl.gz`` file.

    Args:
        wanted: how many. largest: pairs that each must have.

    Raises:
        ConfigError: the file cannot be read, or has fewer rows or pairs than that.
    """
    rows: list[Row] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                if len(rows) == wanted:
                    break
                item = json.loads(line)
                pairs = tuple((str(key), str(value)) for key, value in item["ordered_kv_records"])
                rows.append(Row(pairs, item["key"], item["value"]))
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "the retrieval data must be gzipped JSON lines with ordered_kv_records, key and value",
            f"{type(error).__name__} in {path}: {error}",
            "fetch the file again",
        ) from error
    if len(rows) < wanted:
        raise ConfigError(
            f"--retrieval cannot exceed the {len(rows)} rows of {path.name}",
            wanted,
            f"use --retrieval {len(rows)}",
        )
    fewest = min(len(row.pairs) for row in rows)
    if fewest < largest:
        raise ConfigError(
            f"--retrieval-pairs cannot exceed the {fewest} pairs of a row of {path.name}",
            largest,
            f"use {fewest} at most",
        )
    return rows


def cut(row: Row, n: int, depth: int) -> list[tuple[str, str]]:
    """``n`` of a row's pairs, in their order but for the one asked for, which goes to ``depth``.

    Args:
        n: pairs, the right one among them. depth: its place, 0 (first) to 100 (last).
    """
    pairs = [pair for pair in row.pairs if pair[0] != row.key][: n - 1]
    pairs.insert(round((n - 1) * depth / 100), (row.key, row.value))
    return pairs


def question(pairs: Sequence[tuple[str, str]], key: str) -> tuple[str, str]:
    """The user's message and the start of the reply, which ends where the value begins."""
    lines = ",\n ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in pairs)
    user = (
        "Below is a JSON object with keys and values. Look up one key and reply with its value "
        f'only.\n\n{{{lines}}}\n\nWhich value belongs to the key "{key}"?'
    )
    return user, f'"{key}": "'


def depth_of(prompt: int) -> int:
    """Depths take turns over the prompts."""
    return DEPTHS[prompt % len(DEPTHS)]


def make_prompts(model: Model, rows: Sequence[Row], pairs: Sequence[int]) -> list[list[Answered]]:
    """Tokens of every prompt with its value, ``[len(pairs)][len(rows)]``.

    Raises:
        UnsupportedModelError: a prompt is longer than the context the model was trained for.
    """
    found = []
    for n in pairs:
        prompts = []
        for i, row in enumerate(rows):
            user, reply = question(cut(row, n, depth_of(i)), row.key)
            prompts.append(answered(model, chat_prompt(model, user, reply), row.value, bos=True))
        longest = max(len(prompt.tokens) for prompt in prompts)
        if longest > model.info.n_ctx_train > 0:
            raise UnsupportedModelError(
                f"a retrieval prompt must fit into the model's {model.info.n_ctx_train} tokens",
                f"{longest} tokens with {n} pairs",
                "give fewer --retrieval-pairs",
            )
        found.append(prompts)
    return found


def hit(context: Context, prompt: Answered) -> bool:
    """Whether greedy decoding answers with the value, see the module."""
    context.clear()
    start = prompt.first - 1
    if start:
        context.feed(prompt.tokens[:start], logits="last", copy=False)
    logits = context.feed(prompt.tokens[start:])
    value = np.asarray(prompt.tokens[prompt.first :])
    return bool((logits[:-1].argmax(axis=-1) == value).all())


def run(
    model: Model,
    kvs: Mapping[str, XQuantConfig | StockKV],
    rows: Sequence[Row],
    pairs: Sequence[int],
    *,
    threads: int,
    pieces: Pieces,
    progress: Callable[[int], None] = lambda prompts: None,
) -> dict[str, dict[str, Any]]:
    """Hits of every cache by name, see :func:`summary`; all caches get the same prompts.

    A prompt with one cache is one piece. One cache exists at a time.

    Args:
        pairs: lengths, as numbers of pairs. progress: called with prompts just done.
    """
    prompts = dict(zip(pairs, make_prompts(model, rows, pairs)))
    longest = max(len(prompt.tokens) for found in prompts.values() for prompt in found)
    results = {}
    for name, kv in kvs.items():
        context: Context | None = None
        hits: dict[int, list[bool]] = {n: [] for n in pairs}
        try:
            for n, found in prompts.items():
                for i, prompt in enumerate(found):
                    done = pieces.get("retrieval", name, n, i)
                    if done is None:
                        context = context or Context(
                            model, kv, n_ctx=padded_ctx(longest), threads=threads, swa_full=False
                        )
                        done = hit(context, prompt)
                        pieces.put(done, "retrieval", name, n, i)
                    hits[n].append(done)
                    progress(1)
        finally:
            if context is not None:
                context.close()
        results[name] = {
            str(n): {"prompt_tokens": _mean_tokens(prompts[n]), **summary(hits[n])} for n in pairs
        }
    return results


def summary(hits: Sequence[bool]) -> dict[str, Any]:
    """Hits in percent with the binomial standard error, in all and by depth of the key."""
    depths = {
        str(depth): _share([h for i, h in enumerate(hits) if depth_of(i) == depth])
        for depth in DEPTHS[: len(hits)]
    }
    share = _share(hits)
    error = math.sqrt(share["hits"] * (100 - share["hits"]) / share["n"])
    return {**share, "se": error, "depths": depths}


def _share(hits: Sequence[bool]) -> dict[str, Any]:
    return {"hits": 100 * sum(hits) / len(hits), "n": len(hits)}


def _mean_tokens(prompts: Sequence[Answered]) -> float:
    return sum(len(prompt.tokens) for prompt in prompts) / len(prompts)
