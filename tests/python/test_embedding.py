"""docs/embedding.md: the example runs, also where its reply is stopped or the model closed."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, subprocess_env

pytestmark = [
    pytest.mark.model,
    pytest.mark.usefixtures("packed_library"),
    pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning"),
]
EXAMPLE = ROOT / "python" / "examples" / "embed.py"


def test_it_runs(smollm2: Path) -> None:
    command = [sys.executable, str(EXAMPLE), str(smollm2)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=subprocess_env(), timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    reply, memory = done.stdout.rsplit("\n", 2)[:2]
    assert reply.strip()
    assert memory.startswith("KV cache ")


@pytest.fixture
def talk(smollm2: Path) -> Any:
    made = runpy.run_path(str(EXAMPLE))["Talk"](str(smollm2))
    yield made
    made.llm.close()


def test_a_reply_may_be_stopped_and_another_asked_for(talk: Any) -> None:
    talk.ask("Count to a thousand.")
    talk.pieces.get(timeout=60)
    talk.memory()
    talk.llm.cancel()
    assert len(list(iter(lambda: talk.pieces.get(timeout=60), None))) < 60
    talk.ask("Say hello.")
    assert list(iter(lambda: talk.pieces.get(timeout=60), None))
    assert [message["role"] for message in talk.messages] == ["user", "assistant"] * 2


def test_it_may_be_closed_during_a_reply(talk: Any) -> None:
    talk.ask("Tell me a long story.")
    talk.pieces.get(timeout=60)
    talk.llm.close()
