"""Results as a Markdown table with ratios to f16, and as curves over depth."""

from __future__ import annotations

from typing import Any

from .._measuring import load_pyplot, save_plot

_MIB = 1024 * 1024
_BASE = "f16"
_NONE = "–"

_NOTES = """\
× = ratio to f16 in this run. Brackets hold the quartiles of the timed steps. Attention is not
timed by itself: it is the median decode step at this depth minus the one at depth 0. Decode steps
are undone, so none of them pays for sealing a tile (once every 32 tokens); prefill does, and is
timed in one pass.
"""


def markdown_table(result: dict[str, Any], *, rounds: int, steps: int, n_ctx: int) -> str:
    """One row a depth and cache, with how it was measured around it."""
    base = {row["depth"]: row for row in result["rows"] if row["kv"] == _BASE}
    lines = [
        f"{result['model']}, threads: {result['threads']}; decode: median of {rounds} rounds of "
        f"{steps} steps; KV MiB at a context of {n_ctx} tokens",
        "",
        "| depth | kv | decode tokens/s | × | prefill tokens/s | × "
        "| attention ms | × | KV MiB | × |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        low, high = row["decode_tok_s_q1"], row["decode_tok_s_q3"]
        cells = [
            f"{row['depth']} | {row['kv']}",
            f"{row['decode_tok_s']:.1f} [{low:.1f}, {high:.1f}]",
            _ratio(row, base, "decode_tok_s"),
            _number(row["prefill_tok_s"], 1),
            _ratio(row, base, "prefill_tok_s"),
            _number(row["attention_ms"], 2),
            _ratio(row, base, "attention_ms"),
            f"{row['kv_bytes'] / _MIB:.1f}",
            _ratio(row, base, "kv_bytes"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _NOTES])


def _number(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _ratio(row: dict[str, Any], base: dict[int, dict[str, Any]], name: str) -> str:
    below = base.get(row["depth"], {}).get(name)
    if row[name] is None or below is None or below <= 0:
        return _NONE
    return f"{row[name] / below:.2f}"


def speed_plot(result: dict[str, Any], path: str) -> None:
    """Decode and prefill speed and attention time over depth, one curve a cache.

    Raises:
        LibraryError: matplotlib is not installed.
    """
    pyplot = load_pyplot()
    panels = (
        ("decode_tok_s", "decode, tokens/s"),
        ("prefill_tok_s", "prefill up to this depth, tokens/s"),
        ("attention_ms", "decode step minus that at depth 0, ms"),
    )
    figure, all_axes = pyplot.subplots(1, len(panels), figsize=(14, 4.5), layout="constrained")
    for axes, (name, label) in zip(all_axes, panels):
        for kv in dict.fromkeys(row["kv"] for row in result["rows"]):
            rows = [r for r in result["rows"] if r["kv"] == kv and r[name] is not None]
            depths, values = [r["depth"] for r in rows], [r[name] for r in rows]
            if f"{name}_q1" in result["rows"][0]:
                below = [max(0.0, r[name] - r[f"{name}_q1"]) for r in rows]
                above = [max(0.0, r[f"{name}_q3"] - r[name]) for r in rows]
                axes.errorbar(depths, values, yerr=(below, above), marker="o", label=kv, capsize=2)
            else:
                axes.plot(depths, values, marker="o", label=kv)
        axes.set_xlabel("depth (tokens in the cache)")
        axes.set_ylabel(label)
        if min((r[name] or 0.0) for r in result["rows"]) >= 0:  # a difference may be negative
            axes.set_ylim(bottom=0)
        axes.grid(True, alpha=0.3)
    all_axes[0].legend(fontsize=8)
    figure.suptitle(f"{result['model']}, threads: {result['threads']}")
    save_plot(figure, path)
    pyplot.close(figure)
