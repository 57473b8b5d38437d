"""What the bits of one layer's keys or values cost, as the packed format lays them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .._checks import TILE, key_strips
from ..memory import ranked_meta_bytes

Side = Literal["k", "v"]
SIDES: tuple[Side, Side] = ("k", "v")

WIDTHS: Mapping[Side, tuple[float, ...]] = {"k": (1, 1.5, 2, 2.5, 3, 4.5), "v": (1, 2, 3, 4)}
"""Bits to choose from."""


@dataclass(frozen=True)
class Shape:
    """One packed layer: index in the model, KV heads, elements of a head's key and value."""

    il: int
    heads: int
    dk: int
    dv: int

    def elements(self, side: Side) -> int:
        """Elements of one token."""
        return self.heads * (self.dk if side == "k" else self.dv)

    def widths(self, side: Side) -> tuple[float, ...]:
        """Bits to choose from; those of keys are what whole words of a lane hold."""
        return tuple(dict.fromkeys(self.nearest(side, bits) for bits in WIDTHS[side]))

    def nearest(self, side: Side, bits: float) -> float:
        """The width that the library makes of these bits."""
        rows, _ = key_strips(self.dk)
        return bits if side == "v" else self._words(bits) * TILE / rows

    def cost(self, side: Side, bits: float) -> int:
        """Codes of one tile, in units of 128 bytes (a word of 32 lanes)."""
        if side == "k":
            return self.heads * key_strips(self.dk)[1] * self._words(bits)
        return self.heads * int(bits) * -(-self.dv // TILE)

    def meta_bytes(self, side: Side) -> int:
        """Scales and all else beside the codes of one tile, in bytes; the same for all bits."""
        if side == "k":
            return self.heads * ranked_meta_bytes(self.dk)
        return self.heads * (4 + TILE) * -(-self.dv // (2 * TILE))

    def _words(self, bits: float) -> int:
        """Of a lane of one strip of keys."""
        return max(1, int(bits * key_strips(self.dk)[0] / TILE + 0.5))


def shapes_of(layers: Sequence[Mapping[str, Any]]) -> list[Shape]:
    """The packed layers of a cache's report."""
    return [
        Shape(layer["il"], layer["n_head_kv"], layer["head_dim_k"], layer["head_dim_v"])
        for layer in layers
        if layer["packed"]
    ]


def true_bits(shapes: Sequence[Shape], units: int) -> float:
    """Bits an element of a packed token, of codes that cost ``units`` in all."""
    meta = sum(shape.meta_bytes(side) for shape in shapes for side in SIDES)
    return 8 * (4 * TILE * units + meta) / (TILE * _elements(shapes))


def units_within(shapes: Sequence[Shape], bits: float) -> int:
    """The largest cost of codes with which true bits stay within ``bits``."""
    meta = sum(shape.meta_bytes(side) for shape in shapes for side in SIDES)
    return int((bits * TILE * _elements(shapes) / 8 - meta) / (4 * TILE) + 1e-6)


def _elements(shapes: Sequence[Shape]) -> int:
    return sum(shape.elements(side) for shape in shapes for side in SIDES)
