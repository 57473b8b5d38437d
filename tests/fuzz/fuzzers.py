"""Compile and run one of the fuzzers: README.md beside this file says what each does.

    python tests/fuzz/fuzzers.py address --seconds 300         # operations, under ASan and UBSan
    python tests/fuzz/fuzzers.py plain --operations 1000000    # operations, with XQUANT_GGUF_LIB
    python tests/fuzz/fuzzers.py thread                        # two contexts in two threads, TSan
    python tests/fuzz/fuzzers.py state|config [SECONDS]        # libFuzzer, needs clang

Arguments behind the name go to the program.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import programs

LIBFUZZER = {
    "state": (
        ["state_fuzz.cpp", "models.cpp"],
        ["state", "restore", "saved_tile", "section", "identity", "config", "convert", "tiles"],
    ),
    "config": (["config_fuzz.cpp"], ["config"]),
}
CLANG = "-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all"
LONGEST = {"state": 1 << 16, "config": 512}


def library() -> Path:
    """The folder of XQUANT_GGUF_LIB, or that of the package."""
    named = os.environ.get("XQUANT_GGUF_LIB")
    if named:
        return Path(named)
    from xquant_gguf import _native

    return Path(_native.library_directory())


def scratch() -> Path:
    folder = programs.ROOT / "build" / "fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sanitised(kind: str, names: tuple[str, ...]) -> Path:
    """A program and its library, both compiled with a sanitizer."""
    folder = programs.sanitised(kind)
    out = scratch() / f"{names[0]}-{kind}"
    programs.program(out, programs.named(names), folder, programs.flags(kind))
    return out


def libfuzzer(name: str, seconds: int) -> int:
    """Run one of libFuzzer's programs; what it finds lies in ``build/fuzz``."""
    harness, ours = LIBFUZZER[name]
    out, corpus = scratch() / f"{name}-fuzz", scratch() / f"{name}-corpus"
    corpus.mkdir(exist_ok=True)
    sources = [programs.HERE / file for file in harness]
    sources += [programs.ROOT / "cpp" / "cache" / f"{file}.cpp" for file in ours]
    # Our sources come instrumented, and before libllama's own copies of the same functions.
    programs.program(out, sources, library(), [CLANG, "-rdynamic"], "clang++")
    # Each allocation has a limit, not the peak of the process, which a large parent leaves to it.
    limits = [f"-max_total_time={seconds}", f"-max_len={LONGEST[name]}", "-rss_limit_mb=0"]
    limits += [
        "-malloc_limit_mb=1024",
        "-timeout=10",
        f"-artifact_prefix={scratch()}/",
        "-print_final_stats=1",
    ]
    env = {**os.environ, "XQ_SEEDS": str(corpus)}
    return subprocess.run([str(out), *limits, str(corpus)], env=env).returncode


def main() -> int:
    name, *rest = sys.argv[1:] or [""]
    if name in LIBFUZZER:
        if not shutil.which("clang++"):
            print("libFuzzer needs clang++")
            return 0
        return libfuzzer(name, int(rest[0]) if rest else 600)
    if name == "plain":
        program = scratch() / "fuzz-plain"
        programs.program(program, programs.named(programs.FUZZ), library())
    elif name == "address":
        program = sanitised("address", programs.FUZZ)
    elif name == "thread":
        program = sanitised("thread", programs.THREADS)
    else:
        print(__doc__)
        return 2
    return subprocess.run([str(program), *rest]).returncode


if __name__ == "__main__":
    sys.exit(main())
