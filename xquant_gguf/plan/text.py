"""The plan as aligned text, narrow enough for 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from ..estimate import Room
from ..gguf_header import ModelInfo
from .rows import Row

_GIB = 1 << 30
_MIB = 1 << 20


def as_text(info: ModelInfo, rows: Sequence[Row], contexts: Sequence[int], room: Room) -> str:
    """A head, a row for each cache, and what the columns are."""
    some = next((row.uses[contexts[0]] for row in rows if row.uses), None)
    made_for = f", made for {info.n_ctx_train:,} tokens" if info.n_ctx_train else ""
    lines = [f"{info.arch}, {info.n_layers} layers{made_for}"]
    if some is not None:
        lines[0] += f"; weights {_size(some.weights)}"
        if some.recurrent:
            lines.append(f"recurrent states, beside every cache: {_size(some.recurrent)}")
    if room.host is not None:
        lines.append(f"free memory: {_size(room.host)}")
    if room.budget is not None:
        lines.append(f"budget for cache and computation: {_size(room.budget)}")
    table = [["KV cache", *(f"{n:,}" for n in contexts), *(["fits"] if room.known else [])]]
    for row in rows:
        if row.uses:
            cells = [row.kv, *(_size(row.uses[n].kv) for n in contexts)]
            table.append([*cells, *([] if row.longest is None else [f"{row.longest:,}"])])
    widths = [max(map(len, column)) for column in zip(*table)]
    lines.append("")
    for first, *rest in table:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:])]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    lines += [f"{row.kv}: {row.refusal}" for row in rows if row.refusal]
    if some is not None:
        most = max(row.uses[contexts[-1]].compute for row in rows if row.uses)
        lines.append(f"\nComputation takes up to {_size(most)} more.")
    if room.known:
        lines.append("fits: tokens for which there is room, at most what the model was made for.")
    return "\n".join(lines)


def _size(count: int) -> str:
    return f"{count / _GIB:.2f} GiB" if count >= _GIB else f"{count / _MIB:.0f} MiB"
