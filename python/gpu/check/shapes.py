"""Models of real shapes, written in seconds: random Q4_0 weights, the same bytes over and over.

Speed does not depend on what the weights are. Nor do a GPU and a CPU compute other things with
them; what they say is nonsense.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Union

import numpy as np

F32, Q4_0 = 0, 2
BLOCK = 32
BLOCK_BYTES = 18
ALIGNMENT = 32
CHUNK = 65537
"""Blocks that are random; a prime, so that the rows of a matrix are not all the same."""

SPREAD = 4.6  # standard deviation of a code from 0 to 15
KEYS = 1.5  # gain of queries and keys: attention is neither flat nor on one token

Tensor = tuple[str, tuple[int, ...]]
Value = Union[int, float, str, "list[int]"]


@dataclass(frozen=True)
class Shape:
    """A decoder.

    Attributes:
        arch: llama.cpp's name. width, inner: of a layer and of its feed-forward part.
        every: only each ``every``-th layer has attention, the others a gated delta net.
    """

    name: str
    arch: str
    layers: int
    heads: int
    kv_heads: int
    dim: int
    width: int
    inner: int
    vocabulary: int
    trained: int = 131072
    every: int = 1
    more: dict[str, Value] = field(default_factory=dict)

    @property
    def attention_layers(self) -> int:
        return self.layers // self.every


DELTA: dict[str, Value] = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 4096,
    "ssm.state_size": 128,
    "ssm.time_step_rank": 32,
    "ssm.group_count": 16,
    "full_attention_interval": 4,
    "rope.dimension_count": 64,
    "rope.dimension_sections": [11, 11, 10, 0],
}
SMALL_DELTA = {
    **DELTA,
    "ssm.inner_size": 512,
    "ssm.time_step_rank": 4,
    "ssm.group_count": 2,
}

LARGE = {
    "llama": Shape("llama-3.1-8b", "llama", 32, 32, 8, 128, 4096, 14336, 128256),
    "qwen3": Shape("qwen3-8b", "qwen3", 36, 32, 8, 128, 4096, 12288, 151936),
    "hybrid": Shape(
        "qwen3.5-9b-like", "qwen35", 32, 16, 4, 256, 4096, 12288, 151936, every=4, more=DELTA
    ),
}
SMALL = {
    "llama": Shape("llama-small", "llama", 4, 4, 2, 64, 256, 512, 512),
    "qwen3": Shape("qwen3-small", "qwen3", 2, 4, 2, 128, 256, 512, 512),
    "hybrid": Shape(
        "qwen3.5-small", "qwen35", 4, 4, 1, 256, 256, 512, 512, every=4, more=SMALL_DELTA
    ),
}
"""What the dry run has in place of the large ones."""

STAND_IN = Shape("stand-in", "llama", 8, 9, 3, 64, 576, 1536, 4096, 8192)
"""In place of SmolLM2 where its parts did not come: some of its layers, without its words."""


def metadata(s: Shape) -> dict[str, Value]:
    own: dict[str, Value] = {
        "vocab_size": s.vocabulary,
        "context_length": s.trained,
        "embedding_length": s.width,
        "block_count": s.layers,
        "feed_forward_length": s.inner,
        "attention.head_count": s.heads,
        "attention.head_count_kv": s.kv_heads,
        "attention.key_length": s.dim,
        "attention.value_length": s.dim,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 1e6,
        **({"rope.dimension_count": s.dim} if s.arch == "llama" else {}),
        **s.more,
    }
    head: dict[str, Value] = {"general.architecture": s.arch, "tokenizer.ggml.model": "no_vocab"}
    return {**head, **{f"{s.arch}.{key}": value for key, value in own.items()}}


def tensors(s: Shape) -> Iterator[Tensor]:
    """Names and shapes as llama.cpp's loader asks for them, the row first."""
    yield "token_embd.weight", (s.width, s.vocabulary)
    yield "output_norm.weight", (s.width,)
    yield "output.weight", (s.width, s.vocabulary)
    for i in range(s.layers):
        layer = delta_net(s) if (i + 1) % s.every else attention(s)
        for name, shape in [*layer, *feed_forward(s)]:
            yield f"blk.{i}.{name}", shape


def attention(s: Shape) -> Iterator[Tensor]:
    rows = s.heads * s.dim
    yield "attn_norm.weight", (s.width,)
    yield "attn_q.weight", (s.width, rows * (2 if s.arch == "qwen35" else 1))  # with its gate
    yield "attn_k.weight", (s.width, s.kv_heads * s.dim)
    yield "attn_v.weight", (s.width, s.kv_heads * s.dim)
    yield "attn_output.weight", (rows, s.width)
    if s.arch != "llama":
        yield "attn_q_norm.weight", (s.dim,)
        yield "attn_k_norm.weight", (s.dim,)


def delta_net(s: Shape) -> Iterator[Tensor]:
    def number(key: str) -> int:
        value = s.more[f"ssm.{key}"]
        assert isinstance(value, int)
        return value

    inner, ranks, state = number("inner_size"), number("time_step_rank"), number("state_size")
    mixed = inner + 2 * number("group_count") * state
    yield "attn_norm.weight", (s.width,)
    yield "attn_qkv.weight", (s.width, mixed)
    yield "attn_gate.weight", (s.width, inner)
    yield "ssm_conv1d.weight", (number("conv_kernel"), mixed)
    yield "ssm_dt.bias", (ranks,)
    yield "ssm_a", (ranks,)
    yield "ssm_beta.weight", (s.width, ranks)
    yield "ssm_alpha.weight", (s.width, ranks)
    yield "ssm_norm.weight", (state,)
    yield "ssm_out.weight", (inner, s.width)


def feed_forward(s: Shape) -> Iterator[Tensor]:
    norm = "post_attention_norm" if s.arch == "qwen35" else "ffn_norm"
    yield f"{norm}.weight", (s.width,)
    yield "ffn_gate.weight", (s.width, s.inner)
    yield "ffn_up.weight", (s.width, s.inner)
    yield "ffn_down.weight", (s.inner, s.width)


def kind_of(name: str, shape: tuple[int, ...]) -> int:
    return F32 if len(shape) == 1 or "conv1d" in name else Q4_0


def size_of(kind: int, shape: tuple[int, ...]) -> int:
    n = int(np.prod(shape))
    return 4 * n if kind == F32 else n // BLOCK * BLOCK_BYTES


def write(path: Path, s: Shape, seed: int = 1) -> int:
    """Write the model; bytes of the file."""
    all_tensors = list(tensors(s))
    rng = np.random.default_rng(seed)
    nibbles = rng.integers(0, 256, (CHUNK, BLOCK_BYTES - 2), np.uint8)
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("wb") as file:
        file.write(header(metadata(s), all_tensors))
        for name, shape in all_tensors:
            pad(file)
            if kind_of(name, shape) == F32:
                file.write(plain(name, shape, rng).tobytes())
            else:
                repeat(file, blocks(name, shape, nibbles), size_of(Q4_0, shape))
        pad(file)
        size = file.tell()
    unfinished.replace(path)
    return size


def plain(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Scales are 1, what a delta net decays by is negative, and other vectors are small."""
    x = rng.standard_normal(int(np.prod(shape))).astype(np.float32)
    if "norm" in name:
        return np.ones_like(x)
    return -np.abs(x) - np.float32(0.1) if name.endswith("ssm_a") else np.float32(0.3) * x


def blocks(name: str, shape: tuple[int, ...], nibbles: np.ndarray[Any, Any]) -> memoryview:
    """Random blocks whose products with a row of ones' size have about size 1."""
    gain = KEYS if "attn_q." in name or "attn_k." in name else 1.0
    scale = 1.0 if name.startswith("token_embd") else gain / np.sqrt(shape[0])
    data = np.empty((len(nibbles), BLOCK_BYTES), np.uint8)
    data[:, :2] = np.frombuffer(np.float16(scale / SPREAD).tobytes(), np.uint8)
    data[:, 2:] = nibbles
    return memoryview(data.tobytes())


def repeat(file: BinaryIO, data: memoryview, size: int) -> None:
    while size > 0:
        size -= file.write(data[: min(size, len(data))])


def pad(file: BinaryIO) -> None:
    file.write(b"\0" * (-file.tell() % ALIGNMENT))


def header(values: dict[str, Value], all_tensors: list[Tensor]) -> bytes:
    """GGUF, version 3 (ggml's docs/gguf.md)."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(all_tensors), len(values))
    for key, value in values.items():
        out += text(key) + entry(value)
    at = 0
    for name, shape in all_tensors:
        kind = kind_of(name, shape)
        out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, at)
        at += -(-size_of(kind, shape) // ALIGNMENT) * ALIGNMENT
    return out


def text(x: str) -> bytes:
    return struct.pack("<Q", len(x.encode())) + x.encode()


def entry(value: Value) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
