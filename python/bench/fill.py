#!/usr/bin/env python3
"""Fill a whole context and compare the process's memory with what the cache reports.

    fill.py model.gguf TEXT --kv balanced --ctx 32768

Linux only (reads /proc). One line of JSON: bytes resident after loading, after the first
micro-batches (weights and compute buffers in use) and with the context full; bytes of the
cache by kind; what an f16 cache would take.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from xquant_gguf import Llama


def resident() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of a process with a full context.")
    parser.add_argument("model")
    parser.add_argument("text", help="a text file longer than the context")
    parser.add_argument("--kv", default="balanced")
    parser.add_argument("--ctx", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    threads = {"n_threads": args.threads, "n_threads_batch": args.threads}
    llm = Llama(args.model, n_ctx=args.ctx, kv=args.kv, verbose=False, **threads)
    loaded = resident()
    text = Path(args.text).read_bytes()[: 8 * args.ctx]
    tokens = llm.tokenize(text)[: llm.n_ctx() - 1]
    llm.eval(tokens[:1024])
    warm = resident()
    llm.eval(tokens[1024:])
    figures = llm.kv_cache.as_dict()
    kept = {k: v for k, v in figures.items() if k.startswith("bytes") or k == "tokens"}
    print(json.dumps({"kv": args.kv, "loaded": loaded, "warm": warm, "full": resident(), **kept}))


if __name__ == "__main__":
    main()
