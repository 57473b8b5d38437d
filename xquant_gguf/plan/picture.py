"""The plan as curves: bytes of the cache over context."""

from __future__ import annotations

from collections.abc import Sequence

from .._measuring import load_pyplot, save_plot
from .rows import Row


def plan_plot(rows: Sequence[Row], path: str) -> None:
    """Draw one curve for each cache.

    Args:
        path: a file whose name says the kind of picture.
    """
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for row in rows:
        if row.uses:
            sizes = [use.kv / (1 << 30) for use in row.uses.values()]
            axes.plot(list(row.uses), sizes, marker="o", label=row.kv)
    axes.set_xlabel("context, tokens")
    axes.set_ylabel("KV cache, GiB")
    axes.set_ylim(bottom=0)
    axes.legend()
    save_plot(figure, path)
    pyplot.close(figure)
