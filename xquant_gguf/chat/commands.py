"""The slash commands of a chat. Each returns what to show or to send; none prints or raises."""

from __future__ import annotations

from ..errors import XQuantError, unexpected
from . import basics, editing, figures, reopen
from .state import Chat, Command, Result

KEYS = {
    "Enter": "send",
    "Alt-Enter": "new line (also Esc, then Enter)",
    "Ctrl-C": "stop the reply, or empty the line",
}
ALIASES = {"/exit": "/bye", "/quit": "/bye"}
ELSEWHERE = {
    "/image": "this chat reads text alone; xquant serve MODEL -- --mmproj FILE, with the model's "
    "projector, takes pictures from its clients"
}
"""What chats of other programs have, and where it is to be had."""


def is_command(line: str) -> bool:
    """Whether a line is a command; a leading space makes it a message."""
    return line.startswith("/")


def names() -> list[str]:
    """All commands, for completion."""
    return [*COMMANDS, *ALIASES]


def run(line: str, chat: Chat) -> Result:
    """Carry out one command line, such as ``/save notes.json``."""
    name, _, argument = line.strip().partition(" ")
    command = COMMANDS.get(ALIASES.get(name, name))
    if name in ELSEWHERE:
        return Result(ELSEWHERE[name], failed=True)
    if command is None:
        return Result(
            f"there is no command {name}; /help lists them, and a space before / sends it as text",
            failed=True,
        )
    try:
        return command.action(chat, argument.strip())
    except XQuantError as error:
        return Result(str(error), failed=True)
    except Exception as error:  # nothing that a command does may end the chat
        return Result(f"{name} did not work: {unexpected(error)}", failed=True)


def _help(chat: Chat, argument: str) -> Result:
    if not argument:
        lines = {command.usage: command.about for command in COMMANDS.values()}
        return Result(figures.as_text([*lines.items(), *KEYS.items()]))
    name = "/" + argument.lstrip("/")
    command = COMMANDS.get(ALIASES.get(name, name))
    if command is None:
        return Result(f"there is no command {name}; /help lists them", failed=True)
    return Result("\n".join(filter(None, (f"{command.usage}  {command.about}", command.more))))


COMMANDS: dict[str, Command] = {
    "/help": Command(_help, "/help [COMMAND]", "show this list, or more about one command"),
    **editing.COMMANDS,
    **reopen.COMMANDS,
    **basics.COMMANDS,
}
