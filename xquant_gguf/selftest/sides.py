"""How keys or values of a case are stored: the parameters that the kernels take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .._checks import TILE, key_strips
from ..config import XQuantConfig

LANES = 32
META_F16, META_Q8, META_LOG8, META_RANKED = range(4)  # cpp/format/xq_format.h
FIT_MINMAX, FIT_LS = range(2)
_ROTATE_MOST = 64
_RELAXED = XQuantConfig()


@dataclass(frozen=True)
class Side:
    """One side of a layer: the fields of ``xq_side``, in cpp/format/xq_format.h.

    Attributes:
        bits: 1 to 4; 0 for ranked keys. meta: one of the ``META_`` numbers.
        rows: rows of a strip: channels of a key, 32 tokens of values.
        strips: strips of a tile and head. lanes_last: lanes in use of the last one.
        fit: how a follower finds its scales, ``FIT_MINMAX`` or ``FIT_LS``.
        words: u32 words a lane of ranked keys. rot: channels rotated together, 0 for none.
        eta: relaxation in [0, 0.5]; eta2: that of a ranked side's 2-bit rows.
    """

    bits: int
    meta: int
    rows: int
    strips: int = 1
    lanes_last: int = LANES
    fit: int = FIT_MINMAX
    words: int = 0
    rot: int = 0
    eta: float = 0.0
    eta2: float = 0.0

    @property
    def shared(self) -> int:
        """Strips that have their metadata in common."""
        return 2 if self.meta == META_LOG8 else 1

    def lanes(self, strip: int) -> int:
        """Lanes in use of a strip."""
        return self.lanes_last if strip == self.strips - 1 else LANES


def uniform_keys(dim: int, bits: int, meta: int = META_Q8, *, fit: int = FIT_MINMAX) -> Side:
    """Keys with the same bits in every channel, relaxed as the presets are."""
    eta = float(getattr(_RELAXED, f"k_eta{bits}"))
    return Side(bits, meta, *key_strips(dim), fit=fit, eta=eta)


def ranked_keys(dim: int, bits: float) -> Side:
    """Keys with more bits in wide channels, ``bits`` on average."""
    rows, strips = key_strips(dim)
    words = max(1, round(bits * rows / 32))
    eta, eta2 = _RELAXED.k_eta1, _RELAXED.k_eta2
    return Side(0, META_RANKED, rows, strips, words=words, eta=eta, eta2=eta2)


def plain_values(dim: int, bits: int, meta: int = META_Q8, *, fit: int = FIT_MINMAX) -> Side:
    """Values between minimum and maximum, 32 channels a group."""
    strips = -(-dim // LANES)
    eta = float(getattr(_RELAXED, f"v_eta{bits}"))
    return Side(bits, meta, TILE, strips, dim - (strips - 1) * LANES, fit=fit, eta=eta)


def unbiased_values(dim: int, bits: int, *, rotated: bool = True) -> Side:
    """Symmetric values, 64 channels a group, rotated or not."""
    strips = -(-dim // LANES)
    rot = math.gcd(dim, _ROTATE_MOST) if rotated else 0
    return Side(bits, META_LOG8, TILE, strips, dim - (strips - 1) * LANES, rot=rot)
