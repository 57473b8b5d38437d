"""Measure the packed cache on tiny models of every architecture, and write docs/models.md.

    python python/archs/table.py --lib build/dev/bin docs/results/models.json docs/models.md

Rows that the JSON file has already are kept; delete it to measure all again. Takes half an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agreement import F16_RAN, HERE, write
from specs import SPECS

SHAPE = "shape-"
CONTEXTS = (4096, 32768)
KINDS = ("f16", "q8_0", "q4_0", "quality", "balanced", "balanced:swa=packed", "tiny")


def names() -> list[str]:
    """Every spec, and every architecture that the package gguf knows besides them."""
    from gguf.constants import MODEL_ARCH_NAMES

    known = {arch for arch, *_ in SPECS.values()}
    return [*SPECS, *sorted(set(MODEL_ARCH_NAMES.values()) - known)]


def child(arguments: list[str], library: Path) -> dict[str, Any] | str:
    """The JSON that a process prints, or why it printed none."""
    path = os.pathsep.join((str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")))
    env = {**os.environ, "XQUANT_GGUF_LIB": str(library), "PYTHONPATH": path}
    try:
        done = subprocess.run(
            [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=900
        )
    except subprocess.TimeoutExpired:
        return "fails: takes longer than 15 minutes"
    lines = done.stdout.splitlines()
    if done.returncode == 0 and lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    said = [line for line in done.stderr.splitlines() if "Error" in line or "ASSERT" in line]
    why = re.sub(
        r"\S*/(?=llama\.cpp/)| \(/\S*\)", "", (said or [f"exit status {done.returncode}"])[-1]
    )
    return f"fails: {why}" if F16_RAN in done.stderr else f"no file that f16 can run: {why}"


def measure(name: str, library: Path) -> dict[str, Any]:
    """One row: agreement for small models, bytes for the shapes of released ones."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = write(name, Path(folder), library)
        except subprocess.CalledProcessError:
            return {"name": name, "outcome": "no file: the loader wants other keys"}
        tool = "bytes_of.py" if name.startswith(SHAPE) else "agreement.py"
        found = child([str(HERE / tool), name, str(path)], library)
    return found if isinstance(found, dict) else {"name": name, "outcome": found}


def agreement_rows(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| model | packed layers | nothing sealed | sealed | `q4_0` |"
    yield "|---|---|---|---|---|"
    for row in rows:
        if row["outcome"] == "packed":
            packed, layers = row["layers"]
            errors = (row["exact"], row["sealed"], row["q4_0"])
            cells = [f"{x:.1e}" if x is not None else "refused" for x in errors]
            yield f"| {row['name']} | {packed} of {layers} | " + " | ".join(cells) + " |"


def other_rows(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| model | outcome |"
    yield "|---|---|"
    for row in rows:
        if row["outcome"] != "packed" and "bytes" not in row:
            yield f"| {row['name']} | {row['outcome'].replace('|', '/')} |"


def byte_rows(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| shape | tokens | " + " | ".join(f"`{kind}`" for kind in KINDS) + " |"
    yield "|---|---|" + "---|" * len(KINDS)
    for row in rows:
        for n_ctx, found in row.get("bytes", {}).items():
            cells = " | ".join(f"{found[kind] / 1e6:,.0f}" for kind in KINDS)
            yield f"| {row['name'].removeprefix(SHAPE)} | {int(n_ctx):,} | {cells} |"


def page(rows: list[dict[str, Any]]) -> str:
    """docs/models.md."""
    packed = [row for row in rows if row["outcome"] == "packed"]
    parts = [
        "# Models",
        "<!-- written by python/archs/table.py -->",
        "What the packed cache does with each architecture that llama.cpp knows. The models are"
        " tiny and their weights random: they show that a cache is right, not how good it is on"
        " real text (that is [quality.md](quality.md)). Most real models of these kinds were"
        " not at hand.",
        f"## Packed: {len(packed)} models",
        "600 tokens are read and 64 more follow one by one. The figures are the squared error of"
        " their logits, divided by the logits' variance, against `f16` without flash attention."
        " With nothing sealed (`lossless`, window 4096) only masks, scales, caps, sinks, head dims"
        " are tested; mixtures of experts may choose other experts after a rounding error. `sealed`"
        " is `lossless` as it is.",
        "\n".join(agreement_rows(rows)),
        "## Not packed",
        "\n".join(other_rows(rows)),
        "## Memory",
        "Megabytes of the whole cache, as `llm.kv_cache.bytes_total` counts what is allocated, with"
        " layers, heads and windows of released models. Window layers keep their window and a"
        " micro-batch (`swa_full=False`) in all columns.",
        "\n".join(byte_rows(rows)),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lib", type=Path, required=True)
    parser.add_argument("results", type=Path)
    parser.add_argument("page", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = (
        json.loads(args.results.read_text()) if args.results.exists() else []
    )
    have = {row["name"] for row in rows}
    for name in names():
        if name not in have:
            rows.append(measure(name, args.lib.resolve()))
            print(rows[-1], flush=True)
            args.results.write_text(json.dumps(rows, indent=1) + "\n")
    args.page.write_text(page(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
