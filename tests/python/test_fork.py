"""A process that is forked after a model was loaded: an error, where llama.cpp would hang."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from conftest import subprocess_env

pytestmark = [
    pytest.mark.usefixtures("packed_library"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
]

SECONDS = 60  # it hung for ever


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("model"), "small")


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=subprocess_env(),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


CHILD = """
import os, sys
from xquant_gguf import ForkError, Llama

def refused(call):
    try:
        call()
    except ForkError as error:
        print(error, flush=True)
    else:
        print("not refused", flush=True)
"""


def test_a_loaded_model_in_a_fork(model: Path) -> None:
    """Every use is refused; leaving the child frees nothing twice, and the parent goes on."""
    text = run(
        CHILD
        + f"""
llm = Llama({str(model)!r}, n_threads=2)
llm.eval([1, 2, 3])
if os.fork() == 0:
    refused(lambda: llm.eval([4]))
    refused(lambda: llm("hello"))
    refused(lambda: llm.kv_cache.tokens)
    refused(llm.cancel)
    refused(llm.save_state)
    refused(lambda: Llama({str(model)!r}))
    llm.close()
    sys.exit(0)  # finalizers too
_, status = os.wait()
llm.eval([4])
print("parent", status, llm.n_tokens)
"""
    )
    *child, parent = text.splitlines()
    assert parent == "parent 0 4"
    assert len(child) == 6
    assert all("must not go on in a fork of itself; got process" in line for line in child)


def test_a_fork_while_another_thread_decodes(model: Path) -> None:
    """Its locks are taken for ever in the child."""
    text = run(
        CHILD
        + f"""
import threading
llm = Llama({str(model)!r}, n_threads=2, n_ctx=4096)
words = list(range(400))
thread = threading.Thread(target=lambda: [llm.reset() or llm.eval(words) for _ in range(5)])
thread.start()
for _ in range(5):
    if os.fork() == 0:
        refused(lambda: llm.eval([4]))
        llm.close()
        sys.exit(0)
    assert os.wait()[1] == 0
thread.join()
"""
    )
    assert text.count("must not go on in a fork of itself") == 5


def test_a_context_of_the_tools_in_a_fork(model: Path) -> None:
    text = run(
        CHILD
        + f"""
from xquant_gguf import PRESETS
from xquant_gguf.eval.contexts import Context, Model
loaded = Model({str(model)!r})
ctx = Context(loaded, PRESETS["balanced"], n_ctx=512, threads=2)
ctx.feed([1, 2, 3])
if os.fork() == 0:
    refused(lambda: ctx.feed([4]))
    refused(lambda: Context(loaded, PRESETS["balanced"], n_ctx=512, threads=2))
    refused(lambda: Model({str(model)!r}))
    sys.exit(0)
assert os.wait()[1] == 0
ctx.feed([4])
"""
    )
    assert text.count("must not go on in a fork of itself") == 3


def test_a_fork_before_any_model_is_loaded_may_load_its_own(model: Path) -> None:
    text = run(
        CHILD
        + f"""
if os.fork() == 0:
    llm = Llama({str(model)!r}, n_threads=2)
    llm.eval([1, 2, 3])
    print(llm.n_tokens, flush=True)
    sys.exit(0)
assert os.wait()[1] == 0
llm = Llama({str(model)!r}, n_threads=2)
llm.eval([1, 2, 3, 4])
print(llm.n_tokens)
"""
    )
    assert text.split() == ["3", "4"]
