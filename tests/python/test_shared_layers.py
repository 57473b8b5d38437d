"""Layers that read another layer's keys and values (Gemma 3n, small Gemma 4); drafts that do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import logits, nmse, tokens, write

pytestmark = pytest.mark.usefixtures("packed_library")
TOKENS = tokens(700)


@pytest.fixture
def logits_of() -> Iterator[Any]:
    """The logits behind TOKENS, with the cache that settings ask for."""
    from xquant_gguf import Llama

    def read(path: Path, **settings: Any) -> np.ndarray:
        llm = Llama(path, n_ctx=1024, n_threads=2, verbose=False, **settings)
        llm.eval(TOKENS)
        found = logits(llm)
        llm.close()
        return found

    return read


@pytest.mark.parametrize("arch", ["gemma3n", "gemma4-d256-shared"])
def test_layers_that_share_keys_and_values(tmp_path: Path, logits_of: Any, arch: str) -> None:
    path = write(tmp_path, "shared", arch)
    truth = logits_of(path, kv="f16", swa_full=False)
    exact = logits_of(path, kv="lossless", window=1024)  # nothing is sealed
    assert nmse(exact, truth) < 2e-3
    assert nmse(logits_of(path, kv="lossless"), truth) < 5 * nmse(
        logits_of(path, kv="q4_0", swa_full=False), truth
    )


def test_the_layers_that_share_have_no_storage(tmp_path: Path) -> None:
    from xquant_gguf import Llama

    llm = Llama(write(tmp_path, "shared", "gemma4-d256-shared"), n_ctx=512, verbose=False)
    packed = [layer["il"] for layer in llm.kv_cache.layers]
    llm.close()
    assert packed == [4, 9]  # the global layers among the first ten; the last five share


@pytest.mark.parametrize("target", ["balanced", "f16"])
@pytest.mark.parametrize("draft", ["xq", "f16"])
def test_a_draft_over_packed_cells_is_refused(tmp_path: Path, target: str, draft: str) -> None:
    """It would read pages as if they were all tokens; two f16 caches go together."""
    import llama_cpp

    from xquant_gguf import Llama, _native

    native = _native.load()
    llm = Llama(write(tmp_path, "target", "gemma4-d256"), n_ctx=512, kv=target, verbose=False)
    path = write(tmp_path, "draft", "gemma4-assistant-d256")
    native.config_set(None)
    model = llama_cpp.llama_model_load_from_file(
        str(path).encode(), llama_cpp.llama_model_default_params()
    )
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.ctx_other = 512, llm._ctx.ctx
    params.flash_attn_type = 1
    if draft == "xq":
        params.type_k = params.type_v = native.ggml_type()
    context = llama_cpp.llama_init_from_model(model, params)
    if (target, draft) == ("f16", "f16"):
        assert context
        llama_cpp.llama_free(context)
    else:
        assert not context
        assert "a draft that reads another context's keys and values" in native.last_error()
        assert ("packed target" if target == "balanced" else "packed draft") in native.last_error()
    llama_cpp.llama_model_free(model)
    llm.close()
