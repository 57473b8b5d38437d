"""The native library: where it lies, that it is ours, and its C API as typed calls.

``llama_cpp`` loads whatever library LLAMA_CPP_LIB_PATH names, once in a
process. So this module sets that variable first, imports ``llama_cpp`` and
then binds the functions of ``cpp/capi/xquant.h`` in the same library.

The library is ``xquant_gguf/lib`` in the package. A developer's build folder
takes its place through XQUANT_GGUF_LIB; only a library named that way may lack
the packed cache, and then serves stock types alone.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ._dropin import LIB_VARIABLE, LLAMA_CPP_VARIABLE, has_library, library_names
from .errors import ConfigError, LibraryError

ABI_VERSION = 1
"""Version of the C API that this package speaks."""


@dataclass(frozen=True)
class Native:
    """The loaded library. ``packed`` says whether it has the packed cache."""

    directory: Path
    lib: ctypes.CDLL
    packed: bool

    def require_packed(self) -> None:
        """Raise LibraryError unless the library has the packed cache."""
        if not self.packed:
            raise LibraryError(
                "a packed cache needs a library built with XQuant",
                f"a stock llama.cpp in {self.directory}",
                f'unset {LIB_VARIABLE}, point it at a patched build, or use kv="f16"',
            )

    def ggml_type(self) -> int:
        """The ``enum ggml_type`` value that asks llama.cpp for a packed cache."""
        return int(self.lib.xq_ggml_type())

    def config_set(self, text: str | None) -> None:
        """Set what packed contexts created next *by this thread* use; None goes back to defaults.

        Raises:
            ConfigError: the library refuses the settings.
        """
        if self.lib.xq_config_set(None if text is None else text.encode()) != 0:
            raise ConfigError.from_native(self.last_error() or "the library refused the settings")

    def last_error(self) -> str:
        """The library's last error text in this thread, "" if there is none."""
        if not self.packed:
            return ""
        text: bytes | None = self.lib.xq_last_error()
        return (text or b"").decode("utf-8", "replace")

    def report(self, ctx: int) -> dict[str, Any] | None:
        """The live report of a context, or None if its cache is not packed."""
        if not self.packed:
            return None
        text = _read_text(lambda buf, size: int(self.lib.xq_report(ctx, buf, size)))
        if text is None:
            return None
        report: dict[str, Any] = json.loads(text)
        return report

    def memory(self, ctx: int) -> dict[str, Any]:
        """Bytes that a context and its model take, or would take; see ``xq_memory``."""
        self.require_packed()
        text = _read_text(lambda buf, size: int(self.lib.xq_memory(ctx, buf, size)))
        found: dict[str, Any] = json.loads(text or "{}")
        return found

    def cache_bytes(self, ctx: int) -> int | None:
        """Bytes of a context's keys and values; None where the library cannot tell."""
        if not self.packed:
            return None
        found = self.memory(ctx)
        return sum(int(b["context"]) for b in found["buffers"]) - int(found["recurrent"])

    def gpu_backends(self) -> list[str]:
        """ggml's names of the GPU backends with packed kernels; none in a CPU-only build."""
        if not hasattr(self.lib, "xq_gpu_backends"):
            return []
        text = _read_text(lambda buf, size: int(self.lib.xq_gpu_backends(buf, size)))
        return [name for name in (text or "").split(",") if name]

    def cpu_implementations(self) -> list[str]:
        """Names of the CPU kernels of this machine; the first one is in use.

        Raises:
            ConfigError: XQUANT_CPU names none of them.
        """
        if not self.packed:
            return []
        text = _read_text(lambda buf, size: int(self.lib.xq_cpu_implementations(buf, size)))
        if text is None:
            raise ConfigError.from_native(self.last_error())
        return [name for name in (text or "").split(",") if name]

    @contextmanager
    def one_pass(
        self, config: str, k_bits: Sequence[float], v_bits: Sequence[float]
    ) -> Iterator[OnePass]:
        """What a forward pass says about layers; see ``xq_one_pass_new``.

        Raises:
            ConfigError: the library refuses the settings.
        """
        k = (ctypes.c_double * len(k_bits))(*k_bits)
        v = (ctypes.c_int * len(v_bits))(*(int(bits) for bits in v_bits))
        pointer = self.lib.xq_one_pass_new(config.encode(), k, len(k), v, len(v))
        if not pointer:
            raise ConfigError.from_native(self.last_error())
        try:
            yield OnePass(self.lib, pointer)
        finally:
            self.lib.xq_one_pass_free(pointer)

    def abort_when(self, ctx: int, flag: ctypes.c_int) -> None:
        """Let a context abandon what it computes, between two operations, while ``flag`` is not 0.

        The flag is read without Python. A library that cannot do that goes on to the batch's end.
        """
        if not hasattr(self.lib, "xq_abort_if"):
            return
        from llama_cpp import llama_cpp

        address = ctypes.cast(self.lib.xq_abort_if, ctypes.c_void_p).value or 0
        llama_cpp.llama_set_abort_callback(
            ctx, llama_cpp.ggml_abort_callback(address), ctypes.addressof(flag)
        )


@dataclass(frozen=True)
class OnePass:
    """A pass that is being made: :attr:`callback` is for the context that makes it."""

    lib: ctypes.CDLL
    pointer: int

    @property
    def callback(self) -> tuple[int, int]:
        """Addresses of the eval callback and of its data."""
        see = ctypes.cast(self.lib.xq_one_pass_see, ctypes.c_void_p).value or 0
        return see, self.pointer

    def begin(self, ctx: int) -> None:
        """Name the context, before its first batch."""
        self.lib.xq_one_pass_in(self.pointer, ctx)

    def costs(self) -> list[dict[str, Any]]:
        """What was found of each layer."""
        text = _read_text(
            lambda buf, size: int(self.lib.xq_one_pass_costs(self.pointer, buf, size))
        )
        layers: list[dict[str, Any]] = json.loads(text or "{}")["layers"]
        return layers


@functools.cache
def load() -> Native:
    """Find and load the library, once a process.

    Raises:
        LibraryError: no library, another one already loaded by ``llama_cpp``, or a
            C API version that this package does not speak.
    """
    directory = library_directory()
    _refuse_other_library(directory)
    os.environ[LLAMA_CPP_VARIABLE] = str(directory)
    try:
        import llama_cpp.llama_cpp as binding
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise LibraryError(
            "llama_cpp must be able to load our library",
            f"{type(error).__name__}: {error}",
            "reinstall xquant-gguf together with the llama-cpp-python version it names",
        ) from error
    lib: ctypes.CDLL = binding._lib
    packed = hasattr(lib, "xq_abi_version")
    if packed:
        _bind(lib)
        _check_abi(int(lib.xq_abi_version()), directory)
    elif not os.environ.get(LIB_VARIABLE):
        raise LibraryError(
            "the installed library must have the packed cache",
            f"a stock llama.cpp in {directory}",
            "reinstall xquant-gguf",
        )
    return Native(directory, lib, packed)


def library_directory() -> Path:
    """Folder of the library: XQUANT_GGUF_LIB if set, else ``lib`` in the package.

    A checkout has no ``lib`` of its own; Python started there imports it all the same, so
    the installed package's folder serves it.

    Raises:
        LibraryError: the folder has no llama library in it.
    """
    chosen = os.environ.get(LIB_VARIABLE)
    directory = Path(chosen) if chosen else Path(__file__).parent / "lib"
    if not chosen and not directory.is_dir():
        directory = _installed_directory() or directory
    if not has_library(directory):
        raise LibraryError(
            f"the library folder must hold {' or '.join(library_names())}",
            str(directory),
            f"correct {LIB_VARIABLE}" if chosen else "reinstall xquant-gguf",
        )
    return directory.resolve()


def _installed_directory() -> Path | None:
    try:
        installed = metadata.distribution("xquant-gguf").locate_file("xquant_gguf/lib")
    except metadata.PackageNotFoundError:
        return None
    path = Path(str(installed))
    return path if path.is_dir() else None


def _refuse_other_library(directory: Path) -> None:
    binding = sys.modules.get("llama_cpp.llama_cpp")
    loaded = getattr(getattr(binding, "_lib", None), "_name", None)
    if loaded is not None and Path(loaded).resolve().parent != directory:
        raise LibraryError(
            "llama_cpp must use our library, and a process can load only one",
            f"llama_cpp already imported with {loaded}",
            "import Llama from xquant_gguf before llama_cpp, in a fresh process",
        )


def _check_abi(found: int, directory: Path) -> None:
    if found != ABI_VERSION:
        raise LibraryError(
            f"the library must speak version {ABI_VERSION} of the C API",
            f"version {found} in {directory}",
            "install library and package from the same release",
        )


def _bind(lib: ctypes.CDLL) -> None:
    text_out = [ctypes.c_char_p, ctypes.c_int]
    doubles, ints = ctypes.POINTER(ctypes.c_double), ctypes.POINTER(ctypes.c_int)
    for name, arguments, result in (
        ("xq_abi_version", [], ctypes.c_int),
        ("xq_ggml_type", [], ctypes.c_int),
        ("xq_config_set", [ctypes.c_char_p], ctypes.c_int),
        ("xq_last_error", [], ctypes.c_char_p),
        ("xq_report", [ctypes.c_void_p, *text_out], ctypes.c_int),
        ("xq_memory", [ctypes.c_void_p, *text_out], ctypes.c_int),
        ("xq_cpu_implementations", text_out, ctypes.c_int),
        ("xq_gpu_backends", text_out, ctypes.c_int),
        (
            "xq_one_pass_new",
            [ctypes.c_char_p, doubles, ctypes.c_int, ints, ctypes.c_int],
            ctypes.c_void_p,
        ),
        ("xq_one_pass_in", [ctypes.c_void_p, ctypes.c_void_p], None),
        ("xq_one_pass_costs", [ctypes.c_void_p, *text_out], ctypes.c_int),
        ("xq_one_pass_free", [ctypes.c_void_p], None),
    ):
        if name.startswith(("xq_gpu", "xq_one_pass")) and not hasattr(lib, name):
            continue  # a library from before there were any
        function = getattr(lib, name)
        function.argtypes = arguments
        function.restype = result


def _read_text(call: Any) -> str | None:
    """Run a "length needed" call with a buffer that is large enough; None if it returns -1."""
    needed = call(None, 0)
    while needed >= 0:
        buffer = ctypes.create_string_buffer(needed + 1)
        length = call(buffer, needed + 1)
        if length <= needed:
            return buffer.value.decode("utf-8") if length >= 0 else None
        needed = length
    return None
