"""Options of ``python -m xquant_gguf.eval``, checked before anything is loaded."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from .._measuring import check_output, check_plot
from ..errors import ConfigError

_DEFAULT_KV = "f16,q8_0,q4_0,lossless,quality,balanced,small,tiny,xquant,kivi2"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options as given; only their form is checked."""
    parser = argparse.ArgumentParser(
        prog="python -m xquant_gguf.eval",
        description="Quality of KV caches against f16: KL divergence, same top token and "
        "perplexity of a text, key-value retrieval, TruthfulQA.",
    )
    add = parser.add_argument
    add("model", help="a GGUF file")
    add(
        "--kv",
        default=_DEFAULT_KV,
        help="comma-separated presets, stock types and auto (bits by layer); settings "
        "may follow a name, as in balanced:sink=0:window=64",
    )
    add("--data", metavar="DIR", help="folder with wikitext-2/, kv-retrieval/ and truthfulqa/")
    add("--text", metavar="FILE", help="a text file (UTF-8) in place of DIR's WikiText-2")
    add("--tokens", type=int, default=4096, help="tokens of the text to score (4096); 0 for none")
    add("--ctx", type=int, default=4096, help="context length for the text (4096)")
    add("--skip", type=int, default=256, help="unscored tokens per context (256)")
    add(
        "--retrieval",
        type=int,
        default=0,
        metavar="N",
        help="key-value retrieval with N prompts of each length (0)",
    )
    add(
        "--retrieval-pairs",
        default="10,20,40,75",
        metavar="LIST",
        help="lengths of these prompts in key-value pairs (10,20,40,75)",
    )
    add("--truthfulqa", type=int, default=0, metavar="N", help="N questions of TruthfulQA (0)")
    add("--threads", type=int, default=os.cpu_count() or 1)
    add(
        "--json",
        metavar="FILE",
        help="write rows here; finished pieces are kept in FILE.partial, and the same command "
        "continues an interrupted run",
    )
    add("--plot", metavar="FILE", help="draw KL over true bits here")
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot work.

    Raises:
        ConfigError: a number out of range, nothing to measure, or a folder that is not there.
        LibraryError: ``--plot`` without matplotlib.
    """
    for option, least in (
        ("tokens", 0), ("ctx", 1), ("skip", 0), ("retrieval", 0), ("truthfulqa", 0), ("threads", 1)
    ):  # fmt: skip
        if getattr(args, option) < least:
            raise ConfigError(f"--{option} must be {least} or more", getattr(args, option))
    if not (args.tokens or args.retrieval or args.truthfulqa):
        raise ConfigError(
            "there must be something to measure",
            "--tokens 0 alone",
            "give --tokens, --retrieval or --truthfulqa a number",
        )
    if args.plot and not args.tokens:
        raise ConfigError("--plot draws KL and needs --tokens", "--tokens 0")
    if args.json:
        check_output("--json", args.json)
    if args.plot:
        check_plot(args.plot)


def parse_pairs(text: str) -> list[int]:
    """Numbers of pairs in ascending order, each once.

    Raises:
        ConfigError: not a list of whole numbers of 1 or more.
    """
    try:
        pairs = {int(item) for item in text.split(",") if item.strip()}
    except ValueError:
        pairs = set()
    if min(pairs, default=0) < 1:
        raise ConfigError(
            "--retrieval-pairs is a list of whole numbers, 1 or more", repr(text), "try 10,20,40"
        )
    return sorted(pairs)
