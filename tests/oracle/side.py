"""The parameters of one side (keys or values) of a layer, and the sizes that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

TILE = 32
LANES = 32
META_F16, META_Q8, META_LOG8, META_RANKED = 0, 1, 2, 3
FIT_MINMAX, FIT_LS = 0, 1
LONGEST = 256
"""Rows of the longest strip."""


@dataclass(frozen=True)
class Side:
    """How keys or values are stored. ``rows`` and ``strips`` are those of one head in one tile.

    A ranked side has no ``bits`` but ``words``: u32 words of a lane. ``rot`` is how
    many channels are rotated together; ``eta2`` is for a ranked side's 2-bit rows.
    """

    bits: int
    meta: int
    rows: int
    strips: int = 1
    lanes_last: int = LANES
    fit: int = FIT_MINMAX
    eta: float = 0.0
    words: int = 0
    rot: int = 0
    eta2: float = 0.0

    @property
    def levels(self) -> int:
        """Largest code."""
        return 2**self.bits - 1

    @property
    def planes(self) -> list[int]:
        """Bits of every plane, low bits first."""
        return [2, 1] if self.bits == 3 else [self.bits]

    @property
    def fine(self) -> bool:
        """A ranked side with 4 bits a row or more on average."""
        return self.words * 32 >= self.rows * 4

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Bits of a ranked side's classes."""
        return (1, 2, 4, 8) if self.fine else (0, 1, 2, 4)

    @property
    def shared(self) -> int:
        """Strips that have their metadata in common."""
        return 2 if self.meta == META_LOG8 else 1

    @property
    def strip_words(self) -> int:
        """u32 words of a strip: every lane rounds up to whole words in every plane."""
        if self.meta == META_RANKED:
            return self.words * LANES
        return sum(-(-self.rows * b // 32) * LANES for b in self.planes)

    @property
    def strip_meta(self) -> int:
        """Bytes of scales and zero points of a strip, or of two that share them."""
        return {
            META_F16: self.rows * 4,
            META_Q8: 8 + self.rows * 2,
            META_LOG8: 4 + self.rows,
            META_RANKED: 20 + self.rows * 14 // 8,  # 2 + 4 + 8 bits a row
        }[self.meta]

    @property
    def head_words(self) -> int:
        return self.strips * self.strip_words

    @property
    def head_meta(self) -> int:
        return -(-self.strips // self.shared) * self.strip_meta

    def lanes(self, strip: int) -> int:
        """Lanes of a strip that hold channels."""
        return self.lanes_last if strip == self.strips - 1 else LANES


def key_strips(dk: int) -> tuple[int, int]:
    """Rows of a strip of keys, and strips: as few as there can be, of the same multiple of 8."""
    strips = -(-dk // LONGEST)
    return -(-dk // (8 * strips)) * 8, strips


def key_side(dk: int, bits: int, meta: int, eta: float = 0.0, fit: int = FIT_MINMAX) -> Side:
    """Keys: a row per channel, a lane per token."""
    rows, strips = key_strips(dk)
    return Side(bits, meta, rows, strips, fit=fit, eta=eta)


def ranked_side(dk: int, words: int, eta: float = 0.0, eta2: float = 0.0) -> Side:
    """Keys of several widths, ``words`` a lane in every strip."""
    rows, strips = key_strips(dk)
    return Side(0, META_RANKED, rows, strips, words=words, eta=eta, eta2=eta2)


def value_side(dv: int, bits: int, meta: int, eta: float = 0.0, fit: int = FIT_MINMAX) -> Side:
    """Values: a strip per 32 channels, a row per token, a lane per channel."""
    strips = -(-dv // LANES)
    last = dv - (strips - 1) * LANES
    return Side(bits, meta, rows=TILE, strips=strips, lanes_last=last, fit=fit, eta=eta)


def unbiased_side(dv: int, bits: int, rot: int = 0) -> Side:
    """Symmetric values, two strips to a scale."""
    plain = value_side(dv, bits, META_LOG8)
    return Side(bits, META_LOG8, TILE, plain.strips, plain.lanes_last, rot=rot)
