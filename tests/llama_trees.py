"""The llama.cpp trees whose headers and sources tests compile."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "python" / "build"))

from upstream import STAMP  # noqa: E402


def trees() -> list[Path]:
    """That of XQUANT_SRC, or those of the builds in this checkout.

    A build that another process has just begun is left out: a tree has no stamp until it is whole.
    """
    named = os.environ.get("XQUANT_SRC")
    if named:
        return [Path(named)]
    return [found.parent for found in sorted(ROOT.glob(f"build/*/llama.cpp/{STAMP}"))]
