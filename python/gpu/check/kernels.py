"""``python -m check.kernels groups DEVICE``: the self-test's groups on a device, by ggml's nodes.

``python -m check.kernels cases WORKERS [PYTEST OPTION ...]``: every kernel case by the kernels
themselves (tests/gpu/device_cases.py), in several processes. A case that ends its process, or
does not come back, has failed, and the rest go on in a new one.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

from .environment import BUNDLE
from .run import say

PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
PLAINLY = ("-s", "-p", "no:faulthandler")
"""What the kernels' host prints last is why it ended."""

CASES = "tests/gpu/device_cases.py"
PATIENCE = 60.0  # seconds for one case


def groups(device: str, chosen: str = "") -> int:
    from xquant_gguf.selftest.checks import run
    from xquant_gguf.selftest.groups import GROUPS
    from xquant_gguf.selftest.kernels import load_kernels
    from xquant_gguf.selftest.report import result_line

    kernels, failures = load_kernels(), 0
    gpu = device not in kernels.names
    for group in GROUPS:
        if group.gpu_budget is None or chosen not in group.name:
            continue
        result = run(group, kernels, device, 4, gpu=gpu)
        failures += not result.passed
        print(result_line(result), flush=True)
        worst = result.worst if result.worst < float("inf") else None
        row = {**dataclasses.asdict(result), "worst": worst, "passed": result.passed}
        say(row=row, failures=failures)
    return 0


class Worker(threading.Thread):
    """Runs its share of the cases in one pytest process after the other."""

    def __init__(self, tests: list[str], tally: Tally, folder: Path) -> None:
        super().__init__(daemon=True)
        self.left, self.tally, self.folder = tests, tally, folder

    def run(self) -> None:
        while self.left:
            before = len(self.left)
            why = self._once()
            if self.left and why:  # the process ended in the middle of the first one that is left
                self.tally.add(self.left.pop(0), "failed", why)
            elif len(self.left) == before:
                for test in self.left:
                    self.tally.add(test, "failed", "pytest did not run it")
                return

    def _once(self) -> str:
        """Why the process ended early, or ""."""
        read, write = os.pipe()
        chosen = self.folder / "tests.txt"
        chosen.write_text("\n".join(self.left), encoding="utf-8")
        environment = {**os.environ, "XQUANT_OUTCOMES": str(write), "XQUANT_TESTS": str(chosen)}
        with (self.folder / "printed.txt").open("wb") as printed:
            process = subprocess.Popen(
                [*PYTEST, *PLAINLY, "-p", "check.outcomes", CASES],
                cwd=BUNDLE,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(write,),
            )
        os.close(write)
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        watch = threading.Timer(PATIENCE, stop)
        watch.start()
        with os.fdopen(read, encoding="utf-8") as outcomes:
            for line in outcomes:
                watch.cancel()
                watch = threading.Timer(PATIENCE, stop)
                watch.start()
                test, outcome, why = line.rstrip("\n").split("\t")
                if test in self.left:
                    self.left.remove(test)
                self.tally.add(test, outcome, why)
        code = process.wait()
        watch.cancel()
        if late.is_set():
            return f"did not come back in {PATIENCE:.0f} s"
        if code in (0, 1):
            return ""
        printed_last = (self.folder / "printed.txt").read_text("utf-8", "replace")[-300:]
        return f"ended its process: {code}: {' '.join(printed_last.split())}"


class Tally:
    """Outcomes by test function; what failed, case by case."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {}
        self._failed: list[dict[str, str]] = []
        self._said = 0

    def add(self, test: str, outcome: str, why: str) -> None:
        with self._lock:
            name = test.rpartition("::")[2].partition("[")[0]
            self._counts.setdefault(name, Counter())[outcome] += 1
            if outcome == "failed":
                self._failed.append({"case": test.partition("::")[2], "why": why})
                print(f"{test}: {why}", flush=True)
            self._said += 1
            if outcome == "failed" or self._said % 100 == 0:
                self.say()

    def say(self) -> None:
        counts = {name: dict(count) for name, count in sorted(self._counts.items())}
        total = sum(self._counts.values(), Counter[str]())
        failures = len(self._failed)
        say(counts=counts, total=dict(total), failed=self._failed[:40], failures=failures)


def cases(workers: int, options: list[str]) -> int:
    command = [*PYTEST, "--collect-only", CASES, *options]
    listed = subprocess.run(command, cwd=BUNDLE, capture_output=True, text=True)
    tests = [line for line in listed.stdout.splitlines() if "::" in line]
    if not tests:
        print(listed.stdout, listed.stderr)
        return 1
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        pool = []
        for i in range(workers):
            own = Path(folder) / str(i)
            own.mkdir()
            pool.append(Worker(tests[i::workers], tally, own))
        for worker in pool:
            worker.start()
        for worker in pool:
            worker.join()
    tally.say()
    return 0


def main() -> int:
    what, *rest = sys.argv[1:]
    if what == "groups":
        return groups(*rest)
    return cases(int(rest[0]), rest[1:])


if __name__ == "__main__":
    sys.exit(main())
