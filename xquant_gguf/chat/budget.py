"""What ``--budget`` chooses: the longest context of a cache, or the cache for a context."""

from __future__ import annotations

import dataclasses

from ..config import XQuantConfig, resolve_kv
from ..errors import OutOfMemoryError, UnsupportedModelError
from ..estimate import Estimator, Room
from ..memory import MIB
from ..plan.rows import BEST_FIRST
from ..stock import StockKV
from . import model
from .arguments import Options

_FEWEST = 256  # contexts are multiples of it


def within(options: Options, path: str) -> Options:
    """The options with the context, or else the cache, that the budget allows.

    Without ``--ctx`` it is the longest context of the cache, at most the model's own. With it, it
    is the cache closest to f16 that fits; one that was named stays.

    Raises:
        OutOfMemoryError: nothing fits; it says what would.
    """
    if options.budget is None:
        return options
    room, threads = Room(budget=options.budget), options.threads or model.default_threads()
    with Estimator(path, gpu_layers=options.gpu_layers) as estimator:
        own = estimator.info.n_ctx_train or model.DEFAULT_CTX

        def longest(kv: XQuantConfig | StockKV, most: int) -> int:
            return estimator.largest_ctx(kv, room, most=most, threads=threads)

        def least(kv: XQuantConfig | StockKV) -> str:
            use = estimator.use(kv, _FEWEST, threads=threads)
            return f"even {_FEWEST} tokens take {use.beside_weights / MIB:,.1f} MiB"

        if options.ctx is None:
            found = longest(options.kv, own)
            if found:
                return dataclasses.replace(options, ctx=found)
            raise _too_small(options, least(options.kv), "give more, or a smaller --kv")
        wanted = options.ctx or own
        names = (options.kv_name,) if options.kv_named else BEST_FIRST
        most, fitting = 0, ""
        for name in names:
            kv = options.kv if options.kv_named else resolve_kv(name)
            try:
                if estimator.use(kv, wanted, threads=threads).fits(room):
                    return dataclasses.replace(options, kv=kv, kv_name=name)
                most = longest(kv, wanted)
                fitting = f"{name} holds {most}" if most else least(kv)
            except UnsupportedModelError:
                if options.kv_named:
                    raise
    raise _too_small(options, fitting, f"try --ctx {most}" if most else "give more")


def _too_small(options: Options, found: str, remedy: str) -> OutOfMemoryError:
    asked = "" if options.ctx is None else f" for {options.ctx or 'all'} tokens"
    size = (options.budget or 0) / MIB
    return OutOfMemoryError(
        "cache and computation must fit into --budget", f"{size:,.1f} MiB{asked}: {found}", remedy
    )
