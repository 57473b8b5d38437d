"""``python -m check.device BACKEND``: what the device is, as found; nothing is set."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from xquant_gguf import _native
from xquant_gguf.selftest.devices import find_devices

from .environment import tool
from .run import say

FIELDS = (
    *("name", "driver_version", "compute_cap", "memory.total", "memory.used", "vbios_version"),
    *("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "clocks.applications.graphics"),
    *("power.limit", "power.draw", "temperature.gpu", "persistence_mode", "mig.mode.current"),
    *("pcie.link.gen.current", "pcie.link.width.current", "ecc.mode.current"),
)
ATTRIBUTES = {  # enum cudaDeviceAttr
    "multiprocessors": 16,
    "shared_of_block": 8,
    "shared_of_multiprocessor": 81,
    "registers_of_multiprocessor": 82,
    "l2_bytes": 38,
    "threads_of_multiprocessor": 39,
    "major": 75,
    "minor": 76,
}
LANES = 128
"""Of a multiprocessor on 8.6, 8.9 and 9.0: four schedulers issue a warp a clock."""


def smi() -> dict[str, str]:
    program = tool("nvidia-smi")
    if not program:
        return {}
    found = asked(program, FIELDS)
    if found:
        return found
    for field in FIELDS:  # a driver that does not know one of them answers none
        found.update(asked(program, (field,)))
    return found


def asked(program: str, fields: Sequence[str]) -> dict[str, str]:
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except subprocess.TimeoutExpired:
        return {}
    if done.returncode != 0 or not done.stdout:
        return {}
    return dict(zip(fields, (x.strip() for x in done.stdout.splitlines()[0].split(","))))


def attributes() -> dict[str, int]:
    try:
        runtime = ctypes.CDLL("libcudart.so.13")
    except OSError:
        return {}
    value, found = ctypes.c_int(), {}
    for name, number in ATTRIBUTES.items():
        if runtime.cudaDeviceGetAttribute(ctypes.byref(value), number, 0) == 0:
            found[name] = value.value
    return found


def issue_rate(found: dict[str, int], clocks: dict[str, str]) -> float | None:
    """Lanes of instructions a second at the highest clock: reckoned, not measured."""
    try:
        return found["multiprocessors"] * LANES * float(clocks["clocks.max.sm"]) * 1e6
    except (KeyError, ValueError):
        return None


def main() -> int:
    (backend,) = sys.argv[1:]
    devices = find_devices(_native.load()).devices
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    clocks, found = smi(), attributes()
    what: dict[str, Any] = {
        "devices": [vars(device) for device in devices],
        "cpu": cpu,
        "cpu_kernels": _native.load().cpu_implementations(),
        "nvidia_smi": clocks,
        "attributes": found,
        "issue_rate": issue_rate(found, clocks),
    }
    say(device=what)
    for device in devices:
        print(f"{device.name}: {device.description}")
    if backend != "cpu" and not any(device.has_kernels for device in devices):
        print(f"ggml finds no {backend} device with packed kernels here")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
