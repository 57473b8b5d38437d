"""Stream one reply, and say how it ended and how fast it came."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ..errors import ContextFullError
from .conversation import Message
from .model import ChatModel
from .reading import ReadingLine
from .sampling import Sampling
from .work import Work


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
    reading: ReadingLine | None = None,
) -> Reply:
    """Generate a reply and hand each piece of text to ``write`` as it comes.

    Ctrl-C ends the reply, also while the prompt is read, and keeps what has come so far.

    Args:
        reading: shows how far the prompt is read.

    Raises:
        ContextFullError: the messages alone do not fit; nothing was generated.
    """
    pieces: list[str] = []
    first_time = last_time = 0.0
    first_tokens: int | None = None
    last_tokens = 0
    reason: str | None = None
    end: End | None = None
    work = Work(llm, messages, sampling.keywords(turn), reading)
    try:
        while (made := work.next()) is not None:
            chunk, last_tokens, last_time = made
            if first_tokens is None:
                first_tokens, first_time = last_tokens, last_time
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
    finally:
        work.stop()
    tokens = 0 if first_tokens is None else last_tokens - first_tokens + 1
    if end is None:
        end = End.STOP
        if reason == "length":
            limit = sampling.max_tokens
            end = End.MAX_TOKENS if limit and tokens >= limit else End.CONTEXT
            if last_tokens + 1 >= llm.n_ctx():
                end = End.CONTEXT
    return Reply("".join(pieces), end, tokens, last_time - first_time)
