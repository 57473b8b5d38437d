#!/usr/bin/env python3
"""Build the unpatched libllama once, for tests that compare with it.

    stock.py [--print-only]

Prints the directory that holds libllama as its last line. The build is kept in the
cache (XQUANT_CACHE, see upstream.py) under a hash of what it depends on, and takes the
options in CMAKE_ARGS, so that it differs from the packed build in the patch alone.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import upstream
from upstream import ROOT, BuildError, say


def options() -> list[str]:
    return shlex.split(os.environ.get("CMAKE_ARGS", ""))


def generator() -> list[str]:
    """Ninja where there is one, by its path: a build tree may remember one of a deleted venv."""
    ninja = shutil.which("ninja")
    return ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []


def build_dir() -> Path:
    """One per checkout, upstream, options, generator, compiler and machine (-march=native)."""
    facts = [
        str(ROOT),  # CMake refuses a build tree that another source directory configured
        upstream.read_pin().sha256,
        os.environ.get("XQUANT_LLAMA_CPP", ""),
        *options(),
        *generator()[:2],
        *(os.environ.get(name, "") for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS")),
        *(platform.node(), platform.machine(), platform.system()),
    ]
    key = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]
    return upstream.cache_dir() / f"stock-{key}"


def run(step: str, command: list[str], log: Path) -> None:
    with log.open("a", encoding="utf-8") as out:
        code = subprocess.call(command, stdout=out, stderr=subprocess.STDOUT)
    if code:
        tail = log.read_text("utf-8", "replace").rstrip().splitlines()[-15:]
        print("\n".join(tail), file=sys.stderr)
        raise BuildError(step, f"{command[0]} exited with {code}", f"read {log}")


def build() -> Path:
    """The directory of the unpatched libraries; a second call only looks whether it is current."""
    place = build_dir()
    cmake = shutil.which("cmake")
    if not cmake:
        raise BuildError("stock", "no cmake on PATH", "install it (pip install cmake)")
    start = time.monotonic()
    if not (place / "CMakeCache.txt").is_file():
        say("building the unpatched llama.cpp to compare with (once, some minutes)")
    place.mkdir(parents=True, exist_ok=True)
    log = place / "build.log"
    log.write_text("", "utf-8")
    only = ["-DXQUANT_STOCK=ON", "-DXQUANT_TOOLS=OFF", "-DCMAKE_BUILD_TYPE=Release"]
    configure = [cmake, "-S", str(ROOT), "-B", str(place), *generator(), *options(), *only]
    run("stock configure", configure, log)
    jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count() or 1)
    command = [cmake, "--build", str(place), "--config", "Release", "--parallel", jobs]
    run("stock build", command, log)
    say(f"unpatched llama.cpp ready after {time.monotonic() - start:.1f} s")
    return place / "bin"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build the unpatched libllama for comparisons.")
    parser.add_argument("--print-only", action="store_true", help="say where, build nothing")
    args = parser.parse_args(argv)
    try:
        print(build_dir() / "bin" if args.print_only else build())
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
