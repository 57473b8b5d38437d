"""What the command lines of ``xquant_gguf.eval`` and ``xquant_gguf.bench`` share."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ._files import check_writable, reason, write_whole
from .config import FLAGS, XQuantConfig, parse_setting, resolve_kv
from .errors import ConfigError, LibraryError, SessionFileError, XQuantError, unexpected
from .plan_file import AUTO, resolve_auto
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
    except Exception as error:
        print(f"error: {unexpected(error)}", file=sys.stderr)
        return 1


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
    """``name`` or ``name:setting=value:...`` to a cache description; ``auto:BITS`` is a name.

    Raises:
        ConfigError: unknown name or setting, or no plan for ``auto``.
    """
    name, *settings = item.split(":")
    if name == AUTO and settings and "=" not in settings[0]:
        name = f"{name}:{settings.pop(0)}"  # whose bits
    changes: dict[str, Any] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in FLAGS:
            raise ConfigError("a cache setting must exist", key, f"use one of {', '.join(FLAGS)}")
        changes[key] = parse_setting(key, value)
    return resolve_kv(resolve_auto(name, model, _tell), **changes)


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


def read_text(path: str) -> str:
    """The text of a file given as --text.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError("--text must be readable", str(error), "give a text file") from error


def check_output(option: str, path: str) -> None:
    """Refuse a result file that cannot be written, before the work rather than after.

    Raises:
        ConfigError: no such folder, a folder itself, or nothing can be written there.
    """
    try:
        check_writable(path)
    except OSError as error:
        raise ConfigError(
            f"{option} must name a file that can be written",
            f"{path}: {reason(error)}",
            "give another path",
        ) from error


def check_plot(path: str) -> None:
    """The same for a picture, whose kind is in its name.

    Raises:
        ConfigError: see :func:`check_output`, or a kind that matplotlib does not write.
        LibraryError: matplotlib is not installed.
    """
    pyplot = load_pyplot()
    figure = pyplot.figure()
    kinds = sorted(figure.canvas.get_supported_filetypes())
    pyplot.close(figure)
    if Path(path).suffix[1:].lower() not in kinds:
        raise ConfigError(
            f"--plot must end in one of .{', .'.join(kinds)}", path, f"use {path}.png"
        )
    check_output("--plot", path)


def write_json(path: str, data: Mapping[str, Any]) -> None:
    """Write a result file, whole.

    Raises:
        SessionFileError: it cannot be written; what was there before is untouched.
    """
    _write(path, (json.dumps(data, indent=1) + "\n").encode())


def save_plot(figure: Any, path: str) -> None:
    """Write a matplotlib figure, whole.

    Raises:
        SessionFileError: see :func:`write_json`.
    """
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format=Path(path).suffix[1:].lower())
    _write(path, picture.getvalue())


def _write(path: str, data: bytes) -> None:
    try:
        write_whole(path, data)
    except OSError as error:
        raise SessionFileError(
            "a result file must be writable", f"{path}: {reason(error)}", "give another path"
        ) from error


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
