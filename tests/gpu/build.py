"""Compiles the emulated libraries with the plain C++ compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CPP = HERE.parents[1] / "cpp"
GPU = Path("kernels/gpu")
COMMON = [GPU / "emulated" / f"{name}.cpp" for name in ("emulator", "api")]
CUDA = [GPU / "cuda" / f"{name}.cu" for name in ("attend", "batch", "seal", "store")]
SOURCES = {
    "cuda-emulated": [*COMMON, GPU / "emulated/calls_cuda.cpp", *CUDA],
    "metal-emulated": [*COMMON, GPU / "emulated/calls_metal.cpp"],
}
DEVICE = "cuda-device"
"""The host that runs kernel cases on a CUDA device (python/gpu); here it runs on the emulator."""
FLAGS = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fPIC"]
METAL = ["-D__METAL_VERSION__=320", f"-I{HERE / 'shim'}", "-Wno-attributes", "-Wno-unknown-pragmas"]
LIMIT = 600


def run(*command: str | Path, env: dict[str, str] | None = None, limit: float = LIMIT) -> str:
    """What the command prints; the test fails with it where the command does."""
    done = subprocess.run(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=limit,
        env={**os.environ, **(env or {})},
    )
    if done.returncode != 0:
        pytest.fail(f"{Path(command[0]).name} failed:\n{done.stdout}", pytrace=False)
    return done.stdout


def compiler() -> str:
    name = os.environ.get("CXX", "c++")
    found = shutil.which(name)
    if not found:
        pytest.skip(f"no {name}, to build the emulator with")
    return found


def emulated(name: str, out: Path, cpp: Path = CPP, more: tuple[str, ...] = ()) -> Path:
    """The library of an emulated implementation, from the sources below ``cpp``."""
    flags = [*FLAGS, *(METAL if name == "metal-emulated" else []), *more, f"-I{cpp}"]
    objects = []
    for source in SOURCES[name]:
        objects.append(out / f"{name}-{source.stem}.o")
        run(compiler(), *flags, "-x", "c++", "-c", cpp / source, "-o", objects[-1])
    library = out / f"{name}.so"
    run(compiler(), "-shared", "-Wl,--no-undefined", *more, *objects, "-o", library)
    return library


def copied(out: Path) -> Path:
    """A copy of the sources, to put defects into."""
    for part in ("format", "capi", "kernels/gpu"):
        shutil.copytree(CPP / part, out / "cpp" / part)
    return out / "cpp"
