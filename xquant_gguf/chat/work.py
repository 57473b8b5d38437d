"""A reply made by a thread of its own, so that the terminal's thread is free to be interrupted.

While llama.cpp computes, Python handles no Ctrl-C in the thread that called it. The main thread
therefore only waits, and stops the other one through ``Llama.cancel``.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import Any

from .conversation import Message
from .model import ChatModel
from .reading import ReadingLine

_LOOK = 0.1  # seconds between two looks at the progress


class Work:
    """One reply in the making; it begins at once.

    Args:
        keywords: for ``create_chat_completion``.
        reading: told how far the prompt is read, and cleared before the first piece.
    """

    def __init__(
        self,
        llm: ChatModel,
        messages: list[Message],
        keywords: dict[str, Any],
        reading: ReadingLine | None,
    ) -> None:
        self._llm, self._messages, self._keywords = llm, messages, keywords
        self._reading = reading
        self._made: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._unwanted = False
        llm.prompt_progress = reading.told if reading else None
        self._thread = threading.Thread(target=self._run, name="reply", daemon=True)
        self._thread.start()

    def next(self) -> tuple[Any, int, float] | None:
        """The next chunk with the tokens held and the time when it was made; None at the end.

        Raises:
            BaseException: what ended the reply.
        """
        while True:
            try:
                made = self._made.get(timeout=_LOOK)
                break
            except queue.Empty:
                if self._reading:
                    self._reading.tick()
        if self._reading:
            self._reading.clear()
            self._reading = None  # from here on the reply is shown
        if isinstance(made, BaseException):
            raise made
        return made  # type: ignore[no-any-return]

    def stop(self) -> None:
        """End it, if it has not ended."""
        self._unwanted = True
        while self._thread.is_alive():
            with contextlib.suppress(KeyboardInterrupt):
                self._llm.cancel()
                self._thread.join(0.05)
        if self._reading:
            self._reading.clear()
        self._llm.prompt_progress = None

    def _run(self) -> None:
        try:
            stream = self._llm.create_chat_completion(self._messages, stream=True, **self._keywords)
            for chunk in stream:
                self._made.put((chunk, self._llm.n_tokens, time.perf_counter()))
                if self._unwanted:
                    break
            self._made.put(None)
        except BaseException as error:
            self._made.put(error)
