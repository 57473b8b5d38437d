#!/usr/bin/env python3
"""Fill a whole context with each cache in a process of its own, and compare the processes' memory.

    fill.py model.gguf TEXT --kv f16,balanced --ctx 8192 [--repeat 2048]

Linux only (reads /proc). Prints a Markdown table: bytes of the cache as reported, memory that
the process holds with the context full, its peak, and what is saved of f16 by the process and by
the cache. With --repeat N stock caches are filled beyond N tokens with the rows they hold (as
in ``python -m xquant_gguf.bench``); their peak is then that of copying and is left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from pathlib import Path

from xquant_gguf._measuring import parse_kvs
from xquant_gguf.bench.repeat import repeat_to
from xquant_gguf.eval.contexts import Context, Model
from xquant_gguf.stock import StockKV

MB = 1e6


def status(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def fill(args: argparse.Namespace) -> None:
    """One cache in this process; prints one line of JSON."""
    ((_, kv),) = parse_kvs(args.kv, args.model).items()
    model = Model(args.model)
    context = Context(model, kv, n_ctx=args.ctx, threads=args.threads, batch=512)
    tokens = model.tokenize(Path(args.text).read_text("utf-8")[: 8 * args.ctx])[: args.ctx - 64]
    short_cut = args.repeat and isinstance(kv, StockKV) and args.repeat < len(tokens)
    context.feed(tokens[: args.repeat] if short_cut else tokens, logits="last")
    if short_cut:
        repeat_to(context, len(tokens))
        gc.collect()
        context.feed(tokens[:1], logits="last")
    print(
        json.dumps(
            {
                "cache": context.snapshot().bytes_total,
                "full": status("VmRSS"),
                "peak": None if short_cut else status("VmHWM"),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of processes with a full context.")
    parser.add_argument("model")
    parser.add_argument("text", help="a text file longer than the context")
    parser.add_argument("--kv", default="f16,lossless,quality,balanced,small,tiny")
    parser.add_argument("--ctx", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=0)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        fill(args)
        return
    names = list(parse_kvs(f"f16,{args.kv}", args.model))
    found = {}
    for name in names:
        rest = [f"--ctx={args.ctx}", f"--threads={args.threads}", f"--repeat={args.repeat}"]
        command = [sys.executable, __file__, args.model, args.text, "--kv", name, *rest, "--one"]
        found[name] = json.loads(subprocess.run(command, check=True, stdout=-1, text=True).stdout)
    print("| kv | cache MB | process, full MB | peak MB | process saves | cache saves | ratio |")
    print("|---|---|---|---|---|---|---|")
    f16 = found["f16"]
    for name, row in found.items():
        saved, less = f16["full"] - row["full"], f16["cache"] - row["cache"]
        peak = f"{row['peak'] / MB:.1f}" if row["peak"] else "–"
        ratio = f"{saved / less:.2f}" if less else "–"
        print(
            f"| `{name}` | {row['cache'] / MB:.1f} | {row['full'] / MB:.1f} | {peak} "
            f"| {saved / MB:.1f} | {less / MB:.1f} | {ratio} |"
        )


if __name__ == "__main__":
    main()
