"""The parameters of one side (keys or values) of a layer, and the sizes that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

TILE = 32
LANES = 32
META_F16, META_Q8 = 0, 1
FIT_MINMAX, FIT_LS = 0, 1


@dataclass(frozen=True)
class Side:
    """How keys or values are stored. ``rows`` and ``strips`` are those of one head in one tile."""

    bits: int
    meta: int
    rows: int
    strips: int = 1
    lanes_last: int = LANES
    fit: int = FIT_MINMAX
    eta: float = 0.0

    @property
    def levels(self) -> int:
        """Largest code."""
        return 2**self.bits - 1

    @property
    def planes(self) -> list[int]:
        """Bits of every plane, low bits first."""
        return [2, 1] if self.bits == 3 else [self.bits]

    @property
    def strip_words(self) -> int:
        """u32 words of a strip: every lane rounds up to whole words in every plane."""
        return sum(-(-self.rows * b // 32) * LANES for b in self.planes)

    @property
    def strip_meta(self) -> int:
        """Bytes of scales and zero points of a strip."""
        return self.rows * 4 if self.meta == META_F16 else 8 + self.rows * 2

    @property
    def head_words(self) -> int:
        return self.strips * self.strip_words

    @property
    def head_meta(self) -> int:
        return self.strips * self.strip_meta

    def lanes(self, strip: int) -> int:
        """Lanes of a strip that hold channels."""
        return self.lanes_last if strip == self.strips - 1 else LANES


def key_side(dk: int, bits: int, meta: int, eta: float = 0.0, fit: int = FIT_MINMAX) -> Side:
    """Keys: one strip, a row per channel, a lane per token."""
    return Side(bits, meta, rows=dk, fit=fit, eta=eta)


def value_side(dv: int, bits: int, meta: int, eta: float = 0.0, fit: int = FIT_MINMAX) -> Side:
    """Values: a strip per 32 channels, a row per token, a lane per channel."""
    strips = -(-dv // LANES)
    last = dv - (strips - 1) * LANES
    return Side(bits, meta, rows=TILE, strips=strips, lanes_last=last, fit=fit, eta=eta)
