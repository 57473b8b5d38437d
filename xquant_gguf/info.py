"""``xquant info``: what is installed, what of it this machine can use, and why not the rest."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import __version__, _native
from ._measuring import exit_code
from .memory import MIB, available_bytes
from .selftest.cli import KNOWN
from .selftest.devices import GPU_BACKENDS, find_devices

_X86 = {
    "avx512": "avx2 fma avx512f avx512bw avx512vl avx512dq avx512_vnni avx512vbmi avx512_vbmi2",
    "avx-vnni": "avx2 fma avx_vnni",
    "avx2": "avx2 fma",
}
_ARM = {"neon-dotprod": "asimddp", "neon": "asimd"}
_IS_X86 = ("x86_64", "amd64", "i686", "i386")


def main(argv: Sequence[str] | None = None) -> int:
    """Print it; returns the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    argparse.ArgumentParser(prog="xquant info", description=__doc__).parse_args(argv)
    native = _native.load()
    found = find_devices(native)
    here = native.cpu_implementations()
    free = available_bytes()
    rows = [
        ("xquant-gguf", __version__),
        ("llama-cpp-python", _version_of("llama-cpp-python")),
        ("Python", f"{platform.python_version()}, {sys.executable}"),
        ("library", f"{native.directory}{'' if native.packed else ', without the packed cache'}"),
        ("free memory", f"{free / MIB:,.0f} MiB" if free is not None else "unknown"),
        ("CPU kernels", f"{here[0]} in use" if here else "none: no packed cache"),
        *((f"  {name}", _kernel(name, here)) for name in KNOWN),
        *(
            (f"device {d.name}", f"{d.description} ({d.backend}){_note(d.why_not())}")
            for d in found.devices
        ),
        *(
            (f"backend {name}", "not built into this library")
            for name in GPU_BACKENDS
            if name not in found.backends
        ),
    ]
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows))
    return 0


def _note(why_not: str) -> str:
    return f": {why_not}" if why_not else ""


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _kernel(name: str, here: Sequence[str]) -> str:
    if name in here:
        return "in use" if name == here[0] else f"runs here; XQUANT_CPU={name} forces it"
    return why_not(name, platform.machine(), _cpu_flags())


def why_not(name: str, machine: str, flags: frozenset[str]) -> str:
    """Why kernels are not used on a machine.

    Args:
        machine: as ``platform.machine()`` names it.
        flags: what its processor says it can do; empty if unknown.
    """
    x86 = machine.lower() in _IS_X86
    if name in _ARM and x86:
        return "for Arm processors"
    if name in _X86 and not x86:
        return "for x86 processors"
    needs = {**_X86, **_ARM}.get(name, "").split()
    missing = [flag for flag in needs if flag not in flags]
    if flags and missing:
        return f"this processor has no {', '.join(missing)}"
    return "not in this build: its compiler does not know them" if flags else "not here"


def _cpu_flags() -> frozenset[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.lower().startswith(("flags", "features")):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()
