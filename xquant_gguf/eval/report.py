"""Results as Markdown tables and as the KL / true-bits frontier."""

from __future__ import annotations

from typing import Any

from .._measuring import load_pyplot, save_plot

_MIB = 1024 * 1024


def markdown(result: dict[str, Any]) -> str:
    """A table for each part that was measured, one row a cache."""
    rows = result["rows"]
    tables = []
    if result["tokens"]:
        tables.append(_divergence(result))
    if "retrieval" in rows[0]:
        tables.append(_retrieval(result))
    if "truthfulqa" in rows[0]:
        tables.append(_truthfulqa(result))
    return "\n\n".join(tables)


def _divergence(result: dict[str, Any]) -> str:
    lines = [
        f"{result['model']}, {result['text']}, {result['tokens']} scored tokens, "
        f"context {result['ctx']}, first {result['skip']} tokens of each context not scored",
        "",
        "± is the standard error over tokens",
        "",
        "| kv | code bits | true bits | KV MiB | KL | KL 99 % | same top % | perplexity |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['kv']} | {row['code_bits']:.2f} | {row['true_bits']:.2f} "
        f"| {row['bytes'] / _MIB:.1f} | {row['kl_mean']:.4f} ± {row['kl_se']:.4f} "
        f"| {row['kl_p99']:.3f} ± {row['kl_p99_se']:.3f} "
        f"| {row['same_top']:.1f} ± {row['same_top_se']:.1f} "
        f"| {row['perplexity']:.2f} ± {row['perplexity_se']:.2f} |"
        for row in result["rows"]
    ]
    return "\n".join(lines)


def _retrieval(result: dict[str, Any]) -> str:
    lengths = result["rows"][0]["retrieval"]
    head = "".join(f" {n} pairs ({each['prompt_tokens']:.0f}) |" for n, each in lengths.items())
    prompts = next(iter(lengths.values()))["n"]
    lines = [
        f"{result['model']}, key-value retrieval: values found word for word, % ± SE of {prompts} "
        "prompts (tokens of a prompt in brackets)",
        "",
        f"| kv | true bits |{head}",
        "|---|---|" + "---|" * len(lengths),
    ]
    for row in result["rows"]:
        cells = "".join(
            f" {one['hits']:.0f} ± {one['se']:.0f} |" for one in row["retrieval"].values()
        )
        lines.append(f"| {row['kv']} | {row['true_bits']:.2f} |{cells}")
    return "\n".join(lines)


def _truthfulqa(result: dict[str, Any]) -> str:
    first = result["rows"][0]["truthfulqa"]
    lines = [
        f"{result['model']}, TruthfulQA: {first['n']} questions behind a prompt of "
        f"{first['prompt_tokens']} tokens, % ± SE. Greedy F1: the greedy answer shares more words "
        "with a correct answer than with any incorrect one, a stand-in for a judge",
        "",
        "| kv | true bits | MC1 | MC2 | greedy F1 |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        found = row["truthfulqa"]
        cells = "".join(
            f" {found[name]:.1f} ± {found[name + '_se']:.1f} |" for name in ("mc1", "mc2", "greedy")
        )
        lines.append(f"| {row['kv']} | {row['true_bits']:.2f} |{cells}")
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
    save_plot(figure, path)
    pyplot.close(figure)
