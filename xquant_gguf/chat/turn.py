"""One turn of a chat: send a message, stream the reply, account for how it ended."""

from __future__ import annotations

from ..errors import ContextFullError
from . import figures, room
from .reading import ReadingLine
from .reply import End, Reply, stream_reply
from .screen import Screen
from .state import Chat


def take_turn(chat: Chat, text: str, screen: Screen, *, status: bool) -> tuple[Reply | None, str]:
    """Answer ``text`` and add the turn to the conversation.

    If the context is full, the model no longer sees the oldest turns.

    Args:
        status: show the status line after the reply.

    Returns:
        The reply, and the user's message if it was *not* taken into the chat, so that
        the caller can offer it again ("" otherwise). No reply if the message did not fit.

    Raises:
        Exception: whatever the model raises besides a full context; the turn is then
            withdrawn first.
    """
    conversation = chat.conversation
    conversation.ask(text)
    try:
        reply = _reply_with_room(chat, text, screen)
    except BaseException:
        conversation.withdraw()
        raise
    if reply is None:
        return None, conversation.withdraw()
    chat.last = reply
    if reply.text:
        screen.end_line()
        conversation.answer(reply.text)
        back = ""
    else:
        back = conversation.withdraw()
    cache = chat.llm.kv_cache.snapshot()
    conversation.held = cache.tokens if reply.text else None
    ending = _ending(chat, reply)
    if ending:
        screen.note(ending)
    if status:
        screen.note(figures.status_line(reply, cache))
        told = conversation.warned or reply.end is End.CONTEXT
        if not told and room.almost_full(chat.llm, conversation):
            conversation.warned = True
            screen.note(room.almost_full_note(cache.tokens, cache.n_ctx))
    return reply, back


def _reply_with_room(chat: Chat, text: str, screen: Screen) -> Reply | None:
    """Generate the reply, without the oldest turns if need be. None if nothing else would help."""
    conversation, n_ctx = chat.conversation, chat.llm.n_ctx()
    out = room.turns_to_forget(chat.llm, conversation, text)

    def write(piece: str) -> None:
        if conversation.forgotten != out:  # only now is it sure that it fits
            conversation.forget(out)
            screen.note(room.forgotten_note(out, n_ctx))
        screen.write(piece)

    while True:
        needed = f"{n_ctx} tokens"
        try:
            messages = conversation.without(out)
            reading = ReadingLine(screen.passing)
            reply = stream_reply(
                chat.llm, messages, chat.sampling, write, conversation.turns + chat.again, reading
            )
            if reply.text or reply.end is not End.CONTEXT:
                return reply
        except ContextFullError as error:
            needed = error.value
        if out == conversation.turns:
            alone = "with the system prompt" if conversation.system else "alone"
            screen.error(
                f"this message does not fit: {alone} it needs {needed}, and the context has "
                f"{n_ctx} with the reply; shorten it, or start with a larger --ctx"
            )
            return None
        out += 1


def _ending(chat: Chat, reply: Reply) -> str:
    if reply.end is End.CONTEXT:
        seen = chat.conversation.turns - chat.conversation.forgotten
        after = "the oldest turns make" if seen > 1 else "this turn makes"
        return (
            f"[the reply reached the end of the context of {chat.llm.n_ctx()} tokens; {after} room "
            "for the next one, --ctx gives more]"
        )
    if reply.end is End.MAX_TOKENS:
        return f"[cut after {reply.tokens} tokens; --max-tokens allows longer replies]"
    if reply.end is End.INTERRUPTED:
        return "[stopped]"
    return "" if reply.text else "[the model had nothing to say]"
