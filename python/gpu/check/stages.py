"""Every step of every stage: what runs, how long it may take, and what it needs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xquant_gguf.config import resolve_kv
from xquant_gguf.stock import StockKV

from .environment import BUNDLE, tool
from .run import Step

SECONDS = {
    "build": 420,
    "device": 30,
    "kernels": 110,
    "ggml": 110,
    "speed": 210,
    "sanitize": 60,
    "profile": 80,
}
"""Of each stage: ten minutes in all, beside those of a build."""

QUICK_SECONDS = {**SECONDS, "ggml": 240}
"""Of the dry run, which takes one minute on two free cores; machines that test are busy."""
SEEN_BY_NOBODY = {"CUDA_VISIBLE_DEVICES": "-1", "GGML_VK_VISIBLE_DEVICES": ""}
GRAPHS_OFF = {"GGML_CUDA_DISABLE_GRAPHS": "1"}

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
SANITISED = ("ranked keys", "streams")
"""Few rows and many, with all that storing and sealing do."""

QUICK_CASES = (
    "test_spans or test_pages or test_unbiased_unpack or test_rotate_twice or test_ranked_ties "
    "or half_way or long_lists or many_rows and 64"
)
"""Each kernel, on the emulator in seconds."""

CACHES = ("f16", "balanced", "q4_0", "q8_0", "quality", "tiny")
"""Most wanted first: time may end between any two."""

SPEED = {"llama": CACHES, "qwen3": ("f16", "balanced", "q4_0"), "hybrid": ("f16", "balanced")}
BIG = 6e9  # bytes that the largest model takes, with room


@dataclass(frozen=True)
class Place:
    """Where and how the steps run.

    Attributes:
        backend: cuda, vulkan or cpu. arch: of CUDA. quick: the dry run's sizes.
        work: a folder for what need not be kept. model: of SmolLM2 or what stands in for it.
    """

    backend: str
    arch: str
    quick: bool
    work: Path
    model: Path

    @property
    def device(self) -> str:
        return {"cuda": "CUDA0", "vulkan": "Vulkan0", "cpu": "CPU"}[self.backend]

    @property
    def without_cuda(self) -> str:
        return (
            "" if self.backend == "cuda" else f"only on CUDA, and this bundle is for {self.backend}"
        )


def python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"check.{module}", *map(str, arguments)]


def build(place: Place) -> Iterator[Step]:
    """A bundle of sources has no libraries yet."""
    packer = BUNDLE / "src/python/gpu/bundle.py"
    if packer.exists():
        options = [f"--finish={BUNDLE}", f"--backend={place.backend}", f"--arch={place.arch}"]
        command = [sys.executable, str(packer), *options, f"--build={place.work / 'build'}"]
        environment = {"XQUANT_LLAMA_CPP": str(BUNDLE / "upstream")}
        yield Step("build", "build", command, 420, environment=environment)


def device(place: Place) -> Iterator[Step]:
    yield Step("device", "device", python("device", place.backend), 25)
    size = 64 if place.quick else 2048
    copying = python("programs", "node_bench", place.device, "copy", f"mib={size}")
    yield Step("copy", "device", copying, 25)


def kernels(place: Place) -> Iterator[Step]:
    where = "generic" if place.backend == "cpu" else place.device
    options = ["attention: window"] if place.quick else []
    yield Step("groups", "kernels", python("kernels", "groups", where, *options), 60)
    workers = max(1, min(4, (os.cpu_count() or 1) - 1))
    chosen = ["-k", QUICK_CASES] if place.quick else []
    cases = python("kernels", "cases", workers, *chosen)
    there = (BUNDLE / "lib" / "cuda-device.so").exists()
    why = "" if there else f"the bundle for {place.backend} has no library of single kernels"
    yield Step("cases", "kernels", cases, 100, why)


def ggml(place: Place) -> Iterator[Step]:
    scenario = ["ranked keys"] if place.quick else []
    checked = python("programs", "backend_check", place.device, *scenario)
    yield Step("nodes", "ggml", checked, 60)

    def case(name: str, **environment: str) -> Step:
        command = python("model", name, place.model, place.work)
        label = name + (", graphs off" if environment == GRAPHS_OFF else "")
        skip = ""
        if name == "reply" and "smollm2" not in place.model.name:
            skip = "its model has no words: SmolLM2's parts are not beside check.sh"
        return Step(f"model: {label}", "ggml", command, 60, skip, environment)

    yield case("reference", **SEEN_BY_NOBODY)
    for name in ("logits", "placed", "prefix", "sessions", "partial", "two", "graphs"):
        yield case(name)
    yield case("graphs", **GRAPHS_OFF)
    yield case("reply")


def speed(place: Place) -> Iterator[Step]:
    depth, layers, tokens = (1024, 2, 32) if place.quick else (32768, 16, 256)
    caches = CACHES[:3] if place.quick else CACHES
    for name in caches:
        kv = resolve_kv(name)
        which = name if isinstance(kv, StockKV) else "packed"
        config = [] if isinstance(kv, StockKV) else [f"config={kv.to_text()}"]
        options = [f"depth={depth}", f"layers={layers}", f"tokens={tokens}", "few=2", *config]
        command = python(
            "programs", "node_bench", place.device, which, f"label:kv={name}", *options
        )
        yield Step(f"attention: {name}", "speed", command, 20)
    size, depths, last = "large", "0,8192,32768,131072", 32768
    if place.quick:
        size, depths, last = "small", "0,256,1024,2048", 1024
    for shape, wanted in SPEED.items():
        for name in wanted[:2] if place.quick else wanted:
            ends = depths.rpartition(",")[0] if shape == "hybrid" else depths
            command = python("speed", size, shape, models_folder(place), name, ends, last)
            yield Step(f"speed: {shape}, {name}", "speed", command, 75)


def models_folder(place: Place) -> Path:
    """Memory, if it has room for a model: writing is quicker there than on most disks."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2 * BIG
    folder = memory / "xquant-gpu" if roomy and not place.quick else place.work
    folder.mkdir(exist_ok=True)
    return folder


def sanitize(place: Place) -> Iterator[Step]:
    program = tool("compute-sanitizer")
    skip = place.without_cuda or ("" if program else "no compute-sanitizer here")
    for scenario in SANITISED:
        for name in TOOLS:
            check = [str(BUNDLE / "bin/backend_check"), place.device, scenario]
            command = [program or "", "--tool", name, "--error-exitcode", "9", *check]
            yield Step(f"{name}: {scenario}", "sanitize", command, 30, skip)


def profile(place: Place) -> Iterator[Step]:
    skip = place.without_cuda or ("" if tool("ncu") else "no ncu here")
    common = ["depth=32768", "layers=2", "rounds=1", f"config={balanced()}"]
    launches = {
        "attend, 1 row": ("attend_kernel", 3, ["group=1"]),
        "attend, 4 rows": ("attend_kernel", 3, ["group=4"]),
        "attend, 8 rows": ("attend_kernel", 9, ["group=4", "few=2"]),
        "batch, 256 tokens": ("attend_batch_kernel", 3, ["group=4", "tokens=256"]),
        "seal": ("seal_kernel", 40, ["group=4"]),
    }
    for name, (kernel, past, options) in launches.items():
        command = python("profile", kernel, past, place.device, *options, *common)
        yield Step(f"profile: {name}", "profile", command, 40, skip)


def balanced() -> str:
    kv = resolve_kv("balanced")
    assert not isinstance(kv, StockKV)
    return kv.to_text()


STAGES = {
    "build": build,
    "device": device,
    "kernels": kernels,
    "ggml": ggml,
    "speed": speed,
    "sanitize": sanitize,
    "profile": profile,
}
