"""What makes two runs the same: then the pieces of one may complete the other."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

_HEAD = 1 << 20


def model_identity(path: str) -> dict[str, Any]:
    """Name, size and a hash of the first MiB, which has the settings and the vocabulary."""
    file = Path(path)
    with file.open("rb") as opened:
        head = opened.read(_HEAD)
    return {"name": file.name, "bytes": file.stat().st_size, "head": _short(head)}


def library_identity(folder: Path) -> str:
    """Hash of the native library: another build may compute something else."""
    kinds = (".so", ".dylib", ".dll")
    files = sorted(file for file in folder.iterdir() if file.suffix in kinds)
    return _short(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files))


def file_identity(path: Path | str) -> str:
    """Hash of a data file."""
    return _short(Path(path).read_bytes())


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
