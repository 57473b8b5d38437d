"""The messages of one chat. A turn is either whole, or it leaves no trace."""

from __future__ import annotations

from dataclasses import dataclass, field

Message = dict[str, str]
"""One message: ``role`` ("user" or "assistant") and ``content``."""


@dataclass
class Conversation:
    """System prompt and finished turns, plus the user's message that waits for its reply.

    ``forgotten``: how many of the oldest turns the model no longer sees. ``held``: tokens
    of what it sees, with the last reply, or None if that is not known. ``warned``: the user
    knows that the context is almost full.
    """

    system: str = ""
    messages: list[Message] = field(default_factory=list)
    waiting: str | None = None
    forgotten: int = 0
    held: int | None = field(default=None, compare=False)
    warned: bool = False

    @property
    def turns(self) -> int:
        """Number of finished turns."""
        return len(self.messages) // 2

    def ask(self, text: str) -> None:
        """Take the user's message."""
        self.waiting = text

    def without(self, turns: int) -> list[Message]:
        """What the model has to see, without the oldest ``turns`` turns."""
        assert self.waiting is not None
        head = [{"role": "system", "content": self.system}] if self.system else []
        return [*head, *self.messages[2 * turns :], {"role": "user", "content": self.waiting}]

    def forget(self, turns: int) -> None:
        """Leave the oldest ``turns`` turns out from now on."""
        self.forgotten, self.held, self.warned = turns, None, False

    def answer(self, text: str) -> None:
        """Finish the waiting turn with the model's reply."""
        assert self.waiting is not None
        self.messages.append({"role": "user", "content": self.waiting})
        self.messages.append({"role": "assistant", "content": text})
        self.waiting = None

    def withdraw(self) -> str:
        """Drop the waiting turn and hand the user's message back."""
        text, self.waiting = self.waiting or "", None
        return text

    def take_back(self) -> tuple[str, str]:
        """Remove the last turn, and return what was asked and answered."""
        answer, asked = self.messages.pop(), self.messages.pop()
        self.held = None
        self.forgotten = min(self.forgotten, self.turns)
        return asked["content"], answer["content"]

    def clear(self) -> None:
        """Forget all messages; the system prompt stays."""
        self.messages.clear()
        self.waiting = None
        self.forget(0)
