"""Commands that load a model anew: another cache, another file. The conversation stays."""

from __future__ import annotations

from ..config import kv_names
from ..errors import ConfigError
from .state import Chat, Command, Result


def _kv(chat: Chat, argument: str) -> Result:
    if not argument:
        cache = chat.llm.kv_cache.snapshot()
        return Result(f"{cache.kind}, {cache.config or 'no settings'}")
    return _open(chat, None, argument)


def _model(chat: Chat, argument: str) -> Result:
    if not argument:
        return Result(chat.model.name)
    return _open(chat, argument, None)


def _open(chat: Chat, path: str | None, kv: str | None) -> Result:
    if chat.open_model is None:
        raise ConfigError("this chat must be able to load models", "one that cannot", "start anew")
    return Result(chat.open_model(chat, path, kv))


COMMANDS = {
    "/kv": Command(
        _kv,
        "/kv NAME",
        "another cache for this chat; alone shows the present one",
        f"{', '.join(kv_names())}. The chat is read again with the next message.",
    ),
    "/model": Command(
        _model,
        "/model FILE",
        "go on with another model; alone shows the present one",
        "The context is as long as before, if that model has so long a one.",
    ),
}
