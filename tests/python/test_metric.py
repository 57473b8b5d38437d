"""Keys in the metric of queries: which factors they get, and that nothing else changes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import saved
import tiny
from numpy.typing import NDArray

from xquant_gguf.config import resolve_kv
from xquant_gguf.eval.contexts import Context, Model

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("packed_library")]

Floats = NDArray[np.float64]
Open = Callable[..., Context]
TOKENS = [int(t) for t in np.random.default_rng(1).integers(3, 500, 200)]
WITHIN = {"window": 1024}
"""Settings with which nothing is sealed."""


@pytest.fixture
def context() -> Iterator[Open]:
    opened: list[Any] = []
    models: dict[Path, Model] = {}

    def one(path: Path, kv: str = "balanced", *, settings: Any = (), **kwargs: Any) -> Context:
        if path not in models:
            models[path] = Model(str(path))
        config = resolve_kv(kv, **dict(settings))
        opened.append(Context(models[path], config, **{"n_ctx": 512, "threads": 2, **kwargs}))
        return opened[-1]  # type: ignore[no-any-return]

    yield one
    for ctx in reversed(opened):
        ctx.close()
    for model in models.values():
        model.close()


def nmse(found: Any, truth: Any) -> float:
    found, truth = np.asarray(found, np.float64), np.asarray(truth, np.float64)
    return float(((found - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())


# ---- the factors ----


class Weights:
    """A model's tensors, to be read and changed in the file."""

    def __init__(self, path: Path, seed: int = 3) -> None:
        from gguf import GGUFReader

        self.tensors = {t.name: t.data for t in GGUFReader(path, "r+").tensors}
        self.rng = np.random.default_rng(seed)

    def scale_rows(self, name: str, n: int) -> None:
        """The first ``n`` rows, each by its own factor from 1/16 to 1."""
        rows = self.tensors[name][:n]
        rows *= 2.0 ** self.rng.uniform(-4, 0, (n, *[1] * (rows.ndim - 1))).astype(np.float32)

    def of(self, name: str) -> Floats:
        return np.asarray(self.tensors[name], np.float64)


def llama(w: Weights) -> Floats:
    for name in ("attn_q.weight", "attn_q.bias", "attn_norm.weight"):
        w.scale_rows(f"blk.1.{name}", 512 if "q" in name else 256)
    x = w.rng.choice([-1.0, 1.0], (4096, 256)) * w.of("blk.1.attn_norm.weight")
    return x @ w.of("blk.1.attn_q.weight").T + w.of("blk.1.attn_q.bias")


def qwen3(w: Weights) -> Floats:
    """A norm of queries hides their projection."""
    llama(w)
    w.scale_rows("blk.1.attn_q_norm.weight", 128)
    return np.ones((1, 4, 128)) * w.of("blk.1.attn_q_norm.weight")


def gptneox(w: Weights) -> Floats:
    """A fused projection, a norm with a bias, RoPE on a part of each head."""
    for name in ("attn_qkv.weight", "attn_qkv.bias", "attn_norm.weight", "attn_norm.bias"):
        w.scale_rows(f"blk.1.{name}", 320)
    x = w.rng.choice([-1.0, 1.0], (4096, 320)) * w.of("blk.1.attn_norm.weight")
    x += w.of("blk.1.attn_norm.bias")
    return x @ w.of("blk.1.attn_qkv.weight")[:320].T + w.of("blk.1.attn_qkv.bias")[:320]


def qwen35(w: Weights) -> Floats:
    """Queries and gates in one projection, a norm of queries, sections of positions."""
    w.scale_rows("blk.3.attn_q_norm.weight", 256)
    w.scale_rows("blk.3.attn_q.weight", 2048)
    return np.ones((1, 4, 256)) * w.of("blk.3.attn_q_norm.weight")


def octaves(queries: Floats, heads: int, groups: int, pairs: tuple[int, int]) -> Floats:
    """Of every KV head and channel below the largest; pairs: (dims that turn, how far apart)."""
    square = (queries.reshape(len(queries), groups, heads // groups, -1) ** 2).mean((0, 2))
    turned, apart = pairs
    partner = np.arange(square.shape[1])
    partner[:turned] = partner[:turned] ^ 1 if apart == 1 else (partner[:turned] + apart) % turned
    square = square + square[:, partner]
    return np.asarray(0.5 * np.log2(square.max(1, keepdims=True) / square))


@pytest.mark.parametrize(
    "queries, heads, groups, pairs, layer, layers",
    [
        (llama, 4, 2, (128, 1), 1, 4), (qwen3, 4, 2, (128, 64), 1, 4),
        (gptneox, 4, 4, (20, 10), 1, 4), (qwen35, 4, 1, (64, 32), 0, 2),
    ],
)  # fmt: skip
def test_factors_are_those_of_the_weights(
    context: Open, tmp_path: Path, queries: Callable[[Weights], Floats], heads: int, groups: int,
    pairs: tuple[int, int], layer: int, layers: int,
) -> None:  # fmt: skip
    """Reckoned a second time, with other and more signs."""
    path = tiny.write(tmp_path, "model", queries.__name__)
    want = octaves(queries(Weights(path)), heads, groups, pairs)
    ctx = context(path)
    ctx.feed(TOKENS[:2], logits="last")
    _, steps = saved.metric(saved.save(ctx), layers * want.size)
    found = steps.reshape(layers, *want.shape)[layer] / 8
    assert (abs(np.minimum(want, 5) - found) < 0.6).all()
    assert abs(np.minimum(want, 5) - found).mean() < 0.15
    assert found.min() == 0
    assert len(np.unique(found)) >= 4
    assert ctx.snapshot().layers[layer]["k_metric"] == pytest.approx(2 ** found.max(), rel=1e-4)


def test_factors_do_not_depend_on_batches_and_threads(context: Open, tmp_path: Path) -> None:
    path = tiny.write(tmp_path, "model", "llama")
    llama(Weights(path))
    found = []
    for more in (
        {},
        {"batch": 32},
        {"batch": 1},
        {"threads": 1},
        {"sequences": 3, "unified": False},
    ):
        ctx = context(path, **more)
        ctx.feed(TOKENS[:1], logits="last")
        found.append(saved.metric(saved.save(ctx), 4 * 2 * 128)[1].tobytes())
    assert set(found) == {found[0]}


def test_layers_whose_queries_say_nothing_keep_their_keys(context: Open, tmp_path: Path) -> None:
    path = tiny.write(tmp_path, "model", "llama")
    weights = Weights(path)
    for name in ("weight", "bias"):
        weights.tensors[f"blk.2.attn_q.{name}"][:] = 0
    weights.tensors["blk.3.attn_q.bias"][5] = np.inf
    layers = context(path).snapshot().layers
    assert [layer["k_metric_why_one"] for layer in layers] == [
        "", "", "its queries are 0", "its queries are not finite",
    ]  # fmt: skip
    assert [layer["k_metric"] for layer in layers[2:]] == [1, 1]
    plain = context(path, "xquant").snapshot().layers
    assert {layer["k_metric_why_one"] for layer in plain} == {"k_metric=none"}


# ---- every kind of model ----

KINDS = (
    "bloom", "command-r", "deci", "deepseek2", "deepseek2-nomla", "exaone4", "falcon-h1", "gemma3n",
    "gemma4-d256-shared", "glm4", "gpt-oss", "jamba", "llama4", "minicpm3", "mpt", "olmo2", "phi3",
    "qwen2vl", "qwen35moe", "stablelm",
)  # fmt: skip


@pytest.mark.parametrize("arch", KINDS)
def test_all_layers_have_factors_and_scores_stay(context: Open, tmp_path: Path, arch: str) -> None:
    """Within the window attention reads pages, whose keys are rounded once either way."""
    path = tiny.write(tmp_path, "model", arch)
    with_metric = context(path, settings=WITHIN)
    layers = [layer for layer in with_metric.snapshot().layers if layer["n_head_kv"]]
    assert layers
    assert not any(layer["k_metric_why_one"] for layer in layers)
    plain = context(path, settings={**WITHIN, "k_metric": "none"})
    found, want = (ctx.feed(TOKENS, logits="last") for ctx in (with_metric, plain))
    assert nmse(found, want) < 1e-3


# ---- what may happen to a cache ----


def test_a_cleared_cache_keeps_its_factors(context: Open, tmp_path: Path) -> None:
    path = tiny.write(tmp_path, "model", "llama")
    llama(Weights(path))
    ctx = context(path, settings={"window": 32})
    want = ctx.feed(TOKENS, logits="last").copy()
    ctx.clear()
    assert np.array_equal(ctx.feed(TOKENS, logits="last"), want)


def test_sequences_and_streams_share_the_factors(context: Open, tmp_path: Path) -> None:
    path = tiny.write(tmp_path, "model", "llama")
    llama(Weights(path))
    want = context(path, settings={"window": 32}).feed(TOKENS, logits="last").copy()
    ctx = context(path, settings={"window": 32}, n_ctx=1024, sequences=2, unified=False)
    ctx.feed(TOKENS[::-1], sequence=0, logits="last")
    assert np.array_equal(ctx.feed(TOKENS, sequence=1, logits="last"), want)


def test_followers_in_the_metric(context: Open, tmp_path: Path) -> None:
    """Pairs of layers share key codes; each layer has factors of its own."""
    path = tiny.write(tmp_path, "model", "llama")
    llama(Weights(path))
    shared = {"k_alloc": "uniform", "k_bits": 4, "k_share_from": 0, "window": 32}
    truth = context(path, "f16").feed(TOKENS, logits="last")
    found = {
        name: nmse(
            context(path, settings={**shared, "k_metric": name}).feed(TOKENS, logits="last"), truth
        )
        for name in ("queries", "none")
    }
    assert found["queries"] < 1.5 * found["none"]


def test_an_adapter_of_queries_changes_no_factor(context: Open, tmp_path: Path) -> None:
    path = tiny.write(tmp_path, "model", "llama")
    logits = []
    for name in ("queries", "none"):
        ctx = context(path, settings={**WITHIN, "k_metric": name})
        api, steps = ctx.model.api, ctx.snapshot().layers
        adapter = api.llama_adapter_lora_init(ctx.model.handle, str(lora(tmp_path)).encode())
        assert adapter
        assert (
            api.llama_set_adapters_lora(
                ctx.handle, (api.llama_adapter_lora_p_ctypes * 1)(adapter), 1,
                (api.ctypes.c_float * 1)(1.0),
            ) == 0
        )  # fmt: skip
        logits.append(ctx.feed(TOKENS, logits="last").copy())
        assert ctx.snapshot().layers == steps
    assert nmse(*logits) < 1e-4
    bare = context(path, settings=WITHIN).feed(TOKENS, logits="last")
    assert nmse(logits[0], bare) > 1e-2


def lora(folder: Path) -> Path:
    """An adapter of one layer's query projection."""
    from gguf import GGUFWriter

    path, rng = folder / "adapter.gguf", np.random.default_rng(5)
    writer = GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for part, shape in (("a", (8, 256)), ("b", (512, 8))):
        data = rng.standard_normal(shape).astype(np.float32) * 0.3
        writer.add_tensor(f"blk.1.attn_q.weight.lora_{part}", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# ---- states ----


def other_metric(state: bytes, size: int) -> bytes:
    """The state as another machine might have written it: a factor differs."""
    at, steps = saved.metric(state, size)
    changed = bytearray(state)
    changed[at] = 1 if steps[0] != 1 else 2
    return resealed(changed)


def resealed(changed: bytearray) -> bytes:
    crc = zlib.crc32(changed[saved.OUTER : saved.OUTER + 8])
    at = saved.OUTER + 8
    while at < len(changed):
        (n,) = struct.unpack_from("<I", changed, at)
        crc = zlib.crc32(changed[at : at + 4 + n], crc)
        struct.pack_into("<I", changed, at + 4 + n, crc)
        at += n + 8
    return bytes(changed)


def test_a_state_brings_its_factors_into_an_empty_cache(context: Open, tmp_path: Path) -> None:
    path, size = tiny.write(tmp_path, "model", "llama"), 4 * 2 * 128
    settings = {"window": 32}
    ctx = context(path, settings=settings)
    ctx.feed(TOKENS, logits="last")
    state = other_metric(saved.save(ctx), size)
    there = context(path, settings=settings, sequences=2)
    assert saved.restore(there, state)
    assert saved.save(there)[saved.OUTER :] == state[saved.OUTER :]
    there.clear()
    assert saved.restore(there, state, 1)
    there.feed(TOKENS[:3], sequence=0, logits="last")
    assert not saved.restore(there, saved.save(ctx), 1)
    assert "its keys are in another metric" in there.model.native.last_error()
    assert there.held == [3, 0]


def test_a_factor_that_cannot_be_is_refused(context: Open, tmp_path: Path) -> None:
    path = tiny.write(tmp_path, "model", "llama")
    ctx = context(path)
    ctx.feed(TOKENS, logits="last")
    changed = bytearray(saved.save(ctx))
    changed[saved.metric(bytes(changed), 1)[0]] = 200
    assert not saved.restore(ctx, resealed(changed))
    assert "a factor of keys that cannot be" in ctx.model.native.last_error()


# ---- what it is for ----


@pytest.mark.slow
def test_qwen_is_closer_to_f16(context: Open, qwen: Path) -> None:
    """Its keys have biases that make the widest channels, which queries hardly use."""
    from test_cache_real import divergence

    import xquant_gguf

    ctx = context(qwen, "f16", n_ctx=1024)
    text = Path(xquant_gguf.__file__).parent / "calibrate/text.txt"
    tokens = ctx.model.tokenize(text.read_text(encoding="utf-8")[:4000])[:512]
    truth = ctx.feed(tokens).copy()[256:]
    found = {}
    for name in ("queries", "none"):
        packed = context(qwen, settings={"k_metric": name, "window": 32}, n_ctx=1024)
        found[name] = divergence(truth, packed.feed(tokens)[256:])
    assert found["queries"] < 0.7 * found["none"]
