"""KL of many caches on the same contexts: fed in step with f16, as many at once as memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from ..config import XQuantConfig, resolve_kv
from ..eval.contexts import Context, Model
from ..eval.resume import Pieces
from ..eval.windows import measure
from ..memory import available_bytes, cache_bytes
from ..stock import StockKV

_MOST = 16  # caches at once
_LOGIT_BUFFERS = 3  # of a batch: llama.cpp's result, its copy, and what sorting out costs


@dataclass(frozen=True)
class Bench:
    """Where lanes are measured.

    Attributes:
        n_ctx: tokens of a context. skip: first tokens that are not scored.
        threads: CPU threads. pieces: lanes that are done, by settings and context.
        progress: called with the number of tokens just fed, of all lanes together.
    """

    model: Model
    n_ctx: int
    skip: int
    threads: int
    pieces: Pieces
    progress: Callable[[int], None]

    def kl(
        self, lanes: Mapping[str, XQuantConfig], texts: Mapping[int, Sequence[int]]
    ) -> dict[str, float]:
        """Mean KL from f16 of every lane, in nats, over all scored tokens.

        Args:
            lanes: caches by name. texts: contexts of one length, by their number in the text.
        """
        texts_of = {name: config.to_text() for name, config in lanes.items()}
        for batch in self._batches(lanes):
            self._run({texts_of[name]: lanes[name] for name in batch}, texts)
        return {
            name: float(np.mean([self.pieces.get("kl", text, i) for i in texts]))
            for name, text in texts_of.items()
        }

    def _run(self, lanes: Mapping[str, XQuantConfig], texts: Mapping[int, Sequence[int]]) -> None:
        for i, text in texts.items():
            todo = {key: kv for key, kv in lanes.items() if self.pieces.get("kl", key, i) is None}
            self.progress((len(text) - 1) * (len(lanes) - len(todo)))
            if todo:
                self._feed(todo, i, text)

    def _feed(self, lanes: Mapping[str, XQuantConfig], i: int, text: Sequence[int]) -> None:
        with ExitStack() as stack:
            scores = measure(
                self._open(stack, resolve_kv("f16")),
                {key: self._open(stack, kv) for key, kv in lanes.items()},
                text,
                skip=self.skip,
                progress=lambda n: self.progress(n * len(lanes)),
            )
        for key, found in scores.items():
            self.pieces.put(float(found.kl.mean(dtype=np.float64)), "kl", key, i)

    def _open(self, stack: ExitStack, kv: XQuantConfig | StockKV) -> Context:
        context = Context(self.model, kv, n_ctx=self.n_ctx, threads=self.threads)
        stack.callback(context.close)
        return context

    def _batches(self, lanes: Mapping[str, XQuantConfig]) -> Iterator[list[str]]:
        """Lanes that fit into half of the memory there is, one at least."""
        logits = _LOGIT_BUFFERS * Context.BATCH * self.model.n_vocab * 4
        size = logits + max(cache_bytes(self.model.info, kv, self.n_ctx) for kv in lanes.values())
        room = (available_bytes() or size) // 2
        many = max(1, min(_MOST, room // size - 1))
        names = list(lanes)
        for start in range(0, len(names), many):
            yield names[start : start + many]
