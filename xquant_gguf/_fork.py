"""Processes made with ``fork``: llama.cpp's threads stay behind in the parent, and a call would
wait for them for ever.

So it is remembered which process has loaded a model, and a fork of it is refused. A child that is
forked before any model is loaded may load its own.
"""

from __future__ import annotations

import os

from .errors import ForkError

_process: int | None = None


def loading() -> None:
    """Call before a model is loaded.

    Raises:
        ForkError: a process that has loaded one was forked into this one.
    """
    global _process
    check()
    _process = os.getpid()


def forked() -> bool:
    """Whether this is a child of the process that loaded a model first."""
    return _process is not None and _process != os.getpid()


def check() -> None:
    """Call before a loaded model is used.

    Raises:
        ForkError: see :func:`loading`.
    """
    if forked():
        raise ForkError(
            "a process that has loaded a model must not go on in a fork of itself",
            f"process {os.getpid()}, forked from process {_process}",
            'start workers with multiprocessing\'s "spawn", or load models only in the children',
        )
