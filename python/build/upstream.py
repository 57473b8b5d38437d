#!/usr/bin/env python3
"""Provide the patched llama.cpp tree that CMake builds.

    upstream.py prepare --tree DIR [--source DIR] [--stock]
    upstream.py diff    --tree DIR [--source DIR] [--patch NAME]
    upstream.py fetch

`prepare` brings DIR to upstream + patches/*.patch and rewrites only files whose
content changes, so that a later build compiles only those. `diff` prints how DIR
differs from upstream: edit DIR, then put that text into patches/. With --patch it leaves
out the files of every other patch. `fetch` prints the path of the checked sdist in the
cache.

The sources are, in this order: a llama.cpp directory (--source, or the environment
variable XQUANT_LLAMA_CPP; it is copied, never changed), the cache (XQUANT_CACHE, or
the user's cache directory), pip with the user's own configuration.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple

import unidiff

ROOT = Path(__file__).resolve().parents[2]
STAMP = ".xquant-stamp.json"
# Large parts of upstream that no build reads, and what a developer's tree may hold besides.
SKIP = ("models", "docs", "media", "benches")


class BuildError(Exception):
    """A step failed; printed as one line."""

    def __init__(self, step: str, reason: str, remedy: str) -> None:
        super().__init__(f"xquant_gguf build, step '{step}': {reason}. Remedy: {remedy}.")


def say(text: str) -> None:
    print(f"xquant_gguf: {text}", flush=True)


# ---- the pin and the cache ----


class Pin(NamedTuple):
    """The file UPSTREAM."""

    name: str
    version: str
    sdist: str
    sha256: str
    subdir: str


def read_pin(path: Path = ROOT / "UPSTREAM") -> Pin:
    rows = (line.split("#")[0].partition("=") for line in path.read_text("utf-8").splitlines())
    return Pin(**{key.strip(): value.strip() for key, _, value in rows if key.strip()})


def cache_dir() -> Path:
    """Where downloads are kept: XQUANT_CACHE, else the platform's place."""
    home = Path.home()
    if os.environ.get("XQUANT_CACHE"):
        return Path(os.environ["XQUANT_CACHE"]).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "xquant_gguf"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "xquant_gguf"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "xquant_gguf"


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(pin: Pin) -> Path:
    """The checked sdist, from the cache or from pip."""
    place = cache_dir() / pin.sha256 / pin.sdist
    if place.is_file():
        if sha256_of(place) == pin.sha256:
            return place
        say(f"the cached {pin.sdist} is damaged, fetching it again")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=place.parent)
    except OSError as error:
        raise BuildError(
            "cache",
            f"cannot write to {place.parent} ({error.strerror})",
            "set XQUANT_CACHE to a directory that you may write to",
        ) from None
    with scratch as folder:
        download(pin, Path(folder), place)
        fetched = Path(folder) / pin.sdist
        actual = sha256_of(fetched) if fetched.is_file() else "no such file"
        if actual != pin.sha256:
            raise BuildError(
                "check",
                f"{pin.sdist} from pip has sha256 {actual}, expected {pin.sha256}",
                "look at the package index pip uses (pip config list); "
                "the file is not the published one, so it was not used",
            )
        os.replace(fetched, place)
    return place


def pip_command() -> list[str] | None:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip3") or shutil.which("pip")
    return [found] if found else None


def download(pin: Pin, folder: Path, place: Path) -> None:
    by_hand = f"or put {pin.sdist} at {place}, or set XQUANT_LLAMA_CPP to a llama.cpp tree"
    pip = pip_command()
    if pip is None:
        raise BuildError(
            "download",
            f"{sys.executable} has no pip",
            f"install pip there (python -m ensurepip), {by_hand}",
        )
    say(f"fetching {pin.name} {pin.version} with pip (77 MB, once)")
    what = ["--no-deps", "--no-binary", pin.name, f"{pin.name}=={pin.version}"]
    process = subprocess.Popen(
        [*pip, "download", "--progress-bar", "off", "--dest", str(folder), *what],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout
    reason = "no message"
    for line in process.stdout:
        print("  " + line, end="", flush=True)
        if "ERROR:" in line:
            reason = line.partition("ERROR:")[2].strip()
    if process.wait():
        raise BuildError(
            "download",
            f"pip download {pin.name}=={pin.version} failed ({reason.rstrip('.')})",
            f"see that pip can reach its index (network, proxy, pip config list), {by_hand}",
        )


# ---- upstream's files, from the sdist or from a directory ----


class Archive:
    """vendor/llama.cpp inside the sdist."""

    def __init__(self, pin: Pin) -> None:
        self.pin = pin
        self.identity = pin.sha256

    def files(self) -> Iterator[tuple[str, bytes]]:
        path = fetch(self.pin)
        top = f"{self.pin.sdist[: -len('.tar.gz')]}/{self.pin.subdir}/"
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    name = member.name[len(top) :]
                    if member.isfile() and member.name.startswith(top) and wanted(name):
                        file = archive.extractfile(member)
                        assert file
                        yield name, file.read()
        except (tarfile.TarError, EOFError, OSError) as error:
            remedy = "delete that file and build again"
            raise BuildError("extract", f"cannot read {path} ({error})", remedy) from None


class Directory:
    """A developer's own llama.cpp tree."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        if not (self.root / "src" / "llama-kv-cache.cpp").is_file():
            raise BuildError(
                "own tree",
                f"{self.root} is not a llama.cpp tree (no src/llama-kv-cache.cpp)",
                "point XQUANT_LLAMA_CPP at the top of a llama.cpp checkout, or unset it",
            )

    @property
    def identity(self) -> str:
        rows = [str(self.root)]
        for path, name in self._walk():
            state = path.stat()
            rows.append(f"{name} {state.st_size} {state.st_mtime_ns}")
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()

    def files(self) -> Iterator[tuple[str, bytes]]:
        for path, name in self._walk():
            yield name, path.read_bytes()

    def _walk(self) -> Iterator[tuple[Path, str]]:
        for folder, folders, names in os.walk(self.root):
            here = Path(folder).relative_to(self.root)
            folders[:] = sorted(f for f in folders if wanted((here / f / "_").as_posix()))
            for name in sorted(names):
                path = here / name
                if wanted(path.as_posix()) and (self.root / path).is_file():
                    yield self.root / path, path.as_posix()


def wanted(name: str) -> bool:
    parts = name.split("/")
    own_build = len(parts) > 1 and parts[0].startswith("build")
    hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
    return not (hidden or own_build or parts[0] in SKIP or ".." in parts)


# ---- the tree ----


def read_series(folder: Path) -> tuple[str, dict[str, list[tuple[str, list[unidiff.Hunk]]]]]:
    """A hash of the series, and for each file it touches the (patch name, hunks) in order."""
    digest = hashlib.sha256()
    touched: dict[str, list[tuple[str, list[unidiff.Hunk]]]] = {}
    for path in sorted(folder.glob("*.patch")):
        text = path.read_bytes()
        digest.update(f"{path.name} {len(text)}\n".encode() + text)
        try:
            for name, hunks in unidiff.parse(text).items():
                touched.setdefault(name, []).append((path.name, hunks))
        except unidiff.PatchError as error:
            remedy = "restore the file, or write it again with upstream.py diff"
            raise BuildError("patch", f"{path.name}: {error}", remedy) from None
    return digest.hexdigest(), touched


def patched(name: str, data: bytes, changes: list[tuple[str, list[unidiff.Hunk]]]) -> bytes:
    for patch, hunks in changes:
        try:
            data = unidiff.apply(data, hunks)
        except unidiff.PatchError as error:
            raise BuildError(
                "patch",
                f"{patch} does not fit {name}: {error}",
                "build the pinned upstream (unset XQUANT_LLAMA_CPP), "
                "or move the series as patches/README.md tells",
            ) from None
    return data


def prepare(tree: Path, source: Archive | Directory, patches: Path | None) -> bool:
    """Bring `tree` to source + patches; True if anything had to be done."""
    series, touched = read_series(patches) if patches else ("", {})
    identity = source.identity
    stamp_file = tree / STAMP
    try:
        stamp = json.loads(stamp_file.read_text("utf-8"))
        same_source, before = stamp["source"] == identity, set(stamp["patched"])
        if same_source and stamp["patches"] == series:
            return False
    except (OSError, ValueError, KeyError):
        same_source, before = False, set()

    # The same sources under another series: only the files that either series touches.
    only = before | set(touched) if same_source else None
    missing = set(touched)
    seen = {STAMP}
    written = 0
    stamp_file.unlink(missing_ok=True)
    for name, data in source.files():
        if only is not None and name not in only:
            continue
        missing.discard(name)
        seen.add(name)
        written += write_if_changed(tree / name, patched(name, data, touched.get(name, [])))
    if missing:
        raise BuildError(
            "patch",
            f"upstream has no {', '.join(sorted(missing))}",
            "move the series as patches/README.md tells",
        )
    if only is None:
        remove_others(tree, seen)
    stamp = {"source": identity, "patches": series, "patched": sorted(touched)}
    stamp_file.write_text(json.dumps(stamp, indent=1) + "\n", "utf-8")
    say(f"{tree}: wrote {written} files; {len(touched)} files are patched")
    return True


def write_if_changed(path: Path, data: bytes) -> bool:
    try:
        if path.read_bytes() == data:
            return False
    except OSError:
        path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return True


def remove_others(tree: Path, keep: set[str]) -> None:
    for folder, _, names in os.walk(tree):
        for name in names:
            path = Path(folder, name)
            if path.relative_to(tree).as_posix() not in keep:
                path.unlink()


def files_of_others(folder: Path, patch: str) -> set[str]:
    """What the patches of a series touch, but for one of them."""
    others = (path for path in folder.glob("*.patch") if path.name != patch)
    return {name for path in others for name in unidiff.parse(path.read_bytes())}


def diff(tree: Path, source: Archive | Directory, without: Container[str] = ()) -> str:
    """How `tree` differs from upstream, as a patch."""
    text: list[str] = []
    for name, data in source.files():
        if name in without:
            continue
        now = (tree / name).read_bytes() if (tree / name).is_file() else data
        if now != data:
            old, new = (x.decode("utf-8").splitlines(keepends=True) for x in (data, now))
            text += difflib.unified_diff(old, new, f"a/{name}", f"b/{name}")
    return "".join(text)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Provide the patched llama.cpp tree.")
    parser.add_argument("command", choices=("prepare", "diff", "fetch"))
    parser.add_argument("--tree", type=Path, help="the tree in the build directory")
    parser.add_argument("--source", default=os.environ.get("XQUANT_LLAMA_CPP", ""), metavar="DIR")
    parser.add_argument("--stock", action="store_true", help="apply no patch")
    parser.add_argument("--patch", default="", metavar="NAME", help="of patches/, to be written")
    args = parser.parse_args(argv)
    if args.command != "fetch" and not args.tree:
        parser.error(f"{args.command} needs --tree")
    try:
        if args.command == "fetch":
            print(fetch(read_pin()))
            return 0
        source = Directory(Path(args.source)) if args.source else Archive(read_pin())
        if args.command == "diff":
            with contextlib.redirect_stdout(sys.stderr):  # standard output is the patch alone
                others = files_of_others(ROOT / "patches", args.patch) if args.patch else ()
                text = diff(args.tree, source, others)
            sys.stdout.write(text)
        else:
            prepare(args.tree, source, None if args.stock else ROOT / "patches")
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
