"""XQuant for llama.cpp: a ``llama_cpp.Llama`` whose KV cache is packed to one to four bits.

Names are loaded on first use, so that settings and errors can be imported
without touching the native library.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _dropin

if TYPE_CHECKING:
    from .config import PRESETS, XQuantConfig
    from .errors import (
        CancelledError,
        ClosedError,
        ConfigError,
        ContextFullError,
        ForkError,
        LibraryError,
        ModelFileError,
        OutOfMemoryError,
        PromptError,
        SessionFileError,
        SupersededError,
        UnsupportedModelError,
        XQuantError,
        XQuantWarning,
    )
    from .kv_cache import KVCache
    from .llama import Llama

_HOME = {
    "Llama": "llama",
    "KVCache": "kv_cache",
    "XQuantConfig": "config",
    "PRESETS": "config",
    "XQuantError": "errors",
    "XQuantWarning": "errors",
    "ConfigError": "errors",
    "ModelFileError": "errors",
    "UnsupportedModelError": "errors",
    "LibraryError": "errors",
    "OutOfMemoryError": "errors",
    "ContextFullError": "errors",
    "SessionFileError": "errors",
    "PromptError": "errors",
    "ClosedError": "errors",
    "ForkError": "errors",
    "CancelledError": "errors",
    "SupersededError": "errors",
}

__all__ = [
    "PRESETS",
    "CancelledError",
    "ClosedError",
    "ConfigError",
    "ContextFullError",
    "ForkError",
    "KVCache",
    "LibraryError",
    "Llama",
    "ModelFileError",
    "OutOfMemoryError",
    "PromptError",
    "SessionFileError",
    "SupersededError",
    "UnsupportedModelError",
    "XQuantConfig",
    "XQuantError",
    "XQuantWarning",
]

try:
    __version__ = version("xquant-gguf")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_dropin.install(str(Path(__file__).parent / "lib"))  # where no .pth has done it


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
