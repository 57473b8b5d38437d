"""Commands about the chat as a whole: start anew, save, load, leave."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from . import cache_file, figures, session_file
from .conversation import Conversation
from .markdown import thoughts
from .sampling import Sampling
from .session_file import SavedChat
from .state import Chat, Command, Result


def _clear(chat: Chat, argument: str) -> Result:
    chat.conversation.clear()
    return Result("new chat")


def _system(chat: Chat, argument: str) -> Result:
    if not argument:
        return Result(chat.conversation.system or "no system prompt; /system TEXT sets one")
    chat.conversation.system = "" if argument == "-" else argument
    chat.conversation.held = None
    return Result("system prompt set" if chat.conversation.system else "system prompt removed")


def _stats(chat: Chat, argument: str) -> Result:
    return Result(figures.as_text(figures.stats(chat.llm.kv_cache.snapshot(), chat.last)))


def _save(chat: Chat, argument: str) -> Result:
    if not argument:
        return Result("/save needs a file name, for example /save chat.json", failed=True)
    path = save(chat, argument)
    kept = cache_file.save(path, chat)
    return Result(f"saved {figures.turns(chat.conversation.turns)} to {path}{kept}")


def save(chat: Chat, path: str | Path) -> Path:
    """Save the messages of the chat and return the file's full path.

    Raises:
        SessionFileError: it cannot be written.
    """
    saved = SavedChat(
        model=chat.model,
        system=chat.conversation.system,
        messages=chat.conversation.messages,
        sampling=dataclasses.asdict(chat.sampling),
        kv=chat.kv_text,
        n_ctx=chat.llm.n_ctx(),
    )
    return session_file.save(path, saved)


def _load(chat: Chat, argument: str) -> Result:
    if not argument:
        return Result("/load needs a file name", failed=True)
    saved = session_file.load(argument, chat.model)
    sampling = Sampling.from_mapping(saved.sampling)
    chat.conversation = Conversation(saved.system, list(saved.messages))
    chat.sampling = sampling
    note = "" if saved.kv == chat.kv_text else "; it was saved with other cache settings"
    note += cache_file.load(argument, chat) if not note else ""
    text = f"loaded {figures.turns(chat.conversation.turns)}{note}"
    return Result(text, messages=tuple(saved.messages))


def _think(chat: Chat, argument: str) -> Result:
    if argument in _THINK:
        fold = _THINK[argument]
        return Result("thoughts are folded" if fold else "thoughts are shown", fold=fold)
    if argument:
        return Result(f"/think takes fold or show; got {argument!r}", failed=True)
    said = [m["content"] for m in chat.conversation.messages if m["role"] == "assistant"]
    return Result(thoughts(said[-1] if said else "") or "the last reply has no thoughts")


def _bye(chat: Chat, argument: str) -> Result:
    return Result(leave=True)


_THINK = {"fold": True, "show": False}

COMMANDS: dict[str, Command] = {
    "/clear": Command(_clear, "/clear", "start a new chat; the system prompt stays"),
    "/system": Command(
        _system, "/system TEXT", "set the system prompt; alone shows it, - removes it"
    ),
    "/stats": Command(_stats, "/stats", "what the cache holds and costs"),
    "/save": Command(
        _save,
        "/save FILE",
        "save this chat",
        "Beside FILE, FILE.cache holds the cache, so that /load need not read the chat again.",
    ),
    "/load": Command(
        _load, "/load FILE", "go on with a saved chat", "The chat is shown; it replaces this one."
    ),
    "/think": Command(
        _think,
        "/think [fold|show]",
        "show the last reply's thoughts; fold all, or not",
        "Folded, one line stands for what a model thinks (--think fold).",
    ),
    "/bye": Command(_bye, "/bye", "leave (also /exit, /quit, Ctrl-D)"),
}
