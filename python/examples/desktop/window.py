"""The window: the conversation, a line to write in, and what the cache takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PySide6.QtCore import Qt, QThread, QTimer, Signal
from PySide6.QtGui import QCloseEvent, QKeyEvent, QTextCursor, QTextDocument
from PySide6.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QMainWindow,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QTextBrowser,
    QVBoxLayout,
    QWidget,
)
from talk import Figures
from worker import Worker

PRESETS = ("balanced", "tiny", "small", "quality", "lossless", "f16")
FRAME = 50  # milliseconds between two looks of a reply that comes
MIB = 2**20
STYLE = """
QMainWindow, QWidget { background: #fbfaf8; color: #23211e; font-size: 14px; }
QTextBrowser { border: none; padding: 12px; background: #ffffff; border-radius: 8px; }
QPlainTextEdit { border: 1px solid #d8d3cb; border-radius: 8px; padding: 8px; background: white; }
QPushButton { border: none; border-radius: 8px; padding: 8px 16px; }
QPushButton { background: #2f6f5e; color: white; }
QPushButton:disabled { background: #b9c7c2; }
QPushButton#quiet { background: #ece8e1; color: #23211e; }
QProgressBar { border: none; border-radius: 4px; background: #ece8e1; max-height: 8px; }
QProgressBar::chunk { border-radius: 4px; background: #2f6f5e; }
QLabel#note { color: #7a746b; }
"""


class Line(QPlainTextEdit):
    """Where messages are written: Enter sends, Shift-Enter begins a new line."""

    sent = Signal()

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 (Qt's name)
        enter = event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
        if enter and not event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            self.sent.emit()
        else:
            super().keyPressEvent(event)


class Window(QMainWindow):
    """A chat with one model."""

    wants_open = Signal()
    wants_reply = Signal(str)
    wants_cache = Signal(str)
    wants_saved = Signal(str)
    wants_loaded = Signal(str)

    def __init__(self, path: str, kv: str = "balanced", n_ctx: int = 4096) -> None:
        super().__init__()
        self.setWindowTitle("xquant")
        self.setStyleSheet(STYLE)
        self.resize(820, 640)
        self.messages: list[dict[str, str]] = []
        self.busy = True
        self._build(kv)
        self._thread = QThread()
        self._worker = Worker(path, kv, n_ctx)
        self._worker.moveToThread(self._thread)
        self._connect()
        self._frame = QTimer(singleShot=True, interval=FRAME)
        self._frame.timeout.connect(self._render)
        self._thread.start()
        self._set_busy(True)
        self.tell("loading the model")
        self.wants_open.emit()

    def _build(self, kv: str) -> None:
        self.name = QLabel()
        self.cache = QComboBox()
        self.cache.addItems(PRESETS if kv in PRESETS else (kv, *PRESETS))
        self.cache.setCurrentText(kv)
        self.save = QPushButton("Save", objectName="quiet")
        self.open = QPushButton("Open", objectName="quiet")
        top = QHBoxLayout()
        for widget in (self.name, QLabel("cache"), self.cache, self.save, self.open):
            top.addWidget(widget, stretch=int(widget is self.name))
        self.view = QTextBrowser(openExternalLinks=True)
        self.note = QLabel(objectName="note")
        self.line = Line(placeholderText="Write a message; Enter sends it")
        self.line.setFixedHeight(72)
        self.send = QPushButton("Send")
        bottom = QHBoxLayout()
        bottom.addWidget(self.line, stretch=1)
        bottom.addWidget(self.send)
        self.memory = QLabel(objectName="note")
        self.share = QProgressBar(textVisible=False, maximum=1000)
        figures = QHBoxLayout()
        figures.addWidget(self.memory)
        figures.addWidget(self.share, stretch=1)
        layout = QVBoxLayout()
        layout.addLayout(top)
        layout.addWidget(self.view, stretch=1)
        layout.addWidget(self.note)
        layout.addLayout(bottom)
        layout.addLayout(figures)
        body = QWidget()
        body.setLayout(layout)
        self.setCentralWidget(body)

    def _connect(self) -> None:
        worker = self._worker
        self.wants_open.connect(worker.open)
        self.wants_reply.connect(worker.ask)
        self.wants_cache.connect(worker.switch)
        self.wants_saved.connect(worker.save)
        self.wants_loaded.connect(worker.load)
        worker.opened.connect(self._opened)
        worker.failed.connect(self.tell)
        worker.piece.connect(self._piece)
        worker.note.connect(self.tell)
        worker.figures.connect(self._figures)
        worker.done.connect(self._done)
        worker.loaded.connect(self._loaded)
        self.send.clicked.connect(self._send_or_stop)
        self.line.sent.connect(self._send)
        self.cache.textActivated.connect(self._switch)
        self.save.clicked.connect(self._ask_where_to_save)
        self.open.clicked.connect(self._ask_what_to_open)

    def tell(self, text: str) -> None:
        """One line about the chat."""
        self.note.setText(text)

    def _set_busy(self, busy: bool, stops: bool = False) -> None:
        self.busy = busy
        self.send.setText("Stop" if stops else "Send")
        self.send.setEnabled(not busy or stops)
        for widget in (self.cache, self.save, self.open):
            widget.setEnabled(not busy)

    def _opened(self, name: str) -> None:
        self.name.setText(name)
        self.tell("")
        self._set_busy(False)
        self.line.setFocus()

    def _send_or_stop(self) -> None:
        if self.busy:
            self._worker.stop()
        else:
            self._send()

    def _send(self) -> None:
        text = self.line.toPlainText().strip()
        if self.busy or not text:
            return
        self.line.clear()
        self.tell("")
        self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": ""}]
        self._render()
        self._set_busy(True, stops=True)
        self.wants_reply.emit(text)

    def _piece(self, text: str) -> None:
        self.messages[-1]["content"] += text
        if not self._frame.isActive():
            self._frame.start()

    def _done(self, back: str) -> None:
        if back:  # it was not taken: the writer has it again
            del self.messages[-2:]
            self.line.setPlainText(back)
        self._render()
        self._set_busy(False)

    def _switch(self, kv: str) -> None:
        self._set_busy(True)
        self.tell(f"loading the model with {kv}")
        self.wants_cache.emit(kv)

    def save_to(self, path: str) -> None:
        """Save the chat and its cache."""
        self._set_busy(True)
        self.wants_saved.emit(path)

    def open_from(self, path: str) -> None:
        """Go on with a saved chat."""
        self._set_busy(True)
        self.wants_loaded.emit(path)

    def _ask_where_to_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the chat", "chat.json", "Chats (*.json)")
        if path:
            self.save_to(path)

    def _ask_what_to_open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a chat", "", "Chats (*.json)")
        if path:
            self.open_from(path)

    def _loaded(self, messages: Sequence[Mapping[str, str]]) -> None:
        self.messages = [dict(message) for message in messages]

    def _figures(self, now: Figures) -> None:
        self.memory.setText(
            f"{now.tokens:,} of {now.n_ctx:,} tokens · KV cache {now.packed / MIB:.1f} MiB, "
            f"f16 would be {now.f16 / MIB:.1f} MiB"
        )
        self.share.setValue(round(1000 * now.packed / now.f16) if now.f16 else 0)

    def _render(self) -> None:
        """The whole conversation; HTML in it is text."""
        parts = []
        for message in self.messages:
            if message["role"] == "user":
                quoted = message["content"].replace("\n", "  \n> ")
                parts += (["---"] if parts else []) + [f"> {quoted}"]
            else:
                parts.append(message["content"] or "…")
        bar = self.view.verticalScrollBar()
        low = bar.value() >= bar.maximum() - 40
        features = QTextDocument.MarkdownFeature
        document = self.view.document()
        document.setMarkdown(
            "\n\n".join(parts), features.MarkdownDialectGitHub | features.MarkdownNoHTML
        )
        if low:
            self.view.moveCursor(QTextCursor.MoveOperation.End)
            bar.setValue(bar.maximum())

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802 (Qt's name)
        """Also during a reply, which is stopped."""
        self._worker.stop()
        self._worker.close()
        self._thread.quit()
        self._thread.wait()
        event.accept()
