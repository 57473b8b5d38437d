"""The thread that the model lives in. The window speaks to it by signals alone, and never waits."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal, Slot
from talk import Figures, Talk

from xquant_gguf import XQuantError


class Worker(QObject):
    """Lives in a thread of its own; slots are called through queued signals."""

    piece = Signal(str)
    note = Signal(str)
    figures = Signal(Figures)
    opened = Signal(str)
    failed = Signal(str)
    done = Signal(str)  # with a message that was not taken
    loaded = Signal(list)  # messages of a saved chat

    def __init__(self, path: str, kv: str, n_ctx: int) -> None:
        super().__init__()
        self._wanted = path, kv, n_ctx
        self.talk: Talk | None = None

    @Slot()
    def open(self) -> None:
        """Load the model."""
        emit = self.piece.emit, self.note.emit, self.figures.emit
        try:
            self.talk = Talk(*self._wanted, *emit)
        except XQuantError as error:
            self.failed.emit(str(error))
            return
        self.opened.emit(self.talk.chat.model.name)

    @Slot(str)
    def ask(self, text: str) -> None:
        """Answer a message."""
        assert self.talk is not None
        back = text
        try:
            back = self.talk.ask(text)
        except Exception as error:  # whatever a model does, the window stays
            self.note.emit(str(error))
        self.done.emit(back)

    @Slot(str)
    def switch(self, kv: str) -> None:
        """Another cache."""
        assert self.talk is not None
        try:
            self.talk.switch(kv)
            self.note.emit(f"{kv}: the chat is read again with your next message")
        except XQuantError as error:
            self.note.emit(str(error))
        self.done.emit("")

    @Slot(str)
    def save(self, path: str) -> None:
        """Save the chat."""
        assert self.talk is not None
        self.note.emit(self.talk.save(path))
        self.done.emit("")

    @Slot(str)
    def load(self, path: str) -> None:
        """Go on with a saved chat."""
        assert self.talk is not None
        self.note.emit(self.talk.load(path))
        self.loaded.emit(list(self.talk.chat.conversation.messages))
        self.done.emit("")

    def stop(self) -> None:
        """End the reply; called from the window's thread."""
        if self.talk is not None:
            self.talk.stop()

    def close(self) -> None:
        """Free the model; called from the window's thread."""
        if self.talk is not None:
            self.talk.close()
