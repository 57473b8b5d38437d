"""``n_ctx``: what does not fit is refused before loading, and "max" is the longest that fits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from tiny import write

from xquant_gguf import Llama, _fitting
from xquant_gguf.errors import ConfigError, OutOfMemoryError

pytestmark = pytest.mark.usefixtures("packed_library")
MIB = 2**20


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend that the machine has so many bytes free."""

    def set_to(count: int | None) -> None:
        monkeypatch.setattr(_fitting, "available_bytes", lambda: count)

    return set_to


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four layers of 512 bytes a token and side in f16; made for 32,768 tokens."""
    return write(tmp_path_factory.mktemp("model"), "model", "llama")


def opened(path: Path, **settings: Any) -> tuple[int, int]:
    """Tokens and bytes of the cache that a ``Llama`` gets."""
    with Llama(path, **{"n_threads": 2, **settings}) as llm:
        return llm.n_ctx(), llm.kv_cache.bytes_total


@pytest.mark.parametrize("kv", ["f16", "balanced", "q8_0"])
def test_max_is_the_longest_that_fits(model: Path, free: Any, kv: str) -> None:
    free(16 * MIB)
    n_ctx, size = opened(model, kv=kv, n_ctx="max")
    assert 0 < n_ctx < 32768
    assert size < 16 * MIB
    with pytest.raises(OutOfMemoryError, match=f"use n_ctx={n_ctx} or less"):
        opened(model, kv=kv, n_ctx=n_ctx + 256)
    assert opened(model, kv=kv, n_ctx=n_ctx)[0] == n_ctx


def test_max_is_at_most_what_the_model_was_made_for(model: Path, free: Any) -> None:
    free(2**40)
    assert opened(model, kv="balanced", n_ctx="max")[0] == 32768
    free(None)
    assert opened(model, kv="balanced", n_ctx="max")[0] == 32768


def test_windows_are_counted_as_they_are(tmp_path: Path, free: Any) -> None:
    """A model whose windows are small fits where one that keeps every token does not."""
    path = write(tmp_path, "window", "gpt-oss")
    free(20 * MIB)
    small = opened(path, kv="balanced", n_ctx="max")[0]
    assert small > 2 * opened(path, kv="balanced", n_ctx="max", swa_full=True)[0] > 0


def test_what_cannot_fit_is_refused_at_once(model: Path, free: Any) -> None:
    free(1000)
    start = time.monotonic()
    for n_ctx in (4096, 0, "max"):
        with pytest.raises(OutOfMemoryError, match="free some memory") as caught:
            opened(model, n_ctx=n_ctx)
        assert isinstance(caught.value, MemoryError)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("n_ctx", [-1, 2**31, True, 512.0, "most", None])
def test_other_values_are_refused(model: Path, n_ctx: object) -> None:
    with pytest.raises(ConfigError, match="n_ctx is a number of tokens"):
        opened(model, n_ctx=n_ctx)


def test_a_context_of_billions_is_refused_by_reckoning(model: Path, free: Any) -> None:
    """llama.cpp's own bookkeeping of so many tokens would not fit, even in a dry run."""
    free(2**33)
    with pytest.raises(OutOfMemoryError, match=r"n_ctx=2000000000; use n_ctx=\d+ or less"):
        opened(model, kv="f16", n_ctx=2_000_000_000)
