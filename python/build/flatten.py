#!/usr/bin/env python3
"""Write Metal sources without #include "...", as the C++ source of a string.

    flatten.py ROOT --out FILE SOURCE...

Apple's run-time compiler takes one text and has no include path, so our headers are
put into it. Sources are named below ROOT, and so are the headers that they include.
The conditionals that choose a device are decided here, because a header that only
another device includes must not count as included. Every other line stays as it is.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

KNOWN = {
    "defined(__CUDACC__)": False,
    "defined(XQG_HOST)": False,
    "defined(XQ_GLSL)": False,
    "defined(__METAL_VERSION__)": True,
    "!defined(__METAL_VERSION__)": False,
}
FIRST = '#pragma clang diagnostic ignored "-Weverything"\n'
"""A warning is an error to ggml_metal_library_init_from_source."""

_DIRECTIVE = re.compile(r"\s*#\s*(\w+)\s*(.*?)\s*(//.*)?$")


class FlattenError(Exception):
    """A source cannot be flattened; says where and why."""


class Branch:
    """A conditional: decided here, or left to the compiler."""

    def __init__(self, condition: str, guard: bool = False) -> None:
        self.decided = condition in KNOWN
        self.active = KNOWN.get(condition, True)
        self.taken = self.active
        self.guard = guard


def flattened(root: Path, name: str) -> str:
    return FIRST + "".join(_lines(root, name, set()))


def _lines(root: Path, name: str, seen: set[str]) -> list[str]:
    if name in seen:
        return []
    seen.add(name)
    out: list[str] = []
    branches: list[Branch] = []
    for number, line in enumerate((root / name).read_text("utf-8").splitlines(), 1):
        match = _DIRECTIVE.match(line)
        word, rest = match.group(1, 2) if match else ("", "")
        active = all(branch.active for branch in branches)
        if word in ("if", "ifdef", "ifndef"):
            branches.append(Branch(rest, guard=word == "ifndef"))
            keep = active and not branches[-1].decided
        elif word in ("elif", "else") and branches[-1].decided:
            _next_branch(branches[-1], rest if word == "elif" else "", f"{name}:{number}")
            keep = False
        elif word == "endif":
            decided = branches.pop().decided
            keep = not decided and all(branch.active for branch in branches)
        elif word == "include" and active and rest.startswith('"'):
            if not all(branch.decided or branch.guard for branch in branches):
                raise FlattenError(f"{name}:{number}: an include in a conditional of unknown value")
            out += _lines(root, rest.strip('"'), seen)
            keep = False
        else:
            keep = active and (word, rest) != ("pragma", "once")
        if keep:
            out.append(line + "\n")
    if branches:
        raise FlattenError(f"{name}: a conditional without an end")
    return out


def _next_branch(branch: Branch, condition: str, where: str) -> None:
    if condition and condition not in KNOWN:
        raise FlattenError(f"{where}: of unknown value: {condition}")
    branch.active = not branch.taken and KNOWN.get(condition, True)
    branch.taken = branch.taken or branch.active


def as_string(name: str, text: str) -> str:
    """A definition of ``name``; in short pieces, for compilers limit the length of one."""
    pieces = text.splitlines(keepends=True)
    quoted = [piece.replace("\\", "\\\\").replace('"', '\\"')[:-1] + "\\n" for piece in pieces]
    body = "".join(f'    "{piece}"\n' for piece in quoted)
    return f"extern const char {name}[];\nconst char {name}[] =\n{body};\n"


def symbol(source: str) -> str:
    """xq_metal_<file>: what the string of a source is called."""
    return f"xq_metal_{Path(source).stem}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Put Metal sources into strings.")
    parser.add_argument("root", type=Path)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        strings = [as_string(symbol(name), flattened(args.root, name)) for name in args.sources]
    except (FlattenError, OSError) as error:
        print(f"flatten.py: {error}", file=sys.stderr)
        return 1
    args.out.write_text("\n".join(strings), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
