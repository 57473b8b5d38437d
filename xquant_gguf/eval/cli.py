"""Command line of ``python -m xquant_gguf.eval``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._measuring import exit_code, parse_kvs, progress_bar, read_text, write_json
from ..config import resolve_kv
from ..errors import ConfigError
from .contexts import Context, Model
from .divergence import measure, windows
from .report import frontier_plot, markdown_table

_DEFAULT_KV = "f16,q8_0,q4_0,kivi2,asymkv1.5,xquant,balanced"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the evaluation; returns the exit code."""
    return exit_code(lambda: _run(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m xquant_gguf.eval",
        description="Quality of KV caches against f16: KL divergence, same top token, perplexity.",
    )
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument(
        "--kv",
        default=_DEFAULT_KV,
        help="comma-separated presets and stock types; settings may follow a name, "
        "as in balanced:sink=0:k_meta=f16",
    )
    parser.add_argument("--text", required=True, help="a text file (UTF-8)")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens to score (4096)")
    parser.add_argument("--ctx", type=int, default=4096, help="context length (4096)")
    parser.add_argument("--skip", type=int, default=256, help="unscored tokens per context (256)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", metavar="FILE", help="write rows here")
    parser.add_argument("--plot", metavar="FILE", help="write the KL / true bits frontier here")
    return parser


def _run(args: argparse.Namespace) -> int:
    kvs = parse_kvs(args.kv)
    text = read_text(args.text)
    model = Model(args.model)
    tokens = model.tokenize(text[: 16 * (args.tokens + args.ctx)])
    texts = windows(tokens, args.ctx, args.skip, args.tokens)
    if not texts:
        raise ConfigError(
            "the text must be longer than --skip tokens",
            f"{len(tokens)} tokens with --skip {args.skip}",
            "give a longer text or a smaller --skip",
        )
    reference = Context(model, resolve_kv("f16"), n_ctx=args.ctx, threads=args.threads)
    caches = {
        name: Context(model, kv, n_ctx=args.ctx, threads=args.threads) for name, kv in kvs.items()
    }
    results = _with_progress(reference, caches, texts, args.skip)
    rows = []
    for name, context in caches.items():
        snapshot = context.snapshot()
        rows.append(
            {
                "kv": name,
                "true_bits": snapshot.true_bits,
                "code_bits": snapshot.code_bits,
                "allocated_bits": snapshot.allocated_bits,
                "bytes": snapshot.bytes_total,
                **results[name].summary(),
                "settings": context.settings(),
            }
        )
    out = {
        "model": Path(args.model).name,
        "text": Path(args.text).name,
        "tokens": rows[0]["tokens"],
        "ctx": args.ctx,
        "skip": args.skip,
        "rows": rows,
    }
    print(markdown_table(out))
    if args.json:
        write_json(args.json, out)
    if args.plot:
        frontier_plot(out, args.plot)
    for context in (reference, *caches.values()):
        context.close()
    model.close()
    return 0


def _with_progress(reference: Context, caches: dict[str, Context], texts: Any, skip: int) -> Any:
    total = sum(len(text) - 1 for text in texts)
    with progress_bar("tokens") as bar:
        task = bar.add_task("", total=total)
        return measure(reference, caches, texts, skip=skip, progress=lambda n: bar.advance(task, n))
