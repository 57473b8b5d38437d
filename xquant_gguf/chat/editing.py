"""Commands that change the conversation, its sampling or what is sent."""

from __future__ import annotations

import dataclasses

from .._files import reason, user_path
from ..errors import ConfigError
from . import figures
from .sampling import Sampling
from .state import Chat, Command, Result

_MAX_FILE = 1 << 20
_NOTHING = Result("there is no turn yet", failed=True)


def _regen(chat: Chat, argument: str) -> Result:
    if not chat.conversation.messages:
        return _NOTHING
    asked, _ = chat.conversation.take_back()
    chat.again += 1
    return Result(send=asked)


def _undo(chat: Chat, argument: str) -> Result:
    if not chat.conversation.messages:
        return _NOTHING
    asked, _ = chat.conversation.take_back()
    left = figures.turns(chat.conversation.turns)
    return Result(f"took back {figures.shortened(asked)!r}; {left} left")


def _edit(chat: Chat, argument: str) -> Result:
    if not chat.conversation.messages:
        return _NOTHING
    asked, _ = chat.conversation.take_back()
    return Result(draft=asked)


def _history(chat: Chat, argument: str) -> Result:
    if not chat.conversation.messages:
        return _NOTHING
    return Result(messages=tuple(chat.conversation.messages))


def _set(chat: Chat, argument: str) -> Result:
    values = dataclasses.asdict(chat.sampling)
    if not argument:
        return Result(figures.as_text([(name, str(value)) for name, value in values.items()]))
    name, _, text = argument.replace("=", " ").partition(" ")
    name = name.replace("-", "_")
    if name not in values:
        raise ConfigError("/set knows these names", name, ", ".join(values))
    kind = float if isinstance(getattr(Sampling(), name), float) else int
    value = None if name == "seed" and text.strip() in ("", "none") else _number(name, text, kind)
    chat.sampling = Sampling.from_mapping({**values, name: value})
    return Result(f"{name} = {value}")


def _number(name: str, text: str, kind: type) -> float | int:
    try:
        value: float | int = kind(text)
    except ValueError:
        raise ConfigError(f"{name} is a number", repr(text.strip()), f"try /set {name} 1") from None
    return value


def _file(chat: Chat, argument: str) -> Result:
    if not argument:
        return Result("/file needs a name, for example /file notes.txt Sum this up", failed=True)
    name, _, question = argument.partition(" ")
    if argument[0] in "\"'" and argument[0] in argument[1:]:
        name, _, question = argument[1:].partition(argument[0])
    try:
        with user_path(name).open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        return Result(f"{name} cannot be read: {reason(error)}", failed=True)
    if len(data) > _MAX_FILE:
        return Result(f"{name} has more than a MiB, too much for a message", failed=True)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Result(f"{name} is no text in UTF-8 ({error.reason})", failed=True)
    fence = "```"
    while fence in text:
        fence += "`"
    ask = question.strip()
    return Result(send=f"{ask}\n\n{name}:\n{fence}\n{text.rstrip()}\n{fence}".strip())


def _copy(chat: Chat, argument: str) -> Result:
    if not chat.conversation.messages:
        return _NOTHING
    text = chat.conversation.messages[-1]["content"]
    said = f"copied {len(text)} characters, if this terminal lets programs set the clipboard"
    return Result(said, copy=text)


COMMANDS = {
    "/regen": Command(_regen, "/regen", "another reply to the last message"),
    "/undo": Command(_undo, "/undo", "take the last turn back"),
    "/edit": Command(_edit, "/edit", "take the last turn back and change its message"),
    "/history": Command(_history, "/history", "show the whole chat, also what does not fit"),
    "/set": Command(
        _set,
        "/set NAME VALUE",
        "change the sampling; alone shows it",
        ", ".join(item.name for item in dataclasses.fields(Sampling)),
    ),
    "/file": Command(
        _file,
        "/file FILE [TEXT]",
        "send a text file, with a question",
        'At most a MiB of UTF-8. A name with spaces is put into "quotation marks".',
    ),
    "/copy": Command(_copy, "/copy", "put the last reply into the clipboard"),
}
