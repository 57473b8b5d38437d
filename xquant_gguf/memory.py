"""How large a cache will be by its shapes, and how much memory there is."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ._checks import TILE, key_strips
from .config import XQuantConfig
from .gguf_header import ModelInfo
from .stock import STOCK, StockKV

MIB = 1024 * 1024
_META_BITS = {"f16": 32 / TILE, "q8": 16 / TILE + 0.04}
_UNBIASED_BITS = 0.15  # an 8-bit scale for 64 channels, and its grid
_STEP = 256  # llama.cpp rounds n_ctx up to a multiple of this


def padded_ctx(n_ctx: int) -> int:
    """``n_ctx`` as llama.cpp allocates it, rounded up to a multiple of 256 tokens."""
    return -(-n_ctx // _STEP) * _STEP


def stock_bytes(info: ModelInfo, kv: StockKV, n_ctx: int) -> int:
    """Bytes of a stock cache of ``n_ctx`` tokens that holds every token in every layer."""
    return padded_ctx(n_ctx) * sum(
        kv.row_bytes(heads * info.head_dim_k) + kv.row_bytes(heads * info.head_dim_v)
        for heads in info.n_head_kv
    )


def packed_bytes(info: ModelInfo, config: XQuantConfig, n_ctx: int) -> int:
    """Estimated bytes of a packed cache: codes, scales and full-precision pages.

    Within a few per cent of what the library allocates; ``llm.kv_cache`` has the
    true figure once the model is loaded. 0 for a model whose header names no heads.
    """
    if not (info.head_dim_k and info.head_dim_v):
        return 0
    cells = padded_ctx(n_ctx)
    sink = -(-config.sink // TILE) * TILE
    full = min(cells, sink + config.window + config.max_ubatch + 2 * TILE)
    total = 0.0
    for side, dim in (("k", info.head_dim_k), ("v", info.head_dim_v)):
        meta = _meta_bits(config, side, dim)
        for layer, heads in enumerate(info.n_head_kv):
            bits = code_bits(config, side, layer, len(info.n_head_kv))
            total += heads * dim * (cells * (bits + meta) / 8 + full * 2)
    return int(total)


def cache_bytes(info: ModelInfo, kv: XQuantConfig | StockKV, n_ctx: int) -> int:
    """Bytes of either kind of cache at ``n_ctx`` tokens."""
    if isinstance(kv, StockKV):
        return stock_bytes(info, kv, n_ctx)
    return packed_bytes(info, kv, n_ctx)


def f16_bytes(info: ModelInfo, n_ctx: int) -> int:
    """Bytes of llama.cpp's default cache at ``n_ctx`` tokens."""
    return stock_bytes(info, STOCK["f16"], n_ctx)


def available_bytes() -> int | None:
    """Memory a new allocation can use: MemAvailable on Linux, within a control group's limit.

    Physical memory elsewhere, None where neither can be read.
    """
    found = [size for size in (_meminfo(), _cgroup_room()) if size is not None]
    if found:
        return min(found)
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))
    return None


def _meminfo() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _cgroup_room() -> int | None:
    root = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        limit = int((root / "memory.max").read_text())
        used = int((root / "memory.current").read_text())
        stats = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(stats.get("inactive_file", 0)))
    return None


def ranked_meta_bytes(dim: int) -> int:
    """Bytes beside the codes of one tile and head of ranked keys (cpp/format/xq_ranked.h)."""
    rows, strips = key_strips(dim)
    return strips * (20 + rows // 4 + rows // 2 + rows)


def _meta_bits(config: XQuantConfig, side: str, dim: int) -> float:
    if side == "k" and config.k_alloc == "range":
        return 8 * ranked_meta_bytes(dim) / (TILE * dim)
    if side == "v" and config.v_fit == "unbiased":
        return _UNBIASED_BITS
    return _META_BITS[getattr(config, f"{side}_meta")]


def code_bits(config: XQuantConfig, side: str, layer: int, n_layers: int) -> float:
    """Bits of a packed layer's codes; 0 where it reads another's."""
    by_layer = getattr(config, f"{side}_layers")
    if by_layer is not None:
        bits = by_layer.removesuffix("*").split("/")
        return float(bits[layer % len(bits)])
    share = _index(getattr(config, f"{side}_share_from"), n_layers)
    if share is not None and layer >= share and (layer - share) % 2:
        return 0
    one_bit = _index(getattr(config, f"{side}_1bit_from"), n_layers)
    if one_bit is not None and layer >= one_bit:
        return 1
    return float(getattr(config, f"{side}_bits"))


def _index(threshold: int | float | None, n_layers: int) -> int | None:
    if isinstance(threshold, float):
        return int(threshold * n_layers) // 2 * 2
    return threshold
