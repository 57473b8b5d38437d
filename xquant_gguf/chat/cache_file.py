"""The cache of a saved chat, in a file of its own beside it: going on then reads nothing again.

It holds arrays and bytes only, nothing that is executed when it is read, and belongs to one
content of the chat's file. Whatever is wrong with it costs no more than reading the chat again.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .._files import reason, user_path, write_whole
from ..errors import XQuantError, unexpected

_SUFFIX = ".cache"
_ARRAYS = ("chat", "ids", "state", "numbers")


def save(path: Path, chat: Any) -> str:
    """Write the cache beside a saved chat.

    Returns:
        What to add to the message: "" if there is nothing to keep.
    """
    save_state = getattr(chat.llm, "save_state", None)
    if save_state is None or not chat.conversation.messages:
        return ""
    try:
        state = save_state()
        file = io.BytesIO()
        np.savez(
            file,
            chat=np.frombuffer(_digest(path), np.uint8),
            ids=np.asarray(state.input_ids[: state.n_tokens], np.int32),
            state=np.frombuffer(state.llama_state, np.uint8),
            numbers=np.array([state.n_tokens, state.seed, state.checksum], np.int64),
        )
        write_whole(_beside(path), file.getvalue(), private=True)
    except (OSError, XQuantError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        return f", but not its cache ({why}): it will be read again"
    return f" and {len(file.getvalue()) / 2**20:.1f} MiB of cache beside it"


def load(path: str, chat: Any) -> str:
    """Put the cache of a saved chat into the model.

    Returns:
        What to add to the message: "" if there is no such file.
    """
    from llama_cpp.llama import LlamaState

    full = user_path(path)
    # unlike Path.exists, it does not raise where the longer name is no name: there is no such file
    if not os.path.exists(_beside(full)) or not hasattr(chat.llm, "load_state"):
        return ""
    try:
        with np.load(_beside(full), allow_pickle=False) as file:
            digest, ids, data, numbers = (file[name] for name in _ARRAYS)
        if digest.tobytes() != _digest(full):
            return "; its cache is of another version of it and not used"
        count, seed, checksum = (int(number) for number in numbers)
        raw = data.tobytes()
        rows = np.zeros((0, chat.llm.n_vocab()), np.single)
        state: Any = LlamaState(ids, rows, count, raw, len(raw), seed)
        state.checksum = checksum
        chat.llm.load_state(state)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError, XQuantError) as error:
        return f"; its cache cannot be used ({unexpected(error)})"
    chat.conversation.held = count
    return f", {count} tokens ready in the cache"


def _beside(path: Path) -> Path:
    return path.with_name(path.name + _SUFFIX)


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
