"""The chat behind the window, without anything of Qt: the same turns as ``xquant chat`` takes.

So a long conversation leaves its oldest turns out in the same way, and saved chats are the same
files, with the packed cache beside them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from xquant_gguf import CancelledError, ClosedError, Llama, XQuantError
from xquant_gguf.chat import commands
from xquant_gguf.chat.conversation import Conversation
from xquant_gguf.chat.sampling import Sampling
from xquant_gguf.chat.screen import Screen
from xquant_gguf.chat.session_file import Fingerprint
from xquant_gguf.chat.state import Chat
from xquant_gguf.chat.turn import take_turn

LOOK = 0.5  # seconds between two looks at the cache during a reply


@dataclass(frozen=True)
class Figures:
    """What the cache holds and takes, in tokens and bytes."""

    tokens: int
    n_ctx: int
    packed: int
    f16: int


class Shown(Screen):
    """Hands on what a terminal would show, and ends a reply that is not wanted any more."""

    def __init__(self, piece: Callable[[str], None], note: Callable[[str], None]) -> None:
        super().__init__()
        self.unwanted = self.begun = False
        self._piece, self._note = piece, note

    def write(self, piece: str) -> None:
        self.begun = True
        self._check()
        self._piece(piece)

    def passing(self, text: str) -> None:
        self._check()
        self._note(text.replace(" · Ctrl-C stops", ""))

    def end_line(self) -> None:
        pass

    def note(self, text: str) -> None:
        self._note(text.strip("[]"))

    def error(self, text: str) -> None:
        self._note(text)

    def _check(self) -> None:
        if self.unwanted:
            raise KeyboardInterrupt  # what Ctrl-C is to the chat: what has come is kept


class Talk:
    """One conversation with one model.

    Args:
        path: the model. kv: a preset. n_ctx: tokens of context.
        piece, note, figures: called with what comes, in the thread that calls the methods.

    Raises:
        XQuantError: the model or the cache cannot be had.
    """

    def __init__(
        self,
        path: str,
        kv: str,
        n_ctx: int,
        piece: Callable[[str], None],
        note: Callable[[str], None],
        figures: Callable[[Figures], None],
    ) -> None:
        self._path, self._kv, self._n_ctx, self._figures = path, kv, n_ctx, figures
        self._looked = 0.0
        self.screen = Shown(self._with_figures(piece), note)
        self.llm = self._load(kv)
        sampling = Sampling()
        self.chat = Chat(self.llm, Fingerprint.of(path), Conversation(), sampling, self._kv_text())
        self.look()

    def _load(self, kv: str) -> Llama:
        return Llama(self._path, kv=kv, n_ctx=self._n_ctx, verbose=False)

    def _kv_text(self) -> str:
        cache = self.llm.kv_cache.snapshot()
        return cache.config or cache.kind

    def _with_figures(self, piece: Callable[[str], None]) -> Callable[[str], None]:
        def write(text: str) -> None:
            piece(text)
            if time.monotonic() - self._looked > LOOK:
                self.look()

        return write

    def look(self) -> None:
        """Tell the figures of the cache."""
        self._looked = time.monotonic()
        now = self.llm.kv_cache.snapshot()
        self._figures(Figures(now.tokens, now.n_ctx, now.bytes_total, now.bytes_f16))

    def ask(self, text: str) -> str:
        """Answer a message. Returns the message if it was not taken into the chat, else ""."""
        self.screen.unwanted = self.screen.begun = False
        try:
            _, back = take_turn(self.chat, text, self.screen, status=False)
        except CancelledError:
            return text
        except ClosedError:  # the window was closed
            return text
        self.look()
        return back

    def stop(self) -> None:
        """End the reply; may be called from any thread."""
        self.screen.unwanted = True
        if not self.screen.begun:  # a prompt is being read
            self.llm.cancel()

    def switch(self, kv: str) -> None:
        """Go on with another cache; the conversation is read again with the next message.

        Raises:
            XQuantError: it cannot be had; then the one before is back.
        """
        self.llm.close()
        try:
            self.llm = self._load(kv)
            self._kv = kv
        except XQuantError:
            self.llm = self._load(self._kv)
            raise
        finally:
            self.chat.llm, self.chat.kv_text = self.llm, self._kv_text()
            self.chat.conversation.forget(0)
            self.look()

    def save(self, path: str) -> str:
        """Save the chat with its packed cache; what to tell."""
        return commands.run(f"/save {Path(path)}", self.chat).text

    def load(self, path: str) -> str:
        """Go on with a saved chat; what to tell."""
        said = commands.run(f"/load {Path(path)}", self.chat).text
        self.look()
        return said

    def close(self) -> None:
        """Free the model; a reply in another thread is stopped first."""
        self.screen.unwanted = True
        self.llm.close()
