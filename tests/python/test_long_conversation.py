"""python/chat/long_conversation.py, four contexts long: no dead end, memory that levels off."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import subprocess_env

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("packed_library")]

SCRIPT = Path(__file__).parents[2] / "python" / "chat" / "long_conversation.py"
CTX = 256
GROWTH = 8  # MiB that the process may grow by in the last quarter


@pytest.mark.slow
def test_a_conversation_of_four_contexts(smollm2: Path, tmp_path: Path) -> None:
    out = tmp_path / "conversation.json"
    command = [sys.executable, str(SCRIPT), str(smollm2), "--ctx", str(CTX), "--json", str(out)]
    command += ["--tokens", str(4 * CTX), "--reply", "30"]
    done = subprocess.run(command, capture_output=True, text=True, env=subprocess_env())
    assert done.returncode == 0, done.stderr
    told = json.loads(out.read_text("utf-8"))
    turns, quarters = told["turns"], told["quarters"]
    full = [turn for turn in turns if turn["forgotten"]]
    assert len({turn["forgotten"] for turn in full}) > 3
    asked = [turn["obeyed"] for turn in full if turn["obeyed"] is not None]
    assert len(asked) > 3 and sum(asked) >= len(asked) - 2  # a small model may miss one
    assert quarters[3]["rss_mib"] - quarters[2]["rss_mib"] < GROWTH
