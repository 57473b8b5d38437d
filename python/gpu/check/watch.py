"""``watch.py SESSION``: once standard input ends, every process of the session is killed.

Whoever started the session holds the other end: none of its processes outlives that one, however
it ends. A session and not a process group, because ninja gives each compiler a group of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import time


def processes_of(session: int) -> list[int]:
    """Those that are not dead already."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                state, _, _, of = file.read().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(of) == session and state not in "ZX":
            found.append(int(name))
    return found


def end(session: int) -> None:
    """Kill them, and what they started meanwhile."""
    while processes := processes_of(session):
        for process in processes:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.01)


if __name__ == "__main__":
    sys.stdin.read()
    end(int(sys.argv[1]))
