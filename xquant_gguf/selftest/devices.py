"""What ggml finds on this machine, and which of it runs packed kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _native

_CPU = "CPU"

GPU_BACKENDS = ("CUDA", "Metal", "Vulkan")
"""Backends that people ask about; named in the summary where the library lacks them."""

_KINDS = ("cpu", "gpu", "integrated gpu", "accelerator", "meta")  # enum ggml_backend_dev_type
_ALIASES = {"MTL": "Metal"}
_FILES = ("libggml.so", "libggml.dylib", "ggml.dll", "libggml.dll")


@dataclass(frozen=True)
class Device:
    """One ggml device.

    Attributes:
        name: for example ``CPU`` or ``CUDA0``. description: the product.
        kind: cpu, gpu, integrated gpu, accelerator or meta. backend: the part of ggml
            that drives it. has_kernels: it is a GPU that the library has packed kernels for.
    """

    name: str
    description: str
    kind: str
    backend: str
    has_kernels: bool = False

    @property
    def packed(self) -> bool:
        """Whether packed kernels are tested on it."""
        return self.has_kernels or self.backend == _CPU

    def why_not(self) -> str:
        """Why it is not tested; "" if it is."""
        if self.packed:
            return ""
        if self.kind == "accelerator":
            return f"{self.backend} takes no part in packed attention"
        return f"this build has no packed kernels for {self.backend}"


@dataclass(frozen=True)
class Found:
    """All devices, and all backends that are built in, with or without a device."""

    devices: tuple[Device, ...]
    backends: tuple[str, ...]


def find_devices(native: _native.Native) -> Found:
    """Ask ggml."""
    ggml = _Ggml(native)
    with_kernels = native.gpu_backends()
    devices = []
    for i in range(ggml.call("ggml_backend_dev_count", ctypes.c_size_t)):
        handle = ggml.call("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t(i))
        kind = ggml.call("ggml_backend_dev_type", ctypes.c_int, handle)
        driver = ggml.call("ggml_backend_dev_backend_reg", ctypes.c_void_p, handle)
        devices.append(
            Device(
                ggml.text("ggml_backend_dev_name", handle),
                " ".join(ggml.text("ggml_backend_dev_description", handle).split()),
                _KINDS[kind] if 0 <= kind < len(_KINDS) else f"kind {kind}",
                ggml.backend(driver),
                ggml.text("ggml_backend_reg_name", driver) in with_kernels,
            )
        )
    n = ggml.call("ggml_backend_reg_count", ctypes.c_size_t)
    drivers = [
        ggml.call("ggml_backend_reg_get", ctypes.c_void_p, ctypes.c_size_t(i)) for i in range(n)
    ]
    return Found(tuple(devices), tuple(ggml.backend(driver) for driver in drivers))


def not_tested(found: Found, known: Sequence[str], here: Sequence[str]) -> list[str]:
    """What kernels and devices remain untested, and why, one line each.

    Args:
        known: CPU implementations that exist. here: those that run on this machine.
    """
    lines = [
        f"{device.name} ({device.description}): {device.why_not()}"
        for device in found.devices
        if not device.packed
    ]
    lines += [
        f"{device.name}: single strips, rotating and storing new rows by themselves, which only"
        " its layers and a reply contain"
        for device in found.devices
        if device.has_kernels
    ]
    with_device = {device.backend for device in found.devices}
    lines += [
        f"{backend}: built in, but it found no device"
        for backend in found.backends
        if backend not in with_device
    ]
    missing = [name for name in GPU_BACKENDS if name not in found.backends]
    lines += [f"{name}: not built into this library" for name in missing]
    lines += [
        f"CPU kernels {name}: this machine or this build has none"
        for name in known
        if name not in here
    ]
    return lines


class _Ggml:
    """ggml's functions, which lie in a library of their own beside llama's."""

    def __init__(self, native: _native.Native) -> None:
        self._lib: Any = native.lib
        paths = (Path(native.directory) / name for name in _FILES)
        own = next((path for path in paths if path.exists()), None)
        if own is not None:
            self._lib = ctypes.CDLL(str(own))  # loaded already: the same copy

    def call(self, name: str, result: Any, *arguments: Any) -> Any:
        function = self._lib[name]  # a fresh object: other users keep their own types
        function.restype = result
        function.argtypes = [ctypes.c_void_p if type(a) is int else type(a) for a in arguments]
        return function(*arguments)

    def text(self, name: str, handle: int) -> str:
        return (self.call(name, ctypes.c_char_p, handle) or b"").decode("utf-8", "replace")

    def backend(self, handle: int) -> str:
        name = self.text("ggml_backend_reg_name", handle)
        return _ALIASES.get(name, name)
