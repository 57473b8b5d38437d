"""One model with several caches side by side; a cache that the model cannot use is left out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from ..config import XQuantConfig
from ..errors import UnsupportedModelError
from ..eval.contexts import Context, Model
from ..stock import StockKV


@contextlib.contextmanager
def opened(
    model: Model,
    kvs: Mapping[str, XQuantConfig | StockKV],
    refused: dict[str, str],
    *,
    n_ctx: int,
    threads: int,
    batch: int,
) -> Iterator[dict[str, Context]]:
    """Contexts by name for the length of a ``with`` block.

    Args:
        refused: takes the reason for every cache that the model cannot use, by name.
        n_ctx: tokens each can hold. batch: prompt tokens fed at once.
    """
    with contextlib.ExitStack() as stack:
        caches: dict[str, Context] = {}
        for name, kv in kvs.items():
            try:
                context = Context(model, kv, n_ctx=n_ctx, threads=threads, batch=batch)
            except UnsupportedModelError as error:
                refused[name] = str(error)
                continue
            stack.callback(context.close)
            caches[name] = context
        yield caches
