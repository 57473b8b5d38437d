"""Tiny random models from ``make_tiny.py``, which lies beside the checkout in shared/archs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from xquant_gguf import _native

VOCABULARY = 512


def write(folder: Path, name: str, arch: str = "llama", *, seed: int = 1, **settings: Any) -> Path:
    """A model ``name`` in a folder; settings replace keys of its metadata, ``__`` for ``.``."""
    maker = Path(os.environ.get("XQUANT_ARCHS") or ROOT.parent / "shared" / "archs")
    if not (maker / "make_tiny.py").is_file():
        pytest.skip("no make_tiny.py: set XQUANT_ARCHS to its folder")
    command = [sys.executable, maker / "make_tiny.py", "--lib", _native.library_directory()]
    for key, value in settings.items():
        command += ["--set", f"{key.replace('__', '.')}={json.dumps(value)}"]
    command += ["--out", folder, "--seed", str(seed), "--name", name, arch]
    subprocess.run(command, check=True, capture_output=True)
    return folder / f"{name}.gguf"
