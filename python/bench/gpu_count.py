"""Bytes and instructions of a decode step, counted: what docs/gpu.md rests on."""

from __future__ import annotations

from dataclasses import dataclass

from gpu_facts import Device, Model

from xquant_gguf._checks import TILE
from xquant_gguf.config import XQuantConfig, resolve_kv
from xquant_gguf.memory import cache_bytes, code_bits
from xquant_gguf.stock import StockKV

STEP = 256  # llama.cpp's step of n_ctx

# Instructions beside the products, counted by hand from cpp/kernels/gpu.
MULTIPLIER_INTEGER = 5  # a multiplier: round, split into halves, find its place
MULTIPLIER_FLOAT = 5  # scale it, find the largest, add its share of the constant
MULTIPLIER_STORES = 2
GROUP = 16  # read scale and zero point of a row
SCORE = 12  # mask, maximum, exponential, sum


@dataclass(frozen=True)
class Count:
    """Lanes of instructions: of any kind, integer ones, loads and stores in shared memory."""

    issued: float = 0.0
    integer: float = 0.0
    shared: float = 0.0

    def __add__(self, other: Count) -> Count:
        return Count(
            self.issued + other.issued, self.integer + other.integer, self.shared + other.shared
        )

    def __mul__(self, n: float) -> Count:
        return Count(self.issued * n, self.integer * n, self.shared * n)

    def seconds(self, device: Device) -> float:
        """The longest of the three at peak rates."""
        per_second = device.cores * device.hertz
        return (
            max(
                self.issued / device.issue,
                self.integer / device.integer,
                self.shared / device.shared,
            )
            / per_second
        )


def four(rows: int, *, dp4a: bool) -> Count:
    """Four codes of a lane against the multipliers of ``rows`` query heads, whatever the bits.

    A shift and a mask bring them into the bytes of a register. With dp4a two products for each
    row, for the halves of its multipliers; without it each code is converted once and each row
    takes four multiply-adds. Multipliers come from shared memory, four in one load.
    """
    if dp4a:
        integer = 2.0 + 2 * rows
        return Count(integer + rows, integer, rows)
    return Count(2.0 + 4 + 4 * rows + rows, 2.0, rows)


def word(bits: int, rows: int, *, dp4a: bool) -> Count:
    """One u32 word of codes: a load, and its codes four by four."""
    return Count(1) + four(rows, dp4a=dp4a) * (8 / bits)


def multipliers(n: float) -> Count:
    """Scaling ``n`` multipliers, a query head's for one tile, and bringing them into order."""
    stores, integer = MULTIPLIER_STORES, MULTIPLIER_INTEGER
    return Count(integer + MULTIPLIER_FLOAT + stores, integer, stores) * n


def tile(model: Model, k_bits: float, v_bits: int, *, dp4a: bool) -> Count:
    """One tile of one KV head, for all its query heads.

    Every channel of a key is counted as coded, as if no channel kept its mean alone, and a
    3-bit value twice, once a plane.
    """
    rows, dim = model.heads // model.kv_heads, model.dim
    planes = 2 if v_bits == 3 else 1
    fours = (dim + planes * dim) / 4 * TILE
    words = (k_bits + v_bits) * dim
    pairs = -(-dim // 64)  # strips of values that share scales
    total = four(rows, dp4a=dp4a) * fours + Count(words)
    total += multipliers((dim + TILE * pairs) * rows)
    groups, scores = (dim + TILE * pairs) * GROUP, TILE * rows * SCORE
    return total + Count(groups + scores, groups / 2)


def step_count(model: Model, config: XQuantConfig, tokens: int, *, dp4a: bool) -> Count:
    """All layers, heads and tiles of a step."""
    total = Count()
    for layer in range(model.layers):
        k, v = (code_bits(config, side, layer, model.layers) for side in "kv")
        total += tile(model, k, int(v), dp4a=dp4a)
    return total * ((tokens - whole(config)) / TILE * model.kv_heads)


def whole(kv: XQuantConfig | StockKV) -> float:
    """Tokens read in full precision: window, sink tiles and, on average, half a tile."""
    if isinstance(kv, StockKV):
        return 0
    return kv.window + -(-kv.sink // TILE) * TILE + TILE / 2


def a_token(model: Model, kv: XQuantConfig | StockKV) -> float:
    """Bytes that one more token takes once it is packed, in all layers."""
    n = 64 * STEP
    return (cache_bytes(model.info, kv, 2 * n) - cache_bytes(model.info, kv, n)) / n


def kv_read(model: Model, kv: XQuantConfig | StockKV, tokens: int) -> float:
    """Bytes of the cache that a step reads, every byte once."""
    plain = whole(kv)
    f16 = a_token(model, resolve_kv("f16"))
    return (tokens - plain) * a_token(model, kv) + plain * f16


def true_bits(model: Model, kv: XQuantConfig | StockKV) -> float:
    """Bits an element of a packed token."""
    return 8 * a_token(model, kv) / (2 * model.dim * model.kv_heads * model.layers)


def most_tokens(model: Model, kv: XQuantConfig | StockKV, room: float) -> int:
    """The longest context whose cache takes at most ``room`` bytes, in steps of 256."""
    low, high = 0, 1 << 18
    while low < high:
        middle = (low + high + 1) // 2
        fits = cache_bytes(model.info, kv, middle * STEP) <= room
        low, high = (middle, high) if fits else (low, middle - 1)
    return low * STEP
