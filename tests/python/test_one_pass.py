"""What one forward pass says about layers is what packing them does, whatever the architecture."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny as tiny_models
from numpy.typing import NDArray

from xquant_gguf.calibrate.one_pass import TOKENS, LayerCost, run
from xquant_gguf.config import XQuantConfig
from xquant_gguf.eval.contexts import Context, Model

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("packed_library")]

Tiny = Callable[[str], Path]
Text = list[int]
TEXT: Text = tiny_models.tokens(TOKENS)


def costs_of(path: Path, text: Text = TEXT) -> tuple[LayerCost, ...]:
    with closing(Model(str(path))) as model:
        return run(model, text, threads=2)


def stream(model: Model, config: XQuantConfig, name: bytes) -> NDArray[np.float64]:
    """A node of the graph over the text, by its name."""
    lib = ctypes.CDLL(str(model.native.directory / "libggml-base.so"))
    lib.ggml_get_name.restype = ctypes.c_char_p
    lib.ggml_nbytes.restype = ctypes.c_size_t
    for function in (lib.ggml_get_name, lib.ggml_nbytes):
        function.argtypes = [ctypes.c_void_p]
    lib.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_size_t] * 2
    found: list[NDArray[np.float32]] = []

    @ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
    def see(t: int, ask: bool, _: Any) -> bool:
        if lib.ggml_get_name(t) == name and not ask:
            data = np.empty(lib.ggml_nbytes(t) // 4, np.float32)
            lib.ggml_backend_tensor_get(t, data.ctypes.data, 0, data.nbytes)
            found.append(data)
        return bool(lib.ggml_get_name(t) == name) or not ask

    address = ctypes.cast(see, ctypes.c_void_p).value or 0
    with closing(
        Context(model, config, n_ctx=512, threads=2, batch=512, eval_callback=(address, 0))
    ) as context:
        context.feed(TEXT, logits="all")
    return found[0].astype(np.float64).reshape(TOKENS, -1)


@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma3"])
def test_a_cost_is_the_change_that_packing_makes(tiny: Tiny, arch: str) -> None:
    path = tiny(arch)
    with closing(Model(str(path))) as model:
        first = run(model, TEXT, threads=2)[0]
        il = first.shape.il
        name = f"{'sa_out' if arch == 'gemma3' else 'ffn_inp'}-{il}".encode()
        base = XQuantConfig(window=TOKENS, max_ubatch=TOKENS)
        exact = stream(model, base, name)[95:]
        for bits in 1, 2:
            fine = base.replace(window=32, k_bits=4.5, v_bits=bits)
            change = stream(model, fine, name)[95:] - exact
            true = (change**2).sum() / (exact**2).sum()
            both = first.v[bits] + first.k[max(first.k)]
            assert both == pytest.approx(true, rel=0.1)
        coarse = base.replace(window=32, k_bits=1, v_bits=4)
        change = stream(model, coarse, name)[95:] - exact
        true = (change**2).sum() / (exact**2).sum()
        assert first.k[min(first.k)] + first.v[4] == pytest.approx(true, rel=0.1)


def test_costs_fall_with_width(tiny: Tiny) -> None:
    for layer in costs_of(tiny("llama")):
        for costs in (layer.k, layer.v):
            found = [costs[bits] for bits in sorted(costs)]
            assert found == sorted(found, reverse=True)
            assert 0 < found[-1] < found[0] / 10


def test_the_layer_that_weighs_more_comes_first(tiny: Tiny, tmp_path: Path) -> None:
    from gguf import GGUFReader

    path = shutil.copy(tiny("llama"), tmp_path / "m.gguf")
    before = costs_of(path)
    last = before[-1].shape.il
    for tensor in GGUFReader(path, "r+").tensors:
        if tensor.name == f"blk.{last}.attn_output.weight":
            tensor.data[:] *= 2
    after = costs_of(path)
    for side in ("k", "v"):
        was, now = ([getattr(layer, side)[2] for layer in each] for each in (before, after))
        assert now[:-1] == pytest.approx(was[:-1])
        assert 1.5 < now[-1] / was[-1] <= 4


ARCHS = ["qwen35", "qwen3moe", "gemma2", "gemma3", "gemma4-d256", "gpt-oss", "llama4", "phi2"]
ARCHS += ["granitehybrid", "lfm2", "nemotron_h", "olmo2", "cohere2", "falcon-h1", "mpt"]
ARCHS += [
    "deepseek2",
    "deepseek2-nomla",
    "kimi-linear",
    "minicpm3",
    "qwen2vl",
    "smollm3",
    "starcoder2",
]


@pytest.mark.parametrize("arch", ARCHS)
def test_architectures(tiny: Tiny, arch: str) -> None:
    """Hybrids, windows, shared layers, experts, sinks, gates, norms behind, branches beside."""
    found = costs_of(tiny(arch))
    assert found
    for layer in found:
        assert layer.why_none == ""
        assert layer.k[min(layer.k)] > layer.k[max(layer.k)] > 0
        assert layer.v[1] > layer.v[4] > 0


def test_what_cannot_be_followed_is_told(tiny: Tiny) -> None:
    """Gemma 3n mixes four streams."""
    assert all(layer.why_none or min(layer.k.values()) > 0 for layer in costs_of(tiny("gemma3n")))
