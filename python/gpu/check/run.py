"""Runs steps as processes of their own: one that crashes or hangs costs no other its turn."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from . import watch
from .results import FAILED, LATE, PASSED, SKIPPED, Results

MARK = b"@@"
"""Begins a line of JSON for ``gpu.json``: a row, or what replaces fields of the step."""

NOTHING_TO_DO = 77
TAIL = 1500


@dataclass(frozen=True)
class Step:
    """One program.

    Attributes:
        limit: seconds that it may take. skip: why it is not run; "" if it is.
    """

    name: str
    stage: str
    command: Sequence[str]
    limit: float
    skip: str = ""
    environment: dict[str, str] = field(default_factory=dict)


class Clock:
    """Seconds that are left, of everything and of each stage."""

    def __init__(self, total: float, stages: Mapping[str, float]) -> None:
        self._end = time.monotonic() + total
        self._stages, self._ends = stages, dict[str, float]()

    def left(self, stage: str) -> float:
        """A stage's time begins with its first step."""
        now = time.monotonic()
        end = self._ends.setdefault(stage, now + self._stages[stage])
        return min(end, self._end) - now


def run_all(
    steps: Sequence[Step], results: Results, clock: Clock, environment: dict[str, str], log: Path
) -> None:
    """Run what is not finished yet."""
    with log.open("ab") as out:
        for step in steps:
            if results.finished(step.name):
                print(f"{step.name}: {results.data['steps'][step.name]['status']} before")
                continue
            left = clock.left(step.stage)
            if left <= 0:
                entry = results.begin(step.name, step.stage, 0)
                results.end(entry, LATE, 0, "the stage's time was over before it began")
                continue
            run(step, results, min(step.limit, left), environment, out)


def run(
    step: Step, results: Results, limit: float, environment: dict[str, str], log: BinaryIO
) -> None:
    entry = results.begin(step.name, step.stage, limit)
    start = time.monotonic()
    if step.skip:
        results.end(entry, SKIPPED, 0, step.skip)
        print(f"{step.name}: skipped: {step.skip}", flush=True)
        return
    log.write(f"\n== {step.name}: {' '.join(map(str, step.command))}\n".encode())
    process = subprocess.Popen(
        step.command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**environment, **step.environment},
        start_new_session=True,
    )
    with _watched(process):
        tail, late = _follow(process, entry, results, start + limit, log)
    seconds = time.monotonic() - start
    code = process.returncode
    failures = entry.get("failures", 0)
    if late:
        results.end(entry, LATE, seconds, f"stopped after {limit:.0f} s")
    elif code == NOTHING_TO_DO:
        results.end(entry, SKIPPED, seconds, tail.strip().rpartition("\n")[2])
    elif code == 0 and not failures:
        results.end(entry, PASSED, seconds)
    else:
        how = f"{failures} failed" if code == 0 else f"exit status {code}"
        results.end(entry, FAILED, seconds, f"{how}: {tail[-TAIL:].strip()}")
    print(f"{step.name}: {entry['status']} in {seconds:.1f} s", flush=True)


def _follow(
    process: subprocess.Popen[bytes],
    entry: dict[str, Any],
    results: Results,
    deadline: float,
    log: BinaryIO,
) -> tuple[str, bool]:
    """Read until the process ends: the end of what it printed, and whether it was stopped."""
    assert process.stdout
    tail, rest = b"", b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        late = False
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                late = True
                break
            if not selector.select(min(left, 5)):
                continue
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                break
            log.write(data)
            log.flush()
            *lines, rest = (rest + data).split(b"\n")
            marked = [line for line in lines if line.startswith(MARK)]
            for line in lines:
                if not line.startswith(MARK):
                    tail = (tail + line + b"\n")[-4 * TAIL :]
            if marked:
                for line in marked:
                    _take(line[len(MARK) :], entry)
                results.save()
    if not late:
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may close its output and go on
            process.wait(max(deadline - time.monotonic(), 1))
        late = process.poll() is None
    watch.end(process.pid)
    process.wait()
    return (tail + rest).decode("utf-8", "replace"), late


def _take(line: bytes, entry: dict[str, Any]) -> None:
    try:
        value = json.loads(line)
    except ValueError:
        return  # two processes wrote at once: what they said is in the log
    if "row" in value:
        entry["rows"].append(value["row"])
    entry.update({k: v for k, v in value.items() if k not in ("row", "status")})


@contextlib.contextmanager
def _watched(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Nothing of a step outlives it, nor this process (watch.py)."""
    read, write = os.pipe()
    command = [sys.executable, watch.__file__, str(process.pid)]
    watcher = subprocess.Popen(command, stdin=read, start_new_session=True)
    os.close(read)
    try:
        yield
    finally:
        os.close(write)
        watcher.wait()


def say(**values: Any) -> None:
    """From a step: a ``row``, or fields of the step (``failures`` among them)."""
    print(MARK.decode() + json.dumps(values), flush=True)
