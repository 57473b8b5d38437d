"""Memory by cache and context, and the cache to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..config import XQuantConfig
from ..errors import UnsupportedModelError
from ..estimate import Estimator, MemoryUse, Room
from ..memory import padded_ctx
from ..stock import StockKV

Caches = Mapping[str, "XQuantConfig | StockKV"]

BEST_FIRST = ("f16", "lossless", "quality", "balanced", "small", "tiny")
"""From the closest to f16 to the smallest: the first that holds enough is recommended."""

_USUAL = (4096, 8192, 16384, 32768, 65536, 131072)


@dataclass(frozen=True)
class Row:
    """One cache: what it takes at each context, and the longest context that fits.

    Attributes:
        kv: its name.
        uses: by context in tokens.
        longest: tokens that fit beside the model, at most what the model was made for; None if
            nothing is known that limits them.
        refusal: why the model cannot have this cache, else "".
    """

    kv: str
    uses: Mapping[int, MemoryUse]
    longest: int | None
    refusal: str = ""


def contexts_for(n_ctx_train: int) -> list[int]:
    """Contexts worth a column: 4k, 8k and 32k always, others up to the model's own length."""
    wanted = {4096, 8192, 32768, *(n for n in _USUAL if n <= n_ctx_train)}
    return sorted(wanted | ({padded_ctx(n_ctx_train)} if n_ctx_train else set()))


def rows_of(
    estimator: Estimator,
    kvs: Caches,
    contexts: Sequence[int],
    room: Room,
    *,
    threads: int,
    sequences: int = 1,
) -> list[Row]:
    """A row for each cache; one that the model cannot have says why."""
    made = []
    for name, kv in kvs.items():
        try:
            uses = {n: estimator.use(kv, n, threads=threads, sequences=sequences) for n in contexts}
            longest = None
            if room.known:
                longest = estimator.largest_ctx(
                    kv,
                    room,
                    most=estimator.info.n_ctx_train or contexts[-1],
                    threads=threads,
                    sequences=sequences,
                )
            made.append(Row(name, uses, longest))
        except UnsupportedModelError as error:
            made.append(Row(name, {}, None, str(error)))
    return made


def advice(rows: Sequence[Row], n_ctx_train: int) -> str:
    """One sentence: which cache to take, and how much longer its context is than f16's."""
    ranked = [row for name in BEST_FIRST for row in rows if row.kv == name]
    able = [row for row in ranked if row.longest]
    if not able:
        return "None of these caches fits."
    best = next((row for row in able if row.longest == n_ctx_train), None)
    if best is None:
        best = next((row for row in able if row.kv == "balanced"), able[-1])
        held = f"{best.longest:,} tokens fit, of the {n_ctx_train:,} that the model was made for"
    else:
        held = f"all {n_ctx_train:,} tokens fit that the model was made for"
    other = next((row for row in rows if row.kv == "f16" and row is not best), None)
    if best.kv == "f16":
        return f"`f16`: {held}; a packed cache leaves more memory to other programs."
    return f"`{best.kv}`: {held}" + (f"; with f16 {other.longest or 0:,}." if other else ".")
