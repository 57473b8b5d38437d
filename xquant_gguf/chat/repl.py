"""The interactive chat: read a message or command, answer, and never lose what was typed."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import XQuantError, unexpected
from . import basics, commands
from .conversation import Message
from .hangup import Hangup, hangup
from .keyboard import silent_keyboard
from .screen import Screen
from .state import Chat, Result
from .turn import take_turn

_ADVICE = (
    "the chat is as it was, /save FILE keeps it; if it is the model's chat template, "
    "start with --chat-template"
)

ReadLine = Callable[[str, str], str]
"""Reads one message; its arguments are the text to start from and a line to show below it, ""
for none. EOFError ends the chat."""

_KEPT = "this message does not fit into the context: shorten it, or Ctrl-C empties the line"

_PATIENCE = 3  # lines in a row that cannot be read


def chat_loop(chat: Chat, screen: Screen, read: ReadLine) -> None:
    """Run the chat until /bye or Ctrl-D.

    Whatever a turn or a command raises is told in one line, and the chat goes on. If it
    cannot go on, because nothing can be read or shown any more or the system ends it
    (SIGHUP, SIGTERM), it is saved first.
    """
    with hangup() as asked:
        try:
            _loop(chat, screen, read, asked)
        except BaseException:
            _rescue(chat, screen)
            asked.check()
            raise


def _loop(chat: Chat, screen: Screen, read: ReadLine, asked: Hangup) -> None:
    draft = below = ""
    unread = 0
    while True:
        asked.check()
        try:
            line = read(draft, below)
        except EOFError:
            asked.check()
            return
        except KeyboardInterrupt:
            draft = below = ""
            continue
        except Exception as error:
            unread += 1
            if unread == _PATIENCE:
                raise
            screen.error(f"the line could not be read: {unexpected(error)}")
            continue
        unread = 0
        draft = below = ""
        if not line.strip():
            continue
        message, kept = line.strip(), list(chat.conversation.messages)
        if commands.is_command(line):
            result = commands.run(line, chat)
            if result.leave:
                return
            _show(result, screen)
            draft, message = result.draft, result.send
            if not message:
                continue
        turns = chat.conversation.turns
        try:
            with silent_keyboard():
                reply, draft = take_turn(chat, message, screen, status=True)
        except KeyboardInterrupt:
            draft = line
            continue
        except Exception as error:
            if isinstance(error, XQuantError):
                screen.error(str(error))
            else:
                screen.error(f"there is no reply: {unexpected(error)}; {_ADVICE}")
            draft = line if chat.conversation.turns == turns else ""
            continue
        finally:
            _put_back(chat, turns, kept)
        if commands.is_command(line):
            draft = ""  # it is as easily typed again
        if reply is None and draft:
            below = _KEPT  # a long message on the line pushes the error out of sight


def _show(result: Result, screen: Screen) -> None:
    screen.conversation(result.messages)
    if result.text:
        (screen.error if result.failed else screen.say)(result.text)
    if result.copy:
        screen.copy(result.copy)
    if result.fold is not None:
        screen.fold_thoughts = result.fold


def _put_back(chat: Chat, turns: int, kept: list[Message]) -> None:
    """A turn that a command took away comes back if no other one took its place."""
    if chat.conversation.turns == turns and len(kept) > len(chat.conversation.messages):
        chat.conversation.messages = kept


def _rescue(chat: Chat, screen: Screen) -> None:
    """Save a chat that ends for a reason of its own, and say where."""
    if not chat.conversation.messages:
        return
    with contextlib.suppress(Exception):
        folder = _state_folder()
        folder.mkdir(parents=True, exist_ok=True)
        path = basics.save(chat, folder / f"rescued-{time.strftime('%Y%m%d-%H%M%S')}.json")
        screen.error(f"the chat ends here; it is kept: /load {path}")


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
        completer=WordCompleter(commands.names(), sentence=True),
        complete_while_typing=False,
    )

    def read(draft: str, below: str) -> str:
        session.bottom_toolbar = below or None
        return session.prompt(">>> ", default=draft)

    return read


def plain_reader() -> ReadLine:
    """Standard input as it is, for a terminal whose output goes elsewhere; prompts go beside it."""

    def read(draft: str, below: str) -> str:
        for text in (f"{below}\n" if below else "", ">>> "):
            sys.stderr.write(text)
        sys.stderr.flush()
        return input()

    return read


def history_file() -> Path | None:
    """Where typed lines are kept, in the user's XDG state folder; None if it cannot be written."""
    try:
        file = _state_folder() / "chat_history"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        with file.open("ab"):
            return file
    except (OSError, RuntimeError):
        return None


def _state_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or ""
    folder = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state"
    return folder / "xquant-gguf"
