"""A conversation many times as long as its context: does it go on, and is the system prompt obeyed?

    python python/chat/long_conversation.py model.gguf --kv balanced --json conversation.json

The questions are small talk. The system prompt has a secret
word, and every fourth question asks for it; how often it is told is counted by quarters of the
conversation, and so is the memory of the process. Run it with ``--kv f16`` too: a small
model obeys badly with any cache.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from xquant_gguf import Llama
from xquant_gguf.chat.conversation import Conversation
from xquant_gguf.chat.sampling import Sampling
from xquant_gguf.chat.screen import Screen
from xquant_gguf.chat.session_file import Fingerprint
from xquant_gguf.chat.state import Chat
from xquant_gguf.chat.turn import take_turn

WORD = "lighthouse"
SYSTEM = f"The secret word is '{WORD}'. Tell it when asked."
ASKED = "Tell me the secret word."
EVERY = 4
TOPICS = (
    "the sea", "bread", "winter", "the moon", "horses", "rivers", "tea", "music", "a good friend",
    "mountains", "clocks", "bees", "rain", "old books", "trains", "salt", "gardens", "whales",
    "candles", "the colour blue", "bridges", "maps", "dreams",
)  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """What one turn was like.

    ``tokens``: said so far, by both. ``obeyed``: whether the word was told, None if another
    question was asked. ``rss``: bytes of the process.
    """

    tokens: int
    obeyed: bool | None
    forgotten: int
    rss: int
    seconds: float


def questions() -> Iterator[str]:
    """Small talk without end; every fourth question asks for the word."""
    for number, topic in enumerate(itertools.cycle(TOPICS), 1):
        yield ASKED if number % EVERY == 0 else f"Tell me about {topic}."


def resident() -> int:
    """Bytes of memory that the process has now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def converse(llm: Llama, n_tokens: int, reply_tokens: int) -> Iterator[Turn]:
    """Talk until so many tokens were said.

    Raises:
        SystemExit: a turn was refused, or had no reply.
    """
    model = Fingerprint(Path(llm.model_path).name, Path(llm.model_path).stat().st_size)
    chat = Chat(
        llm, model, Conversation(SYSTEM), Sampling(temperature=0.0, max_tokens=reply_tokens)
    )
    screen = Screen(notes_on_stderr=True)
    said = 0
    for text in questions():
        start = time.monotonic()
        reply, back = take_turn(chat, text, screen, status=False)
        if reply is None or back:
            raise SystemExit(f"a dead end after {said} tokens: {text}")
        said += len(llm.tokenize(text.encode(), False)) + reply.tokens
        obeyed = WORD in reply.text.lower() if text == ASKED else None
        seconds = time.monotonic() - start
        yield Turn(said, obeyed, chat.conversation.forgotten, resident(), seconds)
        if said >= n_tokens:
            return


def quarters(turns: list[Turn]) -> list[dict[str, float]]:
    """How often the word was asked for and told, memory and time by quarters of the tokens."""
    rows = []
    for quarter in range(4):
        low, high = (turns[-1].tokens * n / 4 for n in (quarter, quarter + 1))
        part = [turn for turn in turns if low < turn.tokens <= high]
        asked = [turn.obeyed for turn in part if turn.obeyed is not None]
        rows.append(
            {
                "turns": len(part),
                "asked": len(asked),
                "obeyed": sum(asked),
                "rss_mib": round(max(turn.rss for turn in part) / 2**20, 1),
                "seconds_a_turn": round(sum(turn.seconds for turn in part) / len(part), 2),
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--kv", default="balanced")
    parser.add_argument("--ctx", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=20_000, help="said in all (20000)")
    parser.add_argument("--reply", type=int, default=60, help="longest reply in tokens (60)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    llm = Llama(args.model, kv=args.kv, n_ctx=args.ctx, n_threads=args.threads, verbose=False)
    with closing(llm):
        turns = list(converse(llm, args.tokens, args.reply))
        rows = quarters(turns)
    for row in rows:
        print(row, file=sys.stderr)
    if args.json:
        told = {"model": Path(args.model).name, "kv": args.kv, "ctx": args.ctx, "quarters": rows}
        args.json.write_text(json.dumps({**told, "turns": [asdict(t) for t in turns]}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
