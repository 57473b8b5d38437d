"""What the command lines of ``xquant_gguf.eval`` and ``xquant_gguf.bench`` share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .config import FLAGS, XQuantConfig, resolve_kv
from .errors import ConfigError, LibraryError, XQuantError
from .plan_file import resolve_auto
from .stock import StockKV


def exit_code(run: Callable[[], int]) -> int:
    """The exit code of a command: what it returns, or that of its typed error, told in one line."""
    try:
        return run()
    except XQuantError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def parse_kvs(text: str, model: str | None = None) -> dict[str, XQuantConfig | StockKV]:
    """The caches of a comma-separated list, by the name the user gave.

    Args:
        model: the file whose plan ``auto`` stands for.

    Raises:
        ConfigError: an empty list, or see :func:`parse_kv`.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("--kv needs at least one name", repr(text), "try f16,balanced")
    return {name: parse_kv(name, model) for name in names}


def parse_kv(item: str, model: str | None = None) -> XQuantConfig | StockKV:
    """``name`` or ``name:setting=value:...`` to a cache description.

    Raises:
        ConfigError: unknown name or setting, or no plan for ``auto``.
    """
    name, *settings = item.split(":")
    changes: dict[str, Any] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in FLAGS:
            raise ConfigError("a cache setting must exist", key, f"use one of {', '.join(FLAGS)}")
        changes[key] = _value(value)
    return resolve_kv(resolve_auto(name, model), **changes)


def _value(text: str) -> int | float | str | None:
    if text in ("never", "-1"):
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def read_text(path: str) -> str:
    """The text of a file given as --text.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError("--text must be readable", str(error), "give a text file") from error


def check_folder(option: str, path: str) -> None:
    """Refuse a result file in a folder that is not there, before the work rather than after.

    Raises:
        ConfigError: no such folder, or the path is a folder itself.
    """
    if not Path(path).parent.is_dir() or Path(path).is_dir():
        raise ConfigError(f"{option} must name a file in a folder that exists", path)


def write_json(path: str, data: Mapping[str, Any]) -> None:
    """Write a result file in one step: a reader finds the old one or the new one, whole."""
    part = Path(path + ".part")
    part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def progress_bar(unit: str) -> Any:
    """A rich progress bar on standard error, silent where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        "{task.description}",
        unit,
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


def load_pyplot() -> Any:
    """``matplotlib.pyplot``, set up to draw into files.

    Raises:
        LibraryError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise LibraryError(
            "--plot needs matplotlib", "it is not installed", 'pip install "xquant-gguf[plot]"'
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
