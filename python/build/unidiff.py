"""Read and apply unified diffs, strictly.

Only what a series of call sites needs: changes inside files that exist. Every
context and removed line must match byte for byte. A hunk whose line number is off
is accepted only if its old lines occur exactly once in the rest of the file.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_HEADER = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@")


class PatchError(Exception):
    """The diff is malformed, or does not fit the file."""


class Hunk(NamedTuple):
    line: int  # where `old` starts in the old file, counted from 1
    old: list[bytes]  # context and removed lines
    new: list[bytes]  # context and added lines
    added: int  # lines of `new` that are not context


def split_lines(data: bytes) -> list[bytes]:
    """Lines with their newline; a carriage return is an ordinary byte."""
    return re.findall(rb"[^\n]*\n|[^\n]+", data)


def parse(text: bytes) -> dict[str, list[Hunk]]:
    """The hunks of a diff, by the path they change (its first component stripped)."""
    files: dict[str, list[Hunk]] = {}
    before = path = ""
    lines = iter(enumerate(split_lines(text), 1))
    for number, line in lines:
        if line.startswith(b"--- "):
            before = _path(line, number)
        elif line.startswith(b"+++ "):
            path = _path(line, number)
            if path != before:
                raise PatchError(f"line {number}: renames {before} to {path}")
        elif line.startswith(b"\\"):
            raise PatchError(f"line {number}: a file without a final newline is not supported")
        elif line.startswith(b"@@"):
            header = _HEADER.match(line)
            if not header or not path:
                raise PatchError(f"line {number}: malformed hunk header")
            start, old_count, new_count = (int(group or 1) for group in header.groups())
            hunk = _hunk(lines, start, old_count, new_count)
            if not hunk.old:
                raise PatchError(f"line {number}: a hunk needs context")
            files.setdefault(path, []).append(hunk)
    if not files:
        raise PatchError("no hunks")
    return files


def _path(line: bytes, number: int) -> str:
    name = line[4:].split(b"\t")[0].strip().decode()
    _, _, path = name.partition("/")
    if name == "/dev/null":
        raise PatchError(f"line {number}: adds or removes a file")
    if not path or ".." in path.split("/") or "\\" in path:
        raise PatchError(f"line {number}: bad path {name!r}")
    return path


def _hunk(lines: enumerate[bytes], start: int, old_count: int, new_count: int) -> Hunk:
    old: list[bytes] = []
    new: list[bytes] = []
    added = 0
    while len(old) < old_count or len(new) < new_count:
        number, line = next(lines, (0, b""))
        tag, body = line[:1], line[1:]
        if line == b"\n":  # an editor removed the trailing blank of an empty context line
            tag, body = b" ", line
        if tag not in (b" ", b"-", b"+"):
            raise PatchError(f"line {number}: not a hunk line" if number else "ends inside a hunk")
        if tag != b"+":
            old.append(body)
        if tag != b"-":
            new.append(body)
        added += tag == b"+"
    if len(old) != old_count or len(new) != new_count:
        raise PatchError(f"line {number}: the hunk's line counts are wrong")
    return Hunk(start, old, new, added)


def apply(data: bytes, hunks: list[Hunk]) -> bytes:
    """`data` with every hunk applied, or PatchError."""
    source = split_lines(data)
    result: list[bytes] = []
    done = 0
    for hunk in hunks:
        size = len(hunk.old)
        at = hunk.line - 1
        if at < done or source[at : at + size] != hunk.old:
            last = len(source) - size
            fits = [i for i in range(done, last + 1) if source[i : i + size] == hunk.old]
            if len(fits) != 1:
                where = f"{len(fits)} places fit" if fits else "its context is not in the file"
                raise PatchError(f"hunk at line {hunk.line}: {where}")
            at = fits[0]
        result += source[done:at] + hunk.new
        done = at + size
    return b"".join(result + source[done:])
