#!/usr/bin/env python3
"""Write tables and plots of what was measured into the documentation.

    tables.py [PAGE ...]        default: README.md and the pages of docs/ with tables

The results lie in docs/results/ as ``python -m xquant_gguf.eval --json`` (wikitext-MODEL,
flags-MODEL) and ``python -m xquant_gguf.bench --json`` (speed-RUN) wrote them. A page has a line
``<!-- table NAME -->`` before a table and ``<!-- end -->`` after it; NAME is ``MODEL`` (the rows
of one model whose ``kv`` is a plain name), ``MODEL flags`` (presets with a setting changed, each
below the preset itself, from one run), ``all`` (mean KL of all models), ``speed RUN`` or
``decode RUN`` (tokens/s alone). The plots, docs/img/frontier-MODEL.png and speed-MODEL.png, need
the package and matplotlib.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from xquant_gguf.bench.report import speed_plot
from xquant_gguf.eval.report import frontier_plot

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
PAGES = ("measured", "quality", "performance")
MODELS = ("smollm2", "qwen", "gemma")
PLOTS = (
    *((f"wikitext-{model}", f"frontier-{model}", frontier_plot) for model in MODELS),
    *((f"speed-{model}", f"speed-{model}", speed_plot) for model in MODELS[:2]),
)

Row = dict[str, Any]


def rows_of(model: str, run: str = "wikitext") -> dict[str, Row]:
    found = json.loads((RESULTS / f"{run}-{model}.json").read_text("utf-8"))
    return {row["kv"]: row for row in found["rows"]}


def preset_of(row: Row) -> str:
    return str(row["kv"]).partition(":")[0]


def with_flags(rows: dict[str, Row]) -> list[Row]:
    """Presets that were run with other settings, and these runs behind each."""
    flagged = {preset_of(row) for name, row in rows.items() if ":" in name}
    order = {name: i for i, name in enumerate(rows)}
    found = [row for row in rows.values() if preset_of(row) in flagged]
    return sorted(found, key=lambda row: order[preset_of(row)])


def of_model(rows: list[Row]) -> list[str]:
    lines = ["| kv | code bits | true bits | KL ± SE | KL 99 % | same top % | perplexity |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| `{row['kv']}` | {row['code_bits']:.2f} | {row['true_bits']:.2f} "
            f"| {row['kl_mean']:.4f} ± {row['kl_se']:.4f} | {row['kl_p99']:.2f} "
            f"| {row['same_top']:.1f} | {row['perplexity']:.2f} |"
        )
    return lines


def of_all() -> list[str]:
    models = [rows_of(model) for model in MODELS]
    lines = ["| kv | code bits | true bits | SmolLM2-135M | Qwen2.5-Coder-0.5B | Gemma-3-270M |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, row in models[0].items():
        if ":" not in name:
            means = " | ".join(f"{m[name]['kl_mean']:.4f}" if name in m else "–" for m in models)
            lines.append(
                f"| `{name}` | {row['code_bits']:.2f} | {row['true_bits']:.2f} | {means} |"
            )
    return lines


def ratio(row: Row, base: Row, key: str) -> str:
    return f"{row[key] / base[key]:.2f}" if row[key] and base[key] else "–"


def number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def of_speed(run: str) -> list[str]:
    rows = json.loads((RESULTS / f"speed-{run}.json").read_text("utf-8"))["rows"]
    lines = ["| depth | kv | decode tokens/s (quartiles) | × f16 | attention ms | × f16 "]
    lines[0] += "| prefill tokens/s | × f16 | KV MiB |"
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        base = next(r for r in rows if r["depth"] == row["depth"] and r["kv"] == "f16")
        lines.append(
            f"| {row['depth']} | `{row['kv']}` | {row['decode_tok_s']:.1f} "
            f"({row['decode_tok_s_q1']:.1f} to {row['decode_tok_s_q3']:.1f}) "
            f"| {ratio(row, base, 'decode_tok_s')} | {number(row['attention_ms'], 2)} "
            f"| {ratio(row, base, 'attention_ms')} | {number(row['prefill_tok_s'], 1)} "
            f"| {ratio(row, base, 'prefill_tok_s')} | {row['kv_bytes'] / 2**20:.1f} |"
        )
    return lines


def of_decode(run: str) -> list[str]:
    rows = json.loads((RESULTS / f"speed-{run}.json").read_text("utf-8"))["rows"]
    depths = sorted({row["depth"] for row in rows})
    lines = ["| kv | " + " | ".join(f"{depth} tokens" for depth in depths) + " |"]
    lines += ["|---" * (1 + len(depths)) + "|"]
    at = {(row["kv"], row["depth"]): row for row in rows}
    for kv in dict.fromkeys(row["kv"] for row in rows):
        cells = [
            f"{at[kv, d]['decode_tok_s']:.1f} ({ratio(at[kv, d], at['f16', d], 'decode_tok_s')})"
            for d in depths
        ]
        lines.append(f"| `{kv}` | " + " | ".join(cells) + " |")
    return lines


def table(name: str) -> str:
    if name == "all":
        lines = of_all()
    elif name.startswith("speed "):
        lines = of_speed(name.partition(" ")[2])
    elif name.startswith("decode "):
        lines = of_decode(name.partition(" ")[2])
    else:
        model, _, flags = name.partition(" ")
        run = "flags" if flags else "wikitext"
        rows = rows_of(model, run)
        plain = [row for name, row in rows.items() if ":" not in name]
        lines = of_model(with_flags(rows) if flags else plain)
    return "\n".join(lines)


def main() -> None:
    pages = [Path(page) for page in sys.argv[1:]]
    docs = ROOT / "docs"
    for page in pages or [ROOT / "README.md", *(docs / f"{name}.md" for name in PAGES)]:
        text = page.read_text("utf-8")
        marked = re.compile(r"(<!-- table ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)
        text = marked.sub(lambda m: f"{m[1]}\n{table(m[2])}\n\n{m[3]}", text)
        page.write_text(text, "utf-8")
    for run, name, plot in PLOTS:
        result = json.loads((RESULTS / f"{run}.json").read_text("utf-8"))
        plot(result, str(docs / "img" / f"{name}.png"))


if __name__ == "__main__":
    main()
