"""Saved chats: JSON with a format version, written whole or not at all, checked when read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._files import BadJson, read_json, reason, user_path, write_whole
from ..errors import ConfigError, SessionFileError
from .conversation import Message
from .sampling import Sampling

FORMAT = "xquant-gguf chat"
VERSION = 1
_MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Fingerprint:
    """Which model a chat belongs to: file name and size in bytes."""

    name: str
    size: int

    @classmethod
    def of(cls, path: str) -> Fingerprint:
        """Fingerprint of a model file."""
        return cls(Path(path).name, os.path.getsize(path))


@dataclass(frozen=True)
class SavedChat:
    """Everything a session file holds. ``kv`` is the cache as text, for the record."""

    model: Fingerprint
    system: str
    messages: list[Message]
    sampling: Mapping[str, Any]
    kv: str
    n_ctx: int


def save(path: str | Path, chat: SavedChat) -> Path:
    """Write the chat and return the file's full path. An older session file is replaced.

    Raises:
        SessionFileError: the file cannot be written, or is something other than a saved
            chat. What was there before is then untouched.
    """
    text = json.dumps(
        {
            "format": FORMAT,
            "version": VERSION,
            "model": {"file": chat.model.name, "size": chat.model.size},
            "system": chat.system,
            "messages": chat.messages,
            "settings": {**chat.sampling, "kv": chat.kv, "n_ctx": chat.n_ctx},
        },
        ensure_ascii=False,
        indent=1,
    )
    try:
        full = user_path(path)
        if full.exists() and not _is_session(full):
            raise SessionFileError(
                "/save replaces only saved chats", f"another kind of file, {full}", "use a new name"
            )
        write_whole(full, text.encode("utf-8", "replace"), private=True)
    except OSError as error:
        raise SessionFileError(
            "the session file must be writable", f"{path}: {reason(error)}", "use another path"
        ) from error
    return full


def load(path: str | Path, model: Fingerprint) -> SavedChat:
    """Read a chat that was saved with ``model``.

    Raises:
        SessionFileError: unreadable, not a saved chat, from a newer version, or of
            another model.
    """
    source = Path(path)
    content = _read(source)
    if content.get("format") != FORMAT:
        raise _foreign(source, "no saved chat")
    if content.get("version") != VERSION:
        raise SessionFileError(
            f"session files have version {VERSION}",
            f"version {content.get('version')!r} in {source}",
            "use the release that wrote it",
        )
    chat = _chat(source, content)
    if chat.model != model:
        raise SessionFileError(
            "a saved chat belongs to one model",
            f"one of {chat.model.name} ({chat.model.size:,} bytes), not {model.name}",
            f"start the chat with {chat.model.name}",
        )
    return chat


def _read(source: Path) -> dict[str, Any]:
    try:
        content = read_json(source, _MAX_BYTES)
    except OSError as error:
        raise SessionFileError(
            "the session file must be readable", f"{source}: {reason(error)}", "check the path"
        ) from error
    except BadJson as error:
        raise _foreign(source, str(error)) from error
    if not isinstance(content, dict):
        raise _foreign(source, "no saved chat")
    return content


def _chat(source: Path, content: dict[str, Any]) -> SavedChat:
    try:
        messages = [{"role": m["role"], "content": m["content"]} for m in content["messages"]]
        roles = [message["role"] for message in messages]
        texts = [message["content"] for message in messages] + [content["system"]]
        settings = {**content["settings"]}
        chat = SavedChat(
            model=_fingerprint(content["model"]),
            system=content["system"],
            messages=messages,
            sampling=settings,
            kv=str(settings.pop("kv", "")),
            n_ctx=int(settings.pop("n_ctx", 0)),
        )
        Sampling.from_mapping(settings)
    except (KeyError, TypeError, ValueError, OverflowError, ConfigError) as error:
        raise _foreign(source, "an incomplete or altered chat") from error
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise _foreign(source, "messages that do not alternate")
    if not all(isinstance(text, str) for text in texts):
        raise _foreign(source, "messages that are not text")
    return chat


def _fingerprint(content: Mapping[str, Any]) -> Fingerprint:
    name, size = content["file"], content["size"]
    if not isinstance(name, str) or not isinstance(size, int) or isinstance(size, bool):
        raise TypeError("a model is a name and a number of bytes")
    return Fingerprint(name, size)


def _is_session(path: Path) -> bool:
    try:
        return _read(path).get("format") == FORMAT
    except SessionFileError:
        return False


def _foreign(path: Path, what: str) -> SessionFileError:
    return SessionFileError(
        "the file must be a chat that /save wrote", f"{what} in {path}", "load another file"
    )
