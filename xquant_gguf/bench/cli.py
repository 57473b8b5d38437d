"""Command line of ``python -m xquant_gguf.bench``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._measuring import (
    check_output,
    check_plot,
    exit_code,
    parse_kvs,
    progress_bar,
    read_text,
    write_json,
)
from .._tables import show
from ..config import XQuantConfig
from ..errors import ConfigError, OutOfMemoryError
from ..eval.contexts import Context, Model
from ..gguf_header import ModelInfo, read_header
from ..memory import MIB, available_bytes, cache_bytes, padded_ctx
from ..stock import StockKV
from .filler import make_text
from .report import markdown_table, speed_plot
from .speed import measure

_DEFAULT_KV = "f16,q8_0,q4_0,balanced"
_SPARE = 64  # cells beyond the deepest token: undone steps may leave some that cannot be reused


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return exit_code(lambda: _run(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m xquant_gguf.bench",
        description="Speed and size of KV caches side by side, in turns, in one run.",
    )
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument(
        "--kv",
        default=_DEFAULT_KV,
        help=f"comma-separated presets, stock types and auto ({_DEFAULT_KV}); settings may "
        "follow a name, as in balanced:window=64",
    )
    parser.add_argument(
        "--depth",
        default="0,2048,8192",
        help="comma-separated numbers of tokens in the cache (0,2048,8192); 0 is always measured, "
        "attention time is the difference from it",
    )
    parser.add_argument("--text", metavar="FILE", help="fill with this text (default: made up)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch", type=int, default=512, help="prompt tokens fed at once (512)")
    parser.add_argument(
        "--repeat",
        type=int,
        default=0,
        metavar="N",
        help="fill stock caches beyond N tokens by repeating the rows they hold, which leaves "
        "no prefill time but cells of the same number and type (0: a real prompt for all)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each cache (3)")
    parser.add_argument("--steps", type=int, default=16, help="timed steps in a turn (16)")
    parser.add_argument("--json", metavar="FILE", help="write rows here, after every depth")
    parser.add_argument("--plot", metavar="FILE", help="draw speed over depth here")
    return parser


def parse_depths(text: str) -> list[int]:
    """Depths in ascending order, 0 always among them.

    Raises:
        ConfigError: not a list of whole numbers of 0 or more.
    """
    try:
        depths = {int(item) for item in text.split(",") if item.strip()}
    except ValueError:
        depths = {-1}
    if min(depths, default=-1) < 0:
        raise ConfigError(
            "--depth is a list of whole numbers, 0 or more", repr(text), "try 0,2048,8192"
        )
    return sorted(depths | {0})


def fill_tokens(model: Model, wanted: int, path: str | None) -> list[int]:
    """The first ``wanted`` tokens of a file, or of made-up text.

    Raises:
        ConfigError: the file cannot be read or is too short.
    """
    text = make_text(wanted) if path is None else read_text(path)[: 16 * wanted]
    tokens = model.tokenize(text)[:wanted]
    if len(tokens) < wanted:
        raise ConfigError(
            f"the text must have {wanted} tokens, one more than the largest --depth",
            f"{len(tokens)} tokens",
            "give a longer --text or a smaller --depth",
        )
    return tokens


def check_memory(
    info: ModelInfo,
    kvs: Mapping[str, XQuantConfig | StockKV],
    n_ctx: int,
    available: int | None,
) -> None:
    """Refuse caches that together exceed the memory there is: they all exist at the same time.

    Raises:
        OutOfMemoryError: they do.
    """
    needed = sum(cache_bytes(info, kv, n_ctx) for kv in kvs.values())
    if available is not None and info.plain and needed > available:
        raise OutOfMemoryError(
            f"all caches together must fit into the {available / MIB:,.0f} MiB of memory available",
            f"{needed / MIB:,.0f} MiB at {n_ctx} tokens",
            "use fewer --kv or a smaller --depth",
        )


def _run(args: argparse.Namespace) -> int:
    kvs, depths = parse_kvs(args.kv, args.model), parse_depths(args.depth)
    for option in ("threads", "batch", "rounds", "steps"):
        if getattr(args, option) < 1:
            raise ConfigError(f"--{option} must be 1 or more", getattr(args, option))
    if args.repeat < 0:
        raise ConfigError("--repeat must be 0 or more", args.repeat)
    if args.json:
        check_output("--json", args.json)
    if args.plot:
        check_plot(args.plot)
    n_ctx = padded_ctx(depths[-1] + _SPARE)
    check_memory(read_header(args.model), kvs, n_ctx, available_bytes())
    result: dict[str, Any] = {
        "model": Path(args.model).name,
        "threads": args.threads,
        "rows": [],
    }
    interrupted = False
    try:
        _measure_into(result, args, kvs, depths, n_ctx)
    except KeyboardInterrupt:
        interrupted = True
    if result["rows"]:
        show(markdown_table(result, rounds=args.rounds, steps=args.steps, n_ctx=n_ctx))
        if args.plot:
            speed_plot(result, args.plot)
    if interrupted:
        done = len({row["depth"] for row in result["rows"]})
        print(f"interrupted: {done} of {len(depths)} depths measured", file=sys.stderr)
    return 130 if interrupted else 0


def _measure_into(
    result: dict[str, Any],
    args: argparse.Namespace,
    kvs: Mapping[str, XQuantConfig | StockKV],
    depths: Sequence[int],
    n_ctx: int,
) -> None:
    """Add rows to ``result`` as depths are done, and keep them in --json."""
    with contextlib.ExitStack() as stack:
        model = Model(args.model)
        stack.callback(model.close)
        tokens = fill_tokens(model, depths[-1] + 1, args.text)
        caches: dict[str, Context] = {}
        for name, kv in kvs.items():
            context = Context(
                model,
                kv,
                n_ctx=n_ctx,
                threads=args.threads,
                batch=args.batch,
                # All caches alike; but repeated rows must all be there.
                swa_full=None if args.repeat else False,
            )
            stack.callback(context.close)
            caches[name] = context
        bar = stack.enter_context(progress_bar("tokens"))
        total = len(kvs) * (depths[-1] + len(depths) * args.rounds * args.steps)
        task = bar.add_task("", total=total)
        for rows in measure(
            caches,
            tokens,
            depths,
            batch=args.batch,
            rounds=args.rounds,
            steps=args.steps,
            repeat=args.repeat,
            progress=lambda what, n: bar.update(task, description=what, advance=n),
        ):
            result["rows"] += [dataclasses.asdict(row) for row in rows]
            if args.json:
                write_json(args.json, result)
