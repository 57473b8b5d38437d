"""Models whose states cannot go back, behind the server: its checkpoints with a packed cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from serving import Answer, running
from tiny import tokens


@pytest.mark.parametrize("arch", ["gemma3", "granitehybrid", "lfm2", "qwen3next"])
def test_a_changed_last_turn_is_read_as_if_it_were_the_first(
    tiny: Callable[[str], Path], packed_library: None, tmp_path: Path, arch: str
) -> None:
    start, first, second = tokens(300, 1), tokens(60, 2), tokens(60, 3)
    with running(tmp_path, tiny(arch), "--ctx", 1024, "--slots", 2) as server:

        def ask(ids: list[int], *, slot: int, reuse: bool) -> Answer:
            body = {
                "prompt": ids,
                "n_predict": 8,
                "temperature": 0,
                "n_probs": 4,
                "ignore_eos": True,
                "cache_prompt": reuse,
                "id_slot": slot,
            }
            return Answer.of(server.post("/completion", body))

        ask(start + first, slot=0, reuse=True)
        changed = ask(start + second, slot=0, reuse=True)
        fresh = ask(start + second, slot=1, reuse=False)
        gap = fresh.first_difference(changed)
    assert gap is None or gap < 0.01, (fresh.tokens, changed.tokens)
