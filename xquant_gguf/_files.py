"""The user's files: JSON is read with limits, and files are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

_DEPTH = 32
"""Levels of lists and objects that a JSON file may have."""

_LARGEST = 2**63 - 1
_DIGITS = 400  # of a number; Python takes a time that grows with their square for more

_PREFIX, _SUFFIX = ".xquant-", ".tmp"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_ORPHAN = 3600.0  # seconds after which an unfinished file has no writer any more


class BadJson(ValueError):
    """The text is no JSON, or none that is read here; ``str()`` says what it is instead."""


def user_path(path: str | os.PathLike[str]) -> Path:
    """The full path that a user means: ``~`` filled in, links followed.

    Raises:
        OSError: no file can have this name.
    """
    try:
        return Path(os.path.realpath(os.path.expanduser(path)))
    except ValueError as error:  # a NUL, or what the file system cannot encode
        raise OSError(errno.EINVAL, "no file can have this name") from error


def reason(error: OSError) -> str:
    """What the system says, in words."""
    return error.strerror or str(error) or type(error).__name__


def read_json(path: str | os.PathLike[str], most: int) -> Any:
    """The content of a JSON file.

    Args:
        most: bytes that it may have.

    Raises:
        OSError: it cannot be read, or is no regular file.
        BadJson: it is larger, or see :func:`parse_json`.
    """
    full = user_path(path)
    if not stat.S_ISREG(os.stat(full).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    with full.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise BadJson("a file that is too large")
    return parse_json(data)


def parse_json(data: bytes) -> Any:
    """JSON text in UTF-8 to values, of which nothing can surprise later.

    Raises:
        BadJson: no JSON, a name twice in one object, a number that is no finite double or
            64-bit integer, text that is no Unicode, or more levels than 32.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_int,
            parse_float=_float,
            parse_constant=_constant,
        )
    except BadJson:
        raise
    except RecursionError:
        raise BadJson("JSON with too many levels") from None
    except ValueError as error:
        raise BadJson(f"no JSON ({error})") from error
    _check(value)
    return value


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise BadJson(f"JSON with {name[:80]!r} twice")
        found[name] = value
    return found


def _int(text: str) -> int:
    if len(text) > _DIGITS or abs(int(text)) > _LARGEST:
        raise BadJson(f"JSON with the number {text[:20]}... of {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    if len(text) > _DIGITS or not math.isfinite(float(text)):
        raise BadJson(f"JSON with the number {text[:20]}")
    return float(text)


def _constant(text: str) -> NoReturn:
    raise BadJson(f"JSON with {text}")


def _check(value: Any) -> None:
    """Level by level, without recursion."""
    level = [value]
    for _ in range(_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not item.isascii():
                try:
                    item.encode()
                except UnicodeEncodeError:
                    raise BadJson("JSON with text that is no Unicode") from None
        if not below:
            return
        level = below
    raise BadJson("JSON with too many levels")


def write_whole(path: str | os.PathLike[str], data: bytes, *, private: bool = False) -> None:
    """Replace or create a file in one step: whoever reads finds the old one or the new one, whole.

    That holds if the process is killed, if the power fails, and for several writers at
    once, of whom the last one wins. A file that was there keeps its permissions.

    Args:
        private: a new file is for its owner alone.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    target = user_path(path)
    mode = _replaceable(target)
    mark = _mark(target)
    _sweep(target.parent, mark)
    unfinished = target.parent / f"{mark}{secrets.token_hex(8)}{_SUFFIX}"
    try:
        with open(os.open(unfinished, _NEW, 0o600 if private else 0o666), "wb") as file:
            if mode is not None:
                with contextlib.suppress(OSError):
                    os.chmod(unfinished, mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
    with contextlib.suppress(OSError):  # not every system can
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Find out whether :func:`write_whole` will be able to write there.

    Raises:
        OSError: it will not, as far as can be told now.
    """
    target = user_path(path)
    _replaceable(target)
    probe = target.parent / f"{_mark(target)}{secrets.token_hex(8)}{_SUFFIX}"
    try:
        with open(os.open(probe, _NEW, 0o600), "wb") as file:
            file.write(b"\n")  # a full disk may take names as long as there are any
    finally:
        with contextlib.suppress(OSError):
            os.unlink(probe)


def _replaceable(target: Path) -> int | None:
    """The permissions of the file that is there; None if there is none."""
    try:
        found = os.stat(target)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    return stat.S_IMODE(found.st_mode)


def _mark(target: Path) -> str:
    """How the names of unfinished files begin that are to become ``target``."""
    return _PREFIX + hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12] + "-"


def _sweep(folder: Path, mark: str) -> None:
    """Remove what writers of the same file left behind when they were killed."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith(mark) and entry.name.endswith(_SUFFIX):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat().st_mtime > _ORPHAN:
                        os.unlink(entry.path)
