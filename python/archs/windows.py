"""Megabytes of a cache with whole and with small windows, before anything is allocated.

    python python/archs/make_tiny.py --lib build/dev/bin --out shapes shape-gemma3-4b
    export XQUANT_GGUF_LIB=build/dev/bin PYTHONPATH=.
    python python/archs/windows.py shapes/shape-gemma3-4b.gguf

A row is a context and a cache; its figures are those of ``swa_full=True`` and ``False``.
"""

from __future__ import annotations

import sys

from xquant_gguf.config import resolve_kv
from xquant_gguf.estimate import Estimator

CACHES = {
    "f16": resolve_kv("f16"),
    "balanced": resolve_kv("balanced"),
    "balanced, swa=packed": resolve_kv("balanced", swa="packed"),
}


def main() -> int:
    with Estimator(sys.argv[1]) as model:
        for n_ctx in (4096, 32768):
            for name, kv in CACHES.items():
                bytes_of = [model.use(kv, n_ctx, swa_full=whole).kv for whole in (True, False)]
                print(n_ctx, name, *(f"{n / 1e6:,.1f}" for n in bytes_of), sep=" | ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
