"""Where memory ends while a context is made: an error of its own, not an unsupported model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from conftest import subprocess_env

from xquant_gguf import OutOfMemoryError, UnsupportedModelError
from xquant_gguf._failures import explain, refused

FULL = "xquant: the packed cache must fit into memory; got std::bad_alloc for a cache of 9 tokens"

LIMITED = """
import resource, sys
from xquant_gguf import OutOfMemoryError
from xquant_gguf.config import resolve_kv
from xquant_gguf.eval.contexts import Context, Model
model = Model(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
try:
    Context(model, resolve_kv(sys.argv[2]), n_ctx=200_000_000, threads=1)
except OutOfMemoryError as error:
    print(error)
"""


def test_our_refusal_and_llama_cpps_log_say_it() -> None:
    failed = ValueError("Failed to create llama_context")
    assert isinstance(explain(failed, FULL, [], "m.gguf"), OutOfMemoryError)
    log = ["llama_init_from_model: failed to initialize the context: std::bad_alloc"]
    assert isinstance(explain(failed, "", log, "m.gguf"), OutOfMemoryError)
    assert isinstance(refused(FULL), OutOfMemoryError)
    assert isinstance(refused("xquant: head dims must be even; got 3"), UnsupportedModelError)


@pytest.mark.model
@pytest.mark.usefixtures("packed_library")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
@pytest.mark.parametrize("kv", ["balanced", "f16"])
def test_a_context_that_memory_does_not_hold(tmp_path: Path, kv: str) -> None:
    command = [sys.executable, "-c", LIMITED, str(tiny.write(tmp_path, "tiny")), kv]
    ran = subprocess.run(command, env=subprocess_env(), capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()


@pytest.mark.model
@pytest.mark.parametrize("native", ["xquant: cannot restore the session: std::bad_alloc", ""])
def test_a_state_that_memory_does_not_hold(
    opened: Callable[..., Any], smollm2: Path, monkeypatch: pytest.MonkeyPatch, native: str
) -> None:
    import llama_cpp

    from xquant_gguf import llama

    def full(self: Any, state: Any) -> None:
        raise RuntimeError("Failed to set llama state data") if native else MemoryError()

    llm = opened(smollm2, kv="balanced", n_ctx=256)
    llm.eval(llm.tokenize(b"One two three"))
    state = llm.save_state()
    monkeypatch.setattr(llama_cpp.Llama, "load_state", full)
    told = SimpleNamespace(config_set=lambda text: None, last_error=lambda: native)
    monkeypatch.setattr(llama, "_NATIVE", told)
    with pytest.raises(OutOfMemoryError, match="while it is restored"):
        llm.load_state(state)
    assert llm.n_tokens == 0
    monkeypatch.undo()
    llm.load_state(state)
    assert llm.n_tokens > 0
