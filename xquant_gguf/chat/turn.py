"""One turn of a chat: send a message, stream the reply, account for how it ended."""

from __future__ import annotations

from ..errors import ContextFullError
from . import figures
from .commands import Chat
from .reply import End, Reply, stream_reply
from .screen import Screen


def take_turn(chat: Chat, text: str, screen: Screen, *, status: bool) -> tuple[Reply | None, str]:
    """Answer ``text`` and add the turn to the conversation.

    Args:
        status: show the status line after the reply.

    Returns:
        The reply, and the user's message if it was *not* taken into the chat, so that
        the caller can offer it again ("" otherwise). No reply if the message did not fit.

    Raises:
        Exception: whatever the model raises besides a full context; the turn is then
            withdrawn first.
    """
    messages = chat.conversation.ask(text)
    try:
        reply = stream_reply(
            chat.llm, messages, chat.sampling, screen.write, chat.conversation.turns
        )
    except ContextFullError as error:
        screen.error(f"this message does not fit: {error.rule}; {error.value} needed")
        return None, chat.conversation.withdraw()
    except BaseException:
        chat.conversation.withdraw()
        raise
    chat.last = reply
    if reply.text:
        screen.end_line()
        chat.conversation.answer(reply.text)
        back = ""
    else:
        back = chat.conversation.withdraw()
    cache = chat.llm.kv_cache.snapshot()
    ending = _ending(reply, cache.n_ctx)
    if ending:
        screen.note(ending)
    if status:
        screen.note(figures.status_line(reply, cache))
    return reply, back


def _ending(reply: Reply, n_ctx: int) -> str:
    if reply.end is End.CONTEXT:
        return (
            f"[the reply reached the end of the context of {n_ctx} tokens; "
            "/clear starts a new chat, --ctx gives more room]"
        )
    if reply.end is End.MAX_TOKENS:
        return f"[cut after {reply.tokens} tokens; --max-tokens allows longer replies]"
    if reply.end is End.INTERRUPTED:
        return "[stopped]"
    return "" if reply.text else "[the model had nothing to say]"
