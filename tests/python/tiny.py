"""Tiny random models of any architecture, written by ``python/archs/make_tiny.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import ROOT

from xquant_gguf import _native

VOCABULARY = 512


def write(folder: Path, name: str, arch: str = "llama", *, seed: int = 1, **settings: Any) -> Path:
    """A model ``name`` in a folder; settings replace keys of its metadata, ``__`` for ``.``."""
    command = [sys.executable, ROOT / "python/archs/make_tiny.py"]
    command += ["--lib", _native.library_directory()]
    for key, value in settings.items():
        command += ["--set", f"{key.replace('__', '.')}={json.dumps(value)}"]
    command += ["--out", folder, "--seed", str(seed), "--name", name, arch]
    subprocess.run(command, check=True, capture_output=True)
    return folder / f"{name}.gguf"
