"""What the command lines of the chat and the server have in common."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from .config import FLAGS, XQuantConfig, kv_names, parse_setting, resolve_kv
from .errors import ConfigError
from .plan_file import resolve_auto
from .stock import StockKV

DEFAULT_KV = "balanced"


class Parser(argparse.ArgumentParser):
    """A parser that raises instead of printing a usage block."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"the command line must be understood: {message}", "", "see --help")


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Add ``--kv`` and an option for each cache setting."""
    group = parser.add_argument_group("cache", "settings that replace single ones of --kv")
    group.add_argument(
        "--kv",
        metavar="NAME",
        help=f"{', '.join(kv_names())}, auto, auto:NAME, auto:BITS: bits by layer ({DEFAULT_KV})",
    )
    for item in dataclasses.fields(XQuantConfig):
        extra = ": index, fraction or never" if item.name.endswith("_from") else ""
        group.add_argument(dashed(item.name), metavar="X", help=item.metadata["help"] + extra)


def cache_of(values: Mapping[str, Any], model: str | None) -> XQuantConfig | StockKV:
    """The cache that parsed options ask for.

    Args:
        model: the file whose plan ``auto`` stands for.

    Raises:
        ConfigError: no such cache or setting.
    """
    flags = {name: parse_setting(name, values[name]) for name in FLAGS if values[name] is not None}
    return resolve_kv(resolve_auto(values["kv"] or DEFAULT_KV, model, tell), **flags)


def tell(text: str) -> None:
    """Say on standard error what takes time."""
    print(text, file=sys.stderr, flush=True)


def count(name: str, value: int | None, least: int) -> int | None:
    """The value of an option, if it is large enough.

    Raises:
        ConfigError: it is not.
    """
    if value is not None and value < least:
        raise ConfigError(f"{name} is {least} or more", value, "leave it out for the default")
    return value


def dashed(name: str) -> str:
    """A setting's name as an option."""
    return "--" + name.replace("_", "-")
