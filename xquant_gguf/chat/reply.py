"""Stream one reply, and say how it ended and how fast it came."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ..errors import ContextFullError
from .conversation import Message
from .model import ChatModel
from .sampling import Sampling


class End(Enum):
    """Why a reply ended."""

    STOP = "the model was done"
    MAX_TOKENS = "the longest reply allowed"
    CONTEXT = "the end of the context"
    INTERRUPTED = "stopped by the user"


@dataclass(frozen=True)
class Reply:
    """A reply. ``tokens``: how many were generated; ``seconds``: between the first and the last."""

    text: str
    end: End
    tokens: int
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens per second after the first one, 0 if there were fewer than two."""
        return (self.tokens - 1) / self.seconds if self.tokens > 1 and self.seconds > 0 else 0.0


def stream_reply(
    llm: ChatModel,
    messages: list[Message],
    sampling: Sampling,
    write: Callable[[str], None],
    turn: int = 0,
) -> Reply:
    """Generate a reply and hand each piece of text to ``write`` as it comes.

    Ctrl-C ends the reply and keeps what has come so far.

    Raises:
        ContextFullError: the messages alone do not fit; nothing was generated.
    """
    pieces: list[str] = []
    first_time = last_time = 0.0
    first_tokens: int | None = None
    reason: str | None = None
    end: End | None = None
    try:
        for chunk in llm.create_chat_completion(messages, stream=True, **sampling.keywords(turn)):
            last_time = time.perf_counter()
            if first_tokens is None:
                first_tokens, first_time = llm.n_tokens, last_time
            choice = chunk["choices"][0]
            reason = choice["finish_reason"] or reason
            piece = choice["delta"].get("content") or ""
            if piece:
                pieces.append(piece)
                write(piece)
    except KeyboardInterrupt:
        end = End.INTERRUPTED
    except ContextFullError:
        if not pieces:
            raise
        end = End.CONTEXT
    tokens = 0 if first_tokens is None else llm.n_tokens - first_tokens + 1
    if end is None:
        end = End.STOP
        if reason == "length":
            limit = sampling.max_tokens
            end = End.MAX_TOKENS if limit and tokens >= limit else End.CONTEXT
            if llm.n_tokens + 1 >= llm.n_ctx():
                end = End.CONTEXT
    return Reply("".join(pieces), end, tokens, last_time - first_time)
