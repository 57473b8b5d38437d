"""The slash commands of a chat. Each returns text to show; none prints or raises past here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from ..errors import XQuantError, unexpected
from . import figures, session_file
from .conversation import Conversation
from .model import ChatModel
from .reply import Reply
from .sampling import Sampling
from .session_file import Fingerprint, SavedChat

HELP = {
    "/help": "show this list",
    "/clear": "start a new chat; the system prompt stays",
    "/system TEXT": "set the system prompt; alone shows it, - removes it",
    "/stats": "what the cache holds and costs",
    "/save FILE": "save this chat",
    "/load FILE": "go on with a saved chat",
    "/bye": "leave (also Ctrl-D)",
}
KEYS = {
    "Enter": "send",
    "Alt-Enter": "new line (also Esc, then Enter)",
    "Ctrl-C": "stop the reply, or empty the line",
}


@dataclasses.dataclass
class Chat:
    """All state of a running chat."""

    llm: ChatModel
    model: Fingerprint
    conversation: Conversation
    sampling: Sampling
    kv_text: str = ""
    last: Reply | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command answers. ``failed``: ``text`` is an error. ``leave``: the chat is over."""

    text: str = ""
    failed: bool = False
    leave: bool = False


def is_command(line: str) -> bool:
    """Whether a line is a command; a leading space makes it a message."""
    return line.startswith("/")


def run(line: str, chat: Chat) -> Result:
    """Carry out one command line, such as ``/save notes.json``."""
    name, _, argument = line.strip().partition(" ")
    action = _ACTIONS.get(name)
    if action is None:
        return Result(
            f"there is no command {name}; /help lists them, and a space before / sends it as text",
            failed=True,
        )
    try:
        return action(chat, argument.strip())
    except XQuantError as error:
        return Result(str(error), failed=True)
    except Exception as error:  # nothing that a command does may end the chat
        return Result(f"{name} did not work: {unexpected(error)}", failed=True)


def _help(chat: Chat, argument: str) -> Result:
    return Result(figures.as_text([*HELP.items(), *KEYS.items()]))


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
    return Result(f"saved {chat.conversation.turns} turns to {path}")


def save(chat: Chat, path: str | Path) -> Path:
    """Save the chat and return the file's full path.

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
    return Result(f"loaded {chat.conversation.turns} turns{note}")


def _bye(chat: Chat, argument: str) -> Result:
    return Result(leave=True)


_ACTIONS: dict[str, Callable[[Chat, str], Result]] = {
    "/help": _help,
    "/clear": _clear,
    "/system": _system,
    "/stats": _stats,
    "/save": _save,
    "/load": _load,
    "/bye": _bye,
}
