"""Where things are on this machine: the bundle's parts, CUDA's libraries, tools."""

from __future__ import annotations

import glob
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).resolve().parents[1]
"""The unpacked bundle: this package lies in it."""

LIBRARIES = ("libcudart.so.13", "libcublas.so.13", "libcuda.so.1", "libcublasLt.so.13")
PLACES = (
    "/usr/local/cuda*/lib64",
    "/usr/local/cuda*/targets/x86_64-linux/lib",
    "/usr/local/nvidia/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/opt/cuda*/lib64",
)
VISIBLE = ("CUDA_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES")
TOOLS = ("/usr/local/cuda*/bin", "/opt/nvidia/nsight-compute/*", "/usr/local/nvidia/bin")


def bundle() -> dict[str, Any]:
    """What ``bundle.py`` says of itself."""
    found: dict[str, Any] = json.loads((BUNDLE / "bundle.json").read_text("utf-8"))
    return found


def library_folders() -> list[str]:
    """Folders of the libraries that the machine brings, each from where it is found first."""
    places = [folder for place in PLACES for folder in sorted(glob.glob(place), reverse=True)]
    places += [f for p in sys.path for f in sorted(glob.glob(f"{p}/nvidia/*/lib"))]
    found: list[str] = []
    for library in LIBRARIES:
        folder = next((p for p in places if os.path.exists(os.path.join(p, library))), None)
        if folder and folder not in found:
            found.append(folder)
    return found


def tool(name: str) -> str | None:
    """A program of the toolkit, on the PATH or where the toolkit is usually put."""
    places = [f for place in TOOLS for f in sorted(glob.glob(place), reverse=True)]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))


def variables() -> dict[str, str]:
    """The environment of every step: the bundle's own Python files and libraries come first."""
    keep = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "LANG", *VISIBLE)
    env = {key: os.environ[key] for key in keep if key in os.environ}
    python = [BUNDLE, BUNDLE / "tests", BUNDLE / "site"]
    libraries = [str(BUNDLE / "lib"), *library_folders(), env.get("LD_LIBRARY_PATH", "")]
    programs = [env.get("PATH", os.defpath), *glob.glob(TOOLS[0])]
    return {
        **env,
        "PATH": os.pathsep.join(programs),
        "PYTHONPATH": os.pathsep.join(map(str, python)),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        "XQUANT_GGUF_LIB": str(BUNDLE / "lib"),
        "XQUANT_KERNELS": str(BUNDLE / "lib" / "cuda-device.so"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
