"""Results as a Markdown table and as the KL / true-bits frontier."""

from __future__ import annotations

from typing import Any

from .._measuring import load_pyplot

_MIB = 1024 * 1024


def markdown_table(result: dict[str, Any]) -> str:
    """One row a cache, with what was measured on top."""
    lines = [
        f"{result['model']}, {result['text']}, {result['tokens']} scored tokens, "
        f"context {result['ctx']}, first {result['skip']} tokens of each context not scored",
        "",
        "| kv | code bits | true bits | KV MiB | KL ± SE | KL 99 % | same top % | perplexity |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['kv']} | {row['code_bits']:.2f} | {row['true_bits']:.2f} "
        f"| {row['bytes'] / _MIB:.1f} | {row['kl_mean']:.4f} ± {row['kl_se']:.4f} "
        f"| {row['kl_p99']:.3f} | {row['same_top']:.1f} | {row['perplexity']:.2f} |"
        for row in result["rows"]
    ]
    return "\n".join(lines)


def frontier_plot(result: dict[str, Any], path: str) -> None:
    """Mean KL (log scale) against true bits; stock types hollow.

    Raises:
        LibraryError: matplotlib is not installed.
    """
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for row in result["rows"]:
        if row["kl_mean"] <= 0:
            continue
        packed = "=" in row["settings"]
        axes.errorbar(
            row["true_bits"],
            row["kl_mean"],
            yerr=row["kl_se"],
            fmt="o",
            color="tab:blue" if packed else "tab:gray",
            markerfacecolor="tab:blue" if packed else "white",
        )
        axes.annotate(
            row["kv"],
            (row["true_bits"], row["kl_mean"]),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_yscale("log")
    axes.set_xlabel("true bits per element (codes, scales, zero points, padding)")
    axes.set_ylabel("mean KL from the f16 cache (nats)")
    axes.set_title(f"{result['model']}: {result['text']}, {result['tokens']} tokens")
    axes.grid(True, which="both", alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
