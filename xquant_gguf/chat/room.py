"""Room for the next reply: which of the oldest turns the model no longer sees.

A reply gets room for an eighth of the context, or for as much as the last one took, half of it at
most. Once that is not left, the oldest turns are left out until half of the context is free, so
that not every turn from then on reads the whole conversation again.
"""

from __future__ import annotations

from .conversation import Conversation
from .model import ChatModel

WARN_AT = 0.8
"""Share of the context from which on the user is told what will happen."""

_TEMPLATE_TOKENS = 8  # what a chat template puts around a message, about


def turns_to_forget(llm: ChatModel, conversation: Conversation, text: str) -> int:
    """How many of the oldest turns are to be left out so that a reply to ``text`` has room.

    Counted from what the model has read so far, where that is known; templates add what they
    like. No fewer than are left out already, and all of them if the message is that long.
    """
    sizes = [_size(llm, message["content"]) for message in conversation.messages]
    gone, turns, n_ctx = conversation.forgotten, conversation.turns, llm.n_ctx()
    held = conversation.held
    if held is None:
        held = _size(llm, conversation.system) + sum(sizes[2 * gone :])
    wanted = held + _size(llm, text)

    def first_within(limit: int) -> int | None:
        choices = range(gone, turns + 1)
        return next((n for n in choices if wanted - sum(sizes[2 * gone : 2 * n]) <= limit), None)

    enough = n_ctx - _reserve(llm, conversation)
    if first_within(enough) == gone:
        return gone
    for limit in (n_ctx // 2, enough):
        found = first_within(limit)
        if found is not None:
            return found
    return turns


def almost_full(llm: ChatModel, conversation: Conversation) -> bool:
    """Whether the context is, or one more turn like the last makes it full."""
    held, n_ctx = conversation.held or 0, llm.n_ctx()
    turn = sum(_size(llm, message["content"]) for message in conversation.messages[-2:])
    return held >= WARN_AT * n_ctx or held + turn > n_ctx - _reserve(llm, conversation)


def forgotten_note(turns: int, n_ctx: int) -> str:
    """What the user is told when turns are left out."""
    what = "first turn does" if turns == 1 else f"first {turns} turns do"
    return (
        f"[the context of {n_ctx} tokens is full: the {what} not fit any more, and the model "
        "does not see them; /save still keeps them]"
    )


def almost_full_note(tokens: int, n_ctx: int) -> str:
    """What the user is told before that."""
    return (
        f"[the context is {tokens / n_ctx:.0%} full; soon the model will not see the oldest turns "
        "any more; --ctx gives more room]"
    )


def _reserve(llm: ChatModel, conversation: Conversation) -> int:
    n_ctx = llm.n_ctx()
    last = _size(llm, conversation.messages[-1]["content"]) if conversation.messages else 0
    return min(max(n_ctx // 8, last), n_ctx // 2)


def _size(llm: ChatModel, text: str) -> int:
    data = text.encode("utf-8", "replace")
    return len(llm.tokenize(data, False)) + _TEMPLATE_TOKENS if text else 0
