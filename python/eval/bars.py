"""Check measured quality against the project's bars: python python/eval/bars.py RESULT.json ...

Every file is a result of ``python -m xquant_gguf.eval --json`` with the stock types and presets
that the bars compare. Prints a Markdown table a model; exit code 1 if a bar is missed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

Rows = dict[str, dict[str, Any]]


class Bar(NamedTuple):
    """``preset`` has at most ``limit(rows)`` of what ``field`` says."""

    preset: str
    what: str
    field: str
    limit: Callable[[Rows], float]


def times(factor: float, of: str) -> Callable[[Rows], float]:
    """A limit relative to another cache's mean KL."""
    return lambda rows: factor * float(rows[of]["kl_mean"])


def at_most(value: float) -> Callable[[Rows], float]:
    """A fixed limit."""
    return lambda rows: value


BARS = (
    Bar("lossless", "true bits ≤ 4.6", "true_bits", at_most(4.6)),
    Bar("lossless", "KL ≤ 1.2 × q8_0", "kl_mean", times(1.2, "q8_0")),
    Bar("quality", "true bits ≤ 2.9", "true_bits", at_most(2.9)),
    Bar("quality", "KL ≤ 1/3 × q4_0", "kl_mean", times(1 / 3, "q4_0")),
    Bar("balanced", "true bits ≤ 2.4", "true_bits", at_most(2.4)),
    Bar("balanced", "KL ≤ q4_0", "kl_mean", times(1.0, "q4_0")),
    Bar("small", "true bits ≤ 1.9", "true_bits", at_most(1.9)),
    Bar("small", "KL ≤ 1.5 × q4_0", "kl_mean", times(1.5, "q4_0")),
    Bar("small", "KL ≤ 0.6 × kivi2", "kl_mean", times(0.6, "kivi2")),
    Bar("tiny", "true bits ≤ 1.7", "true_bits", at_most(1.7)),
    Bar("tiny", "code bits ≤ 1.4", "code_bits", at_most(1.4)),
    Bar("tiny", "KL ≤ 0.95 × kivi2", "kl_mean", times(0.95, "kivi2")),
    Bar("tiny", "KL ≤ 0.3 × asymkv1.5", "kl_mean", times(0.3, "asymkv1.5")),
    Bar("xquant", "code bits ≤ 1.4", "code_bits", at_most(1.4)),
    Bar("xquant", "KL ≤ 0.5 × xquant-paper", "kl_mean", times(0.5, "xquant-paper")),
)


def check(result: dict[str, Any]) -> bool:
    """Print the table of one model; whether all its bars hold."""
    rows = {row["kv"]: row for row in result["rows"]}
    good = True
    print(f"{result['model']}, {result['text']}, {result['tokens']} scored tokens\n")
    print("| preset | bar | limit | measured | |\n|---|---|---|---|---|")
    for bar in BARS:
        limit, value = bar.limit(rows), float(rows[bar.preset][bar.field])
        met = value <= limit
        good &= met
        verdict = "ok" if met else "**missed**"
        print(f"| `{bar.preset}` | {bar.what} | {limit:.4f} | {value:.4f} | {verdict} |")
    print()
    return good


def main() -> int:
    """All files of the command line."""
    results = [json.loads(Path(name).read_text("utf-8")) for name in sys.argv[1:]]
    if not results:
        print(__doc__)
        return 2
    missed = [result for result in results if not check(result)]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
