"""``python -m check.programs PROGRAM DEVICE ...``: programs in C++, their lines as rows."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from .environment import BUNDLE
from .run import say

LABEL = "label:"
"""Begins an option that is not the program's: ``label:key=value`` goes into every row."""

SCENARIO = re.compile(r"(?P<name>.+): (?P<seconds>[\d.]+) s, NMSE (?P<nmse>.+)")


def row_of(line: str) -> dict[str, object] | None:
    """A figure of node_bench, or a scenario of backend_check."""
    if line.startswith("{"):
        found: dict[str, object] = json.loads(line)
        return found
    match = SCENARIO.fullmatch(line)
    if match is None:
        return None
    worst = max(map(float, match["nmse"].split()))
    return {"scenario": match["name"], "seconds": float(match["seconds"]), "worst_nmse": worst}


def main() -> int:
    name, *rest = sys.argv[1:]
    options = [word for word in rest if not word.startswith(LABEL)]
    given = (word[len(LABEL) :] for word in rest if word.startswith(LABEL))
    labels = dict(word.split("=", 1) for word in given)
    command = [str(BUNDLE / "bin" / name), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    for line in process.stdout:
        row = row_of(line.strip())
        print(line, end="", flush=True)
        if row is not None:
            say(row={**labels, **row})
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
