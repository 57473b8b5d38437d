"""Leave out operations of a failing history as long as its last one still fails.

    python tests/fuzz/shrink.py build/fuzz --variant balanced --seed 1 --length 150 --only 7

The arguments are the program and the line that it prints after "again:". What is left is printed
with ``--skip``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence


def fails(command: Sequence[str], skip: set[int]) -> tuple[int, str] | None:
    """The operation that fails and why, with numbers left out; a crash fails at the last one."""
    more = ["--skip", ",".join(map(str, sorted(skip)))] if skip else []
    done = subprocess.run([*command, *more], capture_output=True, text=True, errors="replace")
    found = re.search(r"FINDING in \S+, operation (\d+): .*: (.*)", done.stdout)
    if found:
        return int(found[1]), re.sub(r"[-\d.e]+", "#", found[2])
    if done.returncode not in (0, 1):
        last = re.findall(r"^ *(\d+)  ", done.stdout, re.M)
        return int(last[-1]) + 1 if last else 0, f"exit {done.returncode}"
    return None


def shrink(command: Sequence[str]) -> set[int]:
    """The operations that can be left out."""
    first = fails(command, set())
    if first is None:
        raise SystemExit("this history does not fail")
    end, why = first
    kept, size = list(range(end)), max(1, end // 2)
    skip: set[int] = set()
    while size:
        at = 0
        while at < len(kept):
            part = kept[at : at + size]
            if fails(command, skip | set(part)) == (end, why):
                skip |= set(part)
                del kept[at : at + size]
            else:
                at += size
        size //= 2
    return skip


def main() -> None:
    command = [word for word in sys.argv[1:] if word != "--trace"] + ["--trace"]
    skip = shrink(command)
    command += ["--skip", ",".join(map(str, sorted(skip)))]
    print(" ".join(command))
    print(subprocess.run(command, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
