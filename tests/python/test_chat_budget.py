"""``--budget``: the longest context of a cache, or the cache closest to f16 for a context."""

from __future__ import annotations

from pathlib import Path

import pytest

from xquant_gguf.chat import arguments
from xquant_gguf.chat.budget import within
from xquant_gguf.chat.model import default_threads
from xquant_gguf.config import resolve_kv
from xquant_gguf.errors import ConfigError, OutOfMemoryError, UnsupportedModelError
from xquant_gguf.estimate import Estimator
from xquant_gguf.plan.rows import BEST_FIRST

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("packed_library")]


def take(path: Path, kv: str, n_ctx: int) -> int:
    with Estimator(str(path)) as estimator:
        return estimator.use(resolve_kv(kv), n_ctx, threads=default_threads()).beside_weights


def chosen(path: Path, *more: str) -> arguments.Options:
    return within(arguments.parse([str(path), *more]), str(path))


def test_a_budget_alone_chooses_the_longest_context(smollm2: Path) -> None:
    for kv in ("balanced", "f16"):
        size = take(smollm2, kv, 4096)
        assert chosen(smollm2, "--budget", str(size), "--kv", kv).ctx == 4096
        assert chosen(smollm2, "--budget", str(size - 1), "--kv", kv).ctx == 3840
    assert chosen(smollm2, "--budget", "4GiB").ctx == 8192  # the model's own
    assert chosen(smollm2).ctx is None


def test_with_a_context_it_chooses_the_cache(smollm2: Path) -> None:
    sizes = {kv: take(smollm2, kv, 8192) for kv in BEST_FIRST}
    assert sorted(sizes.values(), reverse=True) == list(sizes.values())
    for kv, size in sizes.items():
        got = chosen(smollm2, "--budget", str(size), "--ctx", "8192")
        assert (got.kv_name, got.kv, got.ctx) == (kv, resolve_kv(kv), 8192)


def test_a_cache_that_was_named_stays(smollm2: Path) -> None:
    size = str(take(smollm2, "quality", 8192) - 1)
    with pytest.raises(OutOfMemoryError, match="quality holds 7936; try --ctx 7936"):
        chosen(smollm2, "--budget", size, "--ctx", "0", "--kv", "quality")
    with pytest.raises(OutOfMemoryError, match="balanced holds"):
        chosen(smollm2, "--budget", size, "--ctx", "8192", "--k-bits", "4", "--v-bits", "4")
    assert chosen(smollm2, "--budget", size, "--ctx", "8192").kv_name == "balanced"


@pytest.mark.parametrize("more", ([], ["--ctx", "4096"]))
def test_what_is_too_small_says_what_would_fit(smollm2: Path, more: list[str]) -> None:
    with pytest.raises(OutOfMemoryError, match=r"got 1\.0 MiB.*even 256 tokens take \d+\.\d MiB"):
        chosen(smollm2, "--budget", "1MiB", *more)
    with pytest.raises(ConfigError, match="a size is a number with a unit"):
        chosen(smollm2, "--budget", "much", *more)


def test_caches_that_a_model_cannot_have_are_passed_over(tiny: object) -> None:
    path = tiny("deepseek32")  # type: ignore[operator]
    got = within(arguments.parse([str(path), "--budget", "1GiB", "--ctx", "512"]), str(path))
    assert got.kv_name == "f16"
    with pytest.raises(UnsupportedModelError):
        within(arguments.parse([str(path), "--budget=1GiB", "--ctx=512", "--kv=tiny"]), str(path))
