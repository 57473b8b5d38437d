"""A chat in another program: a window would show the pieces instead of printing them.

python python/examples/embed.py MODEL.gguf
"""

from __future__ import annotations

import queue
import sys
import threading

from xquant_gguf import CancelledError, ClosedError, Llama


class Talk:
    """Replies in a thread of their own; the program's main thread never waits for the model."""

    def __init__(self, path: str) -> None:
        self.llm = Llama(path, n_ctx=4096)
        self.pieces: queue.Queue[str | None] = queue.Queue()
        self.messages: list[dict[str, str]] = []

    def ask(self, text: str) -> None:
        """Begin a reply; its pieces come through ``pieces``, None behind the last."""
        self.messages.append({"role": "user", "content": text})
        threading.Thread(target=self._reply, daemon=True).start()

    def _reply(self) -> None:
        reply = ""
        try:
            for chunk in self.llm.create_chat_completion(self.messages, max_tokens=64, stream=True):
                piece = chunk["choices"][0]["delta"].get("content") or ""
                reply += piece
                self.pieces.put(piece)
        except (CancelledError, ClosedError):
            pass  # the button "stop", llm.cancel() from any thread; or the window was closed
        self.messages.append({"role": "assistant", "content": reply})
        self.pieces.put(None)

    def memory(self) -> str:
        """What the cache takes, and what f16 would; may be asked for at any time."""
        cache = self.llm.kv_cache.snapshot()
        return f"{cache.bytes_total / 2**20:.1f} MiB of {cache.bytes_f16 / 2**20:.1f}"


def main() -> None:
    talk = Talk(sys.argv[1])
    talk.ask("Say hello.")
    for piece in iter(talk.pieces.get, None):
        print(piece, end="", flush=True)
    print(f"\nKV cache {talk.memory()}")
    talk.llm.close()  # stops and waits for what still runs


if __name__ == "__main__":
    main()
