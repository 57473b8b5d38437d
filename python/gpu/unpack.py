"""``unpack.py FROM WORK``: bundle and models that lie in FROM, into WORK; prints where.

What is there already stays; what a kill left half done is done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

ARCHIVE, MODELS = "bundle.tar.xz", "models.json"


def digest(*paths: Path) -> str:
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while data := file.read(1 << 20):
                found.update(data)
    return found.hexdigest()


def unpack(archive: Path, work: Path) -> Path:
    """A folder named after the archive's content."""
    folder = work / digest(archive)[:16]
    if not folder.exists():
        unfinished = work / f"{folder.name}.{os.getpid()}.tmp"
        shutil.rmtree(unfinished, ignore_errors=True)
        with tarfile.open(archive) as tar:
            tar.extractall(unfinished)  # our own, from bundle.py
        unfinished.rename(folder)
    return folder


def join(source: Path, work: Path) -> None:
    """Models of which every part is here."""
    listed = source / MODELS
    models = json.loads(listed.read_text("utf-8")) if listed.exists() else {}
    for name, model in models.items():
        parts = [source / part for part in model["parts"]]
        target = work / name
        missing = [part.name for part in parts if not part.exists()]
        if target.exists() or missing:
            if missing and not target.exists():
                print(f"{name}: {', '.join(missing)} not here", file=sys.stderr)
            continue
        if digest(*parts) != model["sha256"]:
            raise SystemExit(f"check.sh: the parts of {name} are damaged: copy them again")
        unfinished = work / f"{name}.{os.getpid()}.tmp"
        with unfinished.open("wb") as out:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, out, 1 << 20)
        unfinished.replace(target)


def main() -> None:
    source, work = map(Path, sys.argv[1:])
    join(source, work)
    print(unpack(source / ARCHIVE, work))


if __name__ == "__main__":
    main()
