"""Stock cache types of ggml: the names that ``kv=`` accepts besides packed presets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StockKV:
    """A cache of llama.cpp's own, the same ggml type for keys and values.

    Attributes:
        name: ggml type name, for example ``"q8_0"``.
        ggml_type: value of ``enum ggml_type`` (ggml.h).
        block: elements in one block.
        block_bytes: bytes of one block, scales included.
        scale_bytes: bytes of one block that are scales or minima, not codes.
    """

    name: str
    ggml_type: int
    block: int
    block_bytes: int
    scale_bytes: int

    @property
    def quantised(self) -> bool:
        """Whether elements share a block scale; such values need flash attention."""
        return self.block > 1

    @property
    def code_bits(self) -> float:
        """Bits an element without block scales."""
        return 8 * (self.block_bytes - self.scale_bytes) / self.block

    @property
    def true_bits(self) -> float:
        """Bits an element with block scales."""
        return 8 * self.block_bytes / self.block

    def row_bytes(self, elements: int) -> int:
        """Bytes of a row of ``elements`` values; a partial block counts as a whole one."""
        return -(-elements // self.block) * self.block_bytes


STOCK: dict[str, StockKV] = {
    kv.name: kv
    for kv in (
        StockKV("f32", 0, 1, 4, 0),
        StockKV("f16", 1, 1, 2, 0),
        StockKV("bf16", 30, 1, 2, 0),
        StockKV("q8_0", 8, 32, 34, 2),
        StockKV("q5_1", 7, 32, 24, 4),
        StockKV("q5_0", 6, 32, 22, 2),
        StockKV("q4_1", 3, 32, 20, 4),
        StockKV("q4_0", 2, 32, 18, 2),
        StockKV("iq4_nl", 20, 32, 18, 2),
    )
}
"""Stock types by name; sizes as in ggml-common.h."""


def stock_of_type(ggml_type: int) -> StockKV | None:
    """The stock entry with this ``enum ggml_type`` value, or None if it is not a cache type."""
    return next((kv for kv in STOCK.values() if kv.ggml_type == ggml_type), None)
