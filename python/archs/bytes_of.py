"""Print what each kind of cache allocates for one model, as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from table import CONTEXTS, KINDS


def main() -> int:
    from xquant_gguf import Llama

    name, path = sys.argv[1:]
    found: dict[str, dict[str, int]] = {}
    for n_ctx in CONTEXTS:
        for kind in KINDS:
            kv, *settings = kind.split(":")
            given: dict[str, Any] = dict(setting.split("=") for setting in settings)
            llm = Llama(path, kv=kv, n_ctx=n_ctx, swa_full=False, verbose=False, **given)
            found.setdefault(str(n_ctx), {})[kind] = llm.kv_cache.bytes_total
            llm.close()
    print(json.dumps({"name": name, "outcome": "counted", "bytes": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
