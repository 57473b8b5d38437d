"""The interactive chat: read a message or command, answer, and never lose what was typed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..errors import XQuantError
from . import commands
from .commands import Chat
from .keyboard import silent_keyboard
from .screen import Screen
from .turn import take_turn

ReadLine = Callable[[str], str]
"""Reads one message; its argument is the text to start from. EOFError ends the chat."""


def chat_loop(chat: Chat, screen: Screen, read: ReadLine) -> None:
    """Run the chat until /bye or Ctrl-D."""
    draft = ""
    while True:
        try:
            line = read(draft)
        except EOFError:
            return
        except KeyboardInterrupt:
            draft = ""
            continue
        draft = ""
        if not line.strip():
            continue
        if commands.is_command(line):
            result = commands.run(line, chat)
            if result.leave:
                return
            (screen.error if result.failed else screen.say)(result.text)
            continue
        try:
            with silent_keyboard():
                reply, draft = take_turn(chat, line.strip(), screen, status=True)
        except KeyboardInterrupt:
            draft = line
            continue
        except (XQuantError, RuntimeError, ValueError, TypeError) as error:
            screen.error(str(error) or type(error).__name__)
            draft = line
            continue
        if reply is None:
            screen.note("[your message is back on the line; shorten it, or /clear and send it]")


def terminal_reader() -> ReadLine:
    """A line editor with history, several lines, and completion of commands."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def empty(event: KeyPressEvent) -> None:
        event.current_buffer.reset()

    file = history_file()
    history: History = FileHistory(str(file)) if file else InMemoryHistory()
    session: PromptSession[str] = PromptSession(
        history=history,
        key_bindings=keys,
        multiline=True,
        prompt_continuation=lambda width, number, wrapped: "." * (width - 1) + " ",
        completer=WordCompleter([name.split()[0] for name in commands.HELP], sentence=True),
        complete_while_typing=False,
    )
    return lambda draft: session.prompt(">>> ", default=draft)


def plain_reader() -> ReadLine:
    """Standard input as it is, for a terminal whose output goes elsewhere."""
    return lambda draft: input()


def history_file() -> Path | None:
    """Where typed lines are kept, in the user's XDG state folder; None if it cannot be written."""
    base = os.environ.get("XDG_STATE_HOME") or ""
    try:
        folder = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state"
        file = folder / "xquant-gguf" / "chat_history"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        with file.open("ab"):
            return file
    except (OSError, RuntimeError):
        return None
