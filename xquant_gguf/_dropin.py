"""``import llama_cpp`` with our library where llama-cpp-python was installed without one.

The build installs this file a second time, beside the package as ``_xquant_gguf_dropin.py``,
and a ``.pth`` that calls :func:`install` whenever Python starts. So it imports nothing but what
every Python has loaded by then, and never the package: a checkout must stay first in line.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing costs milliseconds
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from typing import Any

LIB_VARIABLE = "XQUANT_GGUF_LIB"
"""Environment variable with the folder of a developer's build of the library."""

LLAMA_CPP_VARIABLE = "LLAMA_CPP_LIB_PATH"
"""Environment variable with the folder in which ``llama_cpp`` looks for its library."""

_NAMES = {"win32": ("llama.dll", "libllama.dll"), "darwin": ("libllama.so", "libllama.dylib")}


def library_names() -> tuple[str, ...]:
    """File names of the llama library that ``llama_cpp`` looks for on this platform."""
    return _NAMES.get(sys.platform, ("libllama.so",))


def has_library(directory: str | os.PathLike[str]) -> bool:
    """Whether the folder holds a llama library."""
    return any(os.path.exists(os.path.join(directory, name)) for name in library_names())


def install(library: str) -> None:
    """Wait for the first import of ``llama_cpp``, and name our library if it has none then.

    Nothing is changed before that import: neither the environment, which processes started from
    this one inherit, nor the modules. Never raises.

    Args:
        library: folder of our library; that of XQUANT_GGUF_LIB takes its place.
    """
    waiting = any(type(finder).__name__ == _Waiting.__name__ for finder in sys.meta_path)
    if "llama_cpp" not in sys.modules and not waiting:
        sys.meta_path.insert(0, _Waiting(library))


class _Waiting:
    """A finder that finds nothing: it only learns that ``llama_cpp`` is about to be imported."""

    def __init__(self, library: str) -> None:
        self._library = library
        self._asking = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name == "llama_cpp" and not self._asking:
            self._asking = True
            try:
                if _name_library(self._library) and self in sys.meta_path:
                    sys.meta_path.remove(self)
            except Exception:  # whatever is wrong, llama_cpp's own error says it better
                pass
            self._asking = False
        return None


def _name_library(library: str) -> bool:
    """Name the folder if that helps. False while no ``llama_cpp`` can be found."""
    from importlib.util import find_spec

    spec = find_spec("llama_cpp")
    if spec is None:
        return False
    library = os.path.abspath(os.environ.get(LIB_VARIABLE) or library)
    has_own = any(
        has_library(os.path.join(folder, "lib"))
        for folder in spec.submodule_search_locations or [os.curdir]
    )
    if LLAMA_CPP_VARIABLE not in os.environ and not has_own and has_library(library):
        os.environ[LLAMA_CPP_VARIABLE] = library
    return True
