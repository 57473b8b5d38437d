"""Finished pieces of a run in a file beside its result, so that the same command continues.

The file has JSON lines: first what identifies the run, then one line a piece,
``{"key": [...], "value": ...}``. A line is appended when its piece is done.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._files import BadJson, parse_json, reason
from ..errors import SessionFileError

_FORMAT = 1
_MAX_BYTES = 1 << 30


class Pieces:
    """Results of finished pieces by key.

    Args:
        path: the file, or None to keep nothing. It is created with the first piece.
        identity: plain JSON values; a file with others belongs to another run.

    Raises:
        SessionFileError: the file belongs to another run or is damaged. A last line that
            was cut off while it was written is only dropped, with a warning.
    """

    def __init__(self, path: str | None, identity: Mapping[str, Any]) -> None:
        self.path = path
        self._head = json.dumps({"format": _FORMAT, "identity": identity}, sort_keys=True)
        self._values: dict[str, Any] = {}
        if path is not None and os.path.exists(path):
            self._load(path)

    def __len__(self) -> int:
        return len(self._values)

    def get(self, *key: str | int) -> Any:
        """The value of a piece, or None if it is not done."""
        return self._values.get(json.dumps(key))

    def put(self, value: Any, *key: str | int) -> None:
        """Keep a finished piece.

        Raises:
            SessionFileError: the file cannot be written.
        """
        if self.path is not None:
            line = json.dumps({"key": key, "value": value}) + "\n"
            if not self._values:
                line = self._head + "\n" + line
            try:
                with open(self.path, "a" if self._values else "w", encoding="utf-8") as file:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise SessionFileError(
                    "partial results must be writable",
                    f"{self.path}: {reason(error)}",
                    "free some space, or give another path",
                ) from error
        self._values[json.dumps(key)] = value

    def drop(self) -> None:
        """Delete the file: the result is whole."""
        if self.path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.path)

    def notice(self) -> str:
        """One line for a user who has interrupted the run."""
        if self.path is None:
            return "interrupted: nothing is kept without --json"
        if not self._values:
            return "interrupted: no piece was finished"
        return (
            f"interrupted: {len(self)} finished pieces are in {self.path}; "
            "the same command continues from there"
        )

    def _load(self, path: str) -> None:
        try:
            if os.path.getsize(path) > _MAX_BYTES:
                raise _refused(path, "a file that is too large")
            lines = Path(path).read_bytes().split(b"\n")
        except OSError as error:
            raise SessionFileError("partial results must be readable", reason(error)) from error
        self._check_head(path, lines[0])
        whole, rest = lines[:-1], lines[-1]
        if rest:  # the last line has no end: the run was killed in the middle of it
            print(f"warning: {path}: dropped an unfinished last line", file=sys.stderr)
            try:
                os.truncate(path, sum(len(line) + 1 for line in whole))
            except OSError as error:
                raise SessionFileError("partial results must be writable", reason(error)) from error
        for number, line in enumerate(whole[1:], start=2):
            try:
                item = parse_json(line)
                self._values[json.dumps(item["key"])] = item["value"]
            except (BadJson, KeyError, TypeError) as error:
                raise _refused(path, f"a damaged line {number}") from error

    def _check_head(self, path: str, line: bytes) -> None:
        mine = json.loads(self._head)
        try:
            head = parse_json(line)
            theirs = head["identity"]
            same_format = head["format"] == _FORMAT and isinstance(theirs, dict)
        except (BadJson, KeyError, TypeError) as error:
            raise _refused(path, "a file without partial results") from error
        if not same_format:
            raise _refused(path, "partial results of another version")
        names = sorted({*theirs, *mine["identity"]})
        changed = [name for name in names if theirs.get(name) != mine["identity"].get(name)]
        if changed:
            raise _refused(path, f"partial results with another {', '.join(changed)}")


def _refused(path: str, what: str) -> SessionFileError:
    return SessionFileError(
        f"{path} must hold partial results of this very run",
        what,
        "delete the file to start afresh, or give another --json",
    )
