"""``python -m gpu.run_mutants NAME LIBRARY``: which check sees which mutant of an implementation.

Exits with 1 if one goes unseen.

Every mutant runs in a fork, where it may crash or hang.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

from kernels import lib

from .checks import Check, attention, attention_of_many, batched, packing
from .mutants import Mutant, mutants

SEEDS = (1, 2, 3)
PATIENCE = 60
BATCH = ("attend_batch", "batch", "matrix")
PACKING = ("seal", "source", "words", "unpack", "store", "rotate", "strip")


def label(check: Check) -> str:
    if check.func is batched:  # type: ignore[attr-defined]
        return f"{label(check.args[0])} (batch)"  # type: ignore[attr-defined]
    return f"{check.func.__module__.split('.')[-1]}.{check.func.__name__}"  # type: ignore[attr-defined]


def first_failure(impl: str, checks: list[Check]) -> str:
    """The check that fails, or "" if all pass in every order of threads."""
    for seed in SEEDS:
        for check in checks:
            lib.others[impl].xq_emulated_seed(seed)
            try:
                check(impl)
            except BaseException:
                return label(check)
    return ""


def fate(mutant: Mutant, checks: list[Check]) -> str:
    """What saw the mutant: a check, a crash, or "" for nothing."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(PATIENCE)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        lib.others[mutant.impl].xq_set_mutant(mutant.number)
        os.write(write, first_failure(mutant.impl, checks).encode())
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    seen = os.read(read, 1000).decode()
    os.close(read)
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else seen


def main() -> int:
    impl, library = sys.argv[1:]
    lib.others[impl] = ctypes.CDLL(library)
    one, many, pack = attention(), attention_of_many(), packing()
    failed = first_failure(impl, one + many + pack)
    if failed:
        print(f"without any mutant {failed} fails")
        return 1
    unseen = 0
    chosen = [mutant for mutant in mutants() if mutant.impl == impl]
    for mutant in chosen:
        start = time.monotonic()
        if mutant.file.startswith(PACKING):
            order = pack + one + many
        else:
            order = many + one + pack if mutant.file.startswith(BATCH) else one + many + pack
        seen = fate(mutant, order)
        unseen += not seen
        took = time.monotonic() - start
        print(f"{mutant.name:50} {seen or 'NOT SEEN':45} {took:5.1f} s", flush=True)
    print(f"{len(chosen)} mutants, {unseen} not seen")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
