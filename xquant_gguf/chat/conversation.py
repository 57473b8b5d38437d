"""The messages of one chat. A turn is either whole, or it leaves no trace."""

from __future__ import annotations

from dataclasses import dataclass, field

Message = dict[str, str]
"""One message: ``role`` ("user" or "assistant") and ``content``."""


@dataclass
class Conversation:
    """System prompt and finished turns, plus the user's message that waits for its reply."""

    system: str = ""
    messages: list[Message] = field(default_factory=list)
    waiting: str | None = None

    @property
    def turns(self) -> int:
        """Number of finished turns."""
        return len(self.messages) // 2

    def ask(self, text: str) -> list[Message]:
        """Take the user's message and return everything the model has to see."""
        self.waiting = text
        head = [{"role": "system", "content": self.system}] if self.system else []
        return [*head, *self.messages, {"role": "user", "content": text}]

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

    def clear(self) -> None:
        """Forget all messages; the system prompt stays."""
        self.messages.clear()
        self.waiting = None
