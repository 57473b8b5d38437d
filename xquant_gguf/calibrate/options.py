"""Options of ``python -m xquant_gguf.calibrate``, checked before anything is loaded."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from .._checks import TILE
from .._measuring import check_output, check_plot, read_text
from ..errors import ConfigError
from ..plan_file import check_replaceable, plan_path
from .sensitivity import WINDOW

SKIP = WINDOW + 2 * TILE
"""First tokens of a context that are not scored: little or nothing is packed yet."""

_LEAST_CTX = SKIP + TILE
_VERIFY = 2  # contexts to verify on, for each one to measure on


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options as given; only their form is checked."""
    parser = argparse.ArgumentParser(
        prog="python -m xquant_gguf.calibrate",
        description="Measure what bits each layer of a model needs and write a plan, which "
        'kv="auto" uses.',
    )
    add = parser.add_argument
    add("model", help="a GGUF file")
    add(
        "--bits",
        metavar="B",
        help="true bits an element that the plan may take, or the preset whose bits it may take "
        "(balanced)",
    )
    add("--kl", type=float, metavar="X", help="instead: the fewest bits with a mean KL of X nats")
    add("--out", metavar="FILE", help="the plan (MODEL.xquant.json, which kv=auto looks for)")
    add("--plot", metavar="FILE", help="draw bits and sensitivities of the layers here")
    add("--text", metavar="FILE", help="measure on this text (UTF-8) in place of the built-in one")
    add("--ctx", type=int, default=512, metavar="N", help="tokens of a context (512)")
    add(
        "--contexts",
        type=int,
        default=1,
        metavar="N",
        help="contexts to measure on; twice as many others verify the plan (1)",
    )
    add(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="measure each Nth layer only and interpolate between them: faster, rougher (1)",
    )
    add("--threads", type=int, default=os.cpu_count() or 1)
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot work.

    Raises:
        ConfigError: a number out of range, a folder that is not there, or a file in the way.
        LibraryError: ``--plot`` without matplotlib.
    """
    for option, least in (("ctx", _LEAST_CTX), ("contexts", 1), ("every", 1), ("threads", 1)):
        if getattr(args, option) < least:
            raise ConfigError(f"--{option} must be {least} or more", getattr(args, option))
    check_replaceable(out_path(args))
    check_output("--out", out_path(args))
    if args.plot:
        check_plot(args.plot)


def out_path(args: argparse.Namespace) -> str:
    """Where the plan goes."""
    return str(args.out or plan_path(args.model))


def text_of(args: argparse.Namespace) -> str:
    """The text to measure on.

    Raises:
        ConfigError: the file cannot be read.
    """
    if args.text is not None:
        return read_text(args.text)
    return Path(__file__).with_name("text.txt").read_text(encoding="utf-8")


def cut(
    tokens: Sequence[int], n_ctx: int, contexts: int
) -> tuple[dict[int, Sequence[int]], dict[int, Sequence[int]]]:
    """Whole contexts of a text by number: ``contexts`` to measure on, twice as many to verify.

    Raises:
        ConfigError: the text is too short.
    """
    many = (1 + _VERIFY) * contexts
    if len(tokens) < many * n_ctx:
        fits = len(tokens) // many
        raise ConfigError(
            f"the text must have {many * n_ctx} tokens, for {many} contexts of {n_ctx}",
            f"{len(tokens)} tokens",
            f"use --ctx {fits}" if fits >= _LEAST_CTX else "give a longer --text",
        )
    parts = {i: tokens[i * n_ctx : (i + 1) * n_ctx] for i in range(many)}
    return (
        {i: part for i, part in parts.items() if i < contexts},
        {i: part for i, part in parts.items() if i >= contexts},
    )
