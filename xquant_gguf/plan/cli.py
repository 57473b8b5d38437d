"""Command line of ``python -m xquant_gguf.plan``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from .._measuring import check_output, check_plot, exit_code, parse_kvs, write_json
from .._sizes import bytes_of
from ..errors import ConfigError
from ..estimate import Estimator, Room
from ..memory import available_bytes
from .picture import plan_plot
from .rows import Row, advice, contexts_for, rows_of
from .text import as_text

_DEFAULT_KV = "f16,q8_0,q4_0,lossless,quality,balanced,small,tiny"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan; returns the exit code."""
    return exit_code(lambda: _run(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m xquant_gguf.plan",
        description="What weights, cache and computation take in memory, from the file's header "
        "alone: the model is not loaded.",
    )
    add = parser.add_argument
    add("model", help="a GGUF file")
    add(
        "--kv",
        default=_DEFAULT_KV,
        help=f"comma-separated caches ({_DEFAULT_KV}); auto loads the model once to measure it",
    )
    add(
        "--ctx",
        metavar="N,...",
        help="contexts in tokens (default: 4096, 8192, 32768 and others up to the model's own)",
    )
    add(
        "--budget",
        metavar="SIZE",
        help="memory for cache and computation, weights not counted (default: what is free)",
    )
    add("--gpu-layers", type=int, default=0, metavar="N", help="layers on the GPU, -1 for all")
    add("--threads", type=int, default=os.cpu_count() or 4, metavar="N", help="CPU threads")
    add("--sequences", type=int, default=1, metavar="N", help="chats that share the cache")
    add("--json", metavar="FILE", help="write all figures, in bytes")
    add("--plot", metavar="FILE", help="draw memory over context (needs matplotlib)")
    return parser


def _run(args: argparse.Namespace) -> int:
    kvs = parse_kvs(args.kv, args.model)
    for option, least in (("threads", 1), ("sequences", 1), ("gpu_layers", -1)):
        if getattr(args, option) < least:
            name = f"--{option.replace('_', '-')}"
            raise ConfigError(f"{name} is {least} or more", getattr(args, option))
    room = Room(available_bytes(), bytes_of(args.budget) if args.budget else None)
    if args.json:
        check_output("--json", args.json)
    if args.plot:
        check_plot(args.plot)
    with Estimator(args.model, gpu_layers=args.gpu_layers) as estimator:
        info = estimator.info
        contexts = _contexts(args.ctx) or contexts_for(info.n_ctx_train)
        rows = rows_of(
            estimator, kvs, contexts, room, threads=args.threads, sequences=args.sequences
        )
    sentence = advice(rows, info.n_ctx_train)
    print(as_text(info, rows, contexts, room))
    print(f"\n{sentence}")
    if args.json:
        write_json(args.json, as_dict(args.model, rows, sentence))
    if args.plot:
        plan_plot(rows, args.plot)
    return 0


def as_dict(model: str, rows: Sequence[Row], sentence: str) -> dict[str, Any]:
    """The plan as JSON holds it: one entry for each cache and context, sizes in bytes."""
    return {
        "model": model,
        "advice": sentence,
        "longest": {row.kv: row.longest for row in rows},
        "refused": {row.kv: row.refusal for row in rows if row.refusal},
        "rows": [
            {
                "kv": row.kv,
                "n_ctx": n_ctx,
                "bytes_kv": use.kv,
                "bytes_recurrent": use.recurrent,
                "bytes_weights": use.weights,
                "bytes_compute": use.compute,
                "bytes_total": use.total,
            }
            for row in rows
            for n_ctx, use in row.uses.items()
        ],
    }


def _contexts(text: str | None) -> list[int]:
    if text is None:
        return []
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or found[0] < 1 or found[-1] >= 2**31 - 256:
        raise ConfigError("--ctx is a list of tokens, each 1 or more", text, "try 4096,32768")
    return found
