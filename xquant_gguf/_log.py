"""Collect llama.cpp's log while something is created, so that a failure can say why."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from typing import Any

_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR, ggml.h
_LOCK = threading.Lock()
_local = threading.local()
_state: dict[str, Any] = {"hook": None, "depth": 0, "before": None}


@contextlib.contextmanager
def captured(*, forward: bool) -> Iterator[list[str]]:
    """Route log messages into a list of error lines for the length of a ``with`` block.

    Args:
        forward: also hand every message on to the logger that was there before
            (``verbose=True``). Otherwise nothing is printed at all.

    Only messages of the calling thread are collected; llama.cpp's own threads and other
    callers keep the logger that was there before.
    """
    from llama_cpp import llama_cpp

    errors: list[str] = []
    outer = getattr(_local, "sink", None)
    _local.sink = (errors, forward)
    with _LOCK:
        _install(llama_cpp)
    try:
        yield errors
    finally:
        _local.sink = outer
        with _LOCK:
            _uninstall(llama_cpp)


def _install(llama_cpp: Any) -> None:
    if _state["hook"] is None:
        # kept for good: another thread may be inside it when it is taken out
        _state["hook"] = llama_cpp.llama_log_callback(_collect)
    if _state["depth"] == 0:
        before, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
        llama_cpp.llama_log_get(ctypes.byref(before), ctypes.byref(data))
        _state["before"] = (before, data)
        llama_cpp.llama_log_set(_state["hook"], ctypes.c_void_p(0))
    _state["depth"] += 1


def _uninstall(llama_cpp: Any) -> None:
    _state["depth"] -= 1
    if _state["depth"] == 0:
        llama_cpp.llama_log_set(*_state["before"])


def _collect(level: int, text: bytes, user_data: Any) -> None:
    sink = getattr(_local, "sink", None)
    if sink is not None and level == _ERROR_LEVEL:
        sink[0].append(text.decode("utf-8", "replace").strip())
    if sink is None or sink[1]:
        before, data = _state["before"]
        if before:
            before(level, text, data)
