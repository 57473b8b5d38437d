"""What a chat is at a moment, and what a command is and answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from .conversation import Conversation, Message
from .model import ChatModel
from .reply import Reply
from .sampling import Sampling
from .session_file import Fingerprint


@dataclasses.dataclass
class Chat:
    """All state of a running chat.

    ``again``: how often replies were wanted anew. ``open_model``: loads a model file with a
    cache, by path and name of the cache, each None for the present one.
    """

    llm: ChatModel
    model: Fingerprint
    conversation: Conversation
    sampling: Sampling
    kv_text: str = ""
    last: Reply | None = None
    again: int = 0
    open_model: Callable[[Chat, str | None, str | None], str] | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command answers.

    Attributes:
        text: to be shown; an error if ``failed``.
        leave: the chat is over.
        send: a message to be answered now.
        draft: text for the input line.
        messages: turns to be shown.
        copy: text for the clipboard.
        fold: whether one line stands for thoughts from now on; None changes nothing.
    """

    text: str = ""
    failed: bool = False
    leave: bool = False
    send: str = ""
    draft: str = ""
    messages: tuple[Message, ...] = ()
    copy: str = ""
    fold: bool | None = None


@dataclasses.dataclass(frozen=True)
class Command:
    """``usage`` and ``about`` are the line in /help, ``more`` is what /help COMMAND adds."""

    action: Callable[[Chat, str], Result]
    usage: str
    about: str
    more: str = ""
