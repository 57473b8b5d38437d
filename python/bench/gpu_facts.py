"""Devices and models of docs/gpu.md, each number with its source."""

from __future__ import annotations

from dataclasses import dataclass

from xquant_gguf.gguf_header import ModelInfo


@dataclass(frozen=True)
class Device:
    """What bounds a decode step.

    Attributes:
        bandwidth: bytes a second from memory. usable: bytes that weights and cache may take.
        cores: streaming multiprocessors or GPU cores. hertz: their boost clock.
        issue, integer, shared: lanes a core and clock of any instruction, of 32-bit integer
            instructions, and of loads from shared memory.
        dp4a: four products of bytes in one instruction.
    """

    name: str
    bandwidth: float
    usable: float
    cores: int
    hertz: float
    issue: int
    integer: int
    shared: int
    dp4a: bool
    sources: tuple[str, ...]


_GIB = 2.0**30
_SPARE = 1.0 * _GIB  # compute buffers, the driver's context and a desktop: an assumption
_METAL_SHARE = 0.75  # of unified memory that Metal lets one process have: an assumption

_INTEGER = (
    "https://computerbase.de/forum/threads/nvidia-geforce-blackwell-neue-details-und-benchmarks-"
    "zu-rtx-5090-5080-5070-ti.2226228/page-18"
)
_M3 = "https://support.apple.com/en-au/117737"
_M3_CLOCK = "https://hmc-tech.com/gpu/apple-32-core-m4-max-vs-apple-40-core-m3-max"
_APPLE = "https://github.com/philipturner/metal-benchmarks"


def _m3_max(gib: int) -> Device:
    return Device(
        f"M3 Max, {gib} GB",
        bandwidth=400e9 if gib > 36 else 300e9,
        usable=gib * _GIB * _METAL_SHARE - _SPARE,
        cores=40 if gib > 36 else 30,
        hertz=1.398e9,
        issue=128,
        integer=128,
        shared=32,
        dp4a=False,
        sources=(_M3, _M3_CLOCK, _APPLE),
    )


RTX_4090 = Device(
    "RTX 4090",
    bandwidth=1008e9,
    usable=24 * _GIB - _SPARE,
    cores=128,
    hertz=2.52e9,
    issue=128,
    integer=64,
    shared=32,
    dp4a=True,
    sources=(
        "https://www.thefpsreview.com/gpu-family/nvidia-geforce-rtx-4090-gpu-family-specifications",
        "https://holynerdvana.blogspot.com/2022/10/nvidia-geforce-rtx-4090-specifications.html",
        _INTEGER,
    ),
)
RTX_3060 = Device(
    "RTX 3060",
    bandwidth=360e9,
    usable=12 * _GIB - _SPARE,
    cores=28,
    hertz=1.777e9,
    issue=128,
    integer=64,
    shared=32,
    dp4a=True,
    sources=(
        "https://pcpartdb.com/gpus/view/nvidia-geforce-rtx-3060-12-gb-ga104",
        "http://cholla.mmto.org/nvidia/my3060.html",
    ),
)
M3_MAX_36, M3_MAX_128 = _m3_max(36), _m3_max(128)
TIMED = (RTX_4090, RTX_3060, M3_MAX_128)
SIZED = (RTX_4090, RTX_3060, M3_MAX_36, M3_MAX_128)


@dataclass(frozen=True)
class Model:
    """A decoder's shape: what its weights and its cache take.

    Attributes:
        width, inner: of a layer and of its feed-forward part. vocabulary: tokens.
        trained: context it was trained for, in tokens.
    """

    name: str
    layers: int
    heads: int
    kv_heads: int
    dim: int
    width: int
    inner: int
    vocabulary: int
    trained: int

    @property
    def info(self) -> ModelInfo:
        """The shape as the package's memory functions take it."""
        kv = (self.kv_heads,) * self.layers
        return ModelInfo("", 0, "", self.layers, self.trained, kv, self.dim, self.dim, True)

    def weights(self) -> float:
        """Bytes of weights that a step reads, as llama.cpp quantises to Q4_K_M.

        4.5 bits each (Q4_K); the output matrix, and half of the value and down projections,
        6.5625 (Q6_K). One row of the embedding is read, which llama.cpp keeps on the host.
        """
        low, high, n = 4.5, 6.5625, self.layers
        first, last = n // 8, 7 * n // 8
        fine = sum(i < first or i >= last or (i - first) % 3 == 2 for i in range(n))
        value, down = self.width * self.kv_heads * self.dim, self.width * self.inner
        rest = 2 * self.width * self.heads * self.dim + value + 2 * down
        mixed = fine * high + (n - fine) * low
        bits = n * rest * low + (value + down) * mixed + self.width * self.vocabulary * high
        return bits / 8


LLAMA_31 = Model("Llama-3.1-8B", 32, 32, 8, 128, 4096, 14336, 128256, 131072)
QWEN_25 = Model("Qwen2.5-7B", 28, 28, 4, 128, 3584, 18944, 152064, 32768)
LLAMA_2 = Model("Llama-2-7B", 32, 32, 32, 128, 4096, 11008, 32000, 4096)
MODELS = (LLAMA_31, QWEN_25, LLAMA_2)
