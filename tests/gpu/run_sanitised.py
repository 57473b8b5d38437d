"""``python -m gpu.run_sanitised NAME LIBRARY``: the short list, without margins around arrays."""

from __future__ import annotations

import ctypes
import sys

from kernels import guard, lib, test_attend

from . import test_edges, test_threads
from .checks import attention, packing

SLOW = (
    *(test_threads.test_spans, test_edges.test_long_lists),
    *(test_attend.test_parts_and_threads_change_no_bit, test_attend.test_hard_data),
)


def main() -> None:
    guard.MARGIN = 0  # AddressSanitizer watches the allocation itself
    impl, library = sys.argv[1:]
    lib.others[impl] = ctypes.CDLL(library)
    checks = [c for c in attention() + packing() if c.func not in SLOW]  # type: ignore[attr-defined]
    for check in checks:
        check(impl)
    print(f"{len(checks)} checks passed")


if __name__ == "__main__":
    main()
