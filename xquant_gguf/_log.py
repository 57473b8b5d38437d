"""Collect llama.cpp's log while something is created, so that a failure can say why."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR, ggml.h


@contextlib.contextmanager
def captured(*, forward: bool) -> Iterator[list[str]]:
    """Route log messages into a list of error lines for the length of a ``with`` block.

    Args:
        forward: also hand every message on to llama_cpp's own logger (``verbose=True``).
            Otherwise nothing is printed at all.

    The log hook of llama.cpp is global: messages of other threads land here too.
    """
    from llama_cpp import _logger, llama_cpp

    errors: list[str] = []

    def collect(level: int, text: bytes, user_data: Any) -> None:
        if level == _ERROR_LEVEL:
            errors.append(text.decode("utf-8", "replace").strip())
        if forward:
            _logger.llama_log_callback(level, text, user_data)

    hook = llama_cpp.llama_log_callback(collect)  # must outlive its use
    llama_cpp.llama_log_set(hook, ctypes.c_void_p(0))
    try:
        yield errors
    finally:
        llama_cpp.llama_log_set(_logger.llama_log_callback, ctypes.c_void_p(0))
