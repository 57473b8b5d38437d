"""Tiny random models of any architecture, written by ``python/archs/make_tiny.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from xquant_gguf import _native

ROOT = Path(__file__).resolve().parents[2]
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


def tokens(count: int, seed: int = 1) -> list[int]:
    """Random token ids that every tiny model has."""
    return [int(t) for t in np.random.default_rng(seed).integers(3, 500, count)]


def logits(llm: Any) -> np.ndarray:
    """The logits behind the last token that a ``Llama`` has read, ``[n_vocab]`` float64."""
    return np.array(llm._ctx.get_logits_ith(-1)[: llm.n_vocab()], dtype=np.float64)


def nmse(found: np.ndarray, truth: np.ndarray) -> float:
    """Squared error of logits over their variance."""
    return float(((found - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())
