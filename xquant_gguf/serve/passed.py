"""Which options of llama-server may follow after ``--``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..errors import ConfigError

_OURS = {
    "MODEL": "-m --model -mu --model-url -hf -hfr --hf-repo -hff --hf-file -dr --docker-repo",
    "--kv": "-ctk --cache-type-k -ctv --cache-type-v -fa --flash-attn",
    "--ctx": "-c --ctx-size --kv-unified-per-slot -fitc --fit-ctx",
    "--slots": "-np --parallel",
    "--host": "--host",
    "--port": "--port",
    "--threads": "-t --threads",
    "--gpu-layers": "-ngl --gpu-layers --n-gpu-layers",
}
_SHIFTS = {"--context-shift": "LLAMA_ARG_CONTEXT_SHIFT", "--cache-reuse": "LLAMA_ARG_CACHE_REUSE"}
_OFF = ("", "0", "off", "false", "disabled")


def check_passed(passed: Sequence[str], *, packed: bool) -> None:
    """Refuse what would undo our own options, and what a packed cache cannot do.

    llama-server itself goes on without context shift and cache reuse where a cache cannot move
    tokens, and says so among hundreds of lines of its log.

    Raises:
        ConfigError: there is such an option, or such an environment variable of llama-server's.
    """
    names = [word.partition("=")[0] for word in passed if word.startswith("-")]
    for ours, theirs in _OURS.items():
        for name in names:
            if name in theirs.split():
                raise ConfigError(
                    "options that xquant serve has itself go before --", name, f"use {ours}"
                )
    if not packed:
        return
    for option, variable in _SHIFTS.items():
        if option in names:
            _refuse(option)
        if os.environ.get(variable, "").lower() not in _OFF:
            _refuse(f"{variable}={os.environ[variable]}")


def _refuse(found: str) -> None:
    raise ConfigError(
        "a packed cache cannot move tokens to other positions: packed keys cannot be rotated",
        found,
        "leave it out, or serve with --kv f16 or another stock type",
    )
