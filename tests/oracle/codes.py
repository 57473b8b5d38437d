"""Codes to words and back, as streams of bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .side import LANES, Side


def pack(codes: NDArray[np.integer], side: Side) -> NDArray[np.uint32]:
    """Words of a strip of ``codes`` [rows][32].

    In a plane every lane is one stream of bits, row after row, lowest bit
    first, cut into words; the words of all lanes alternate.
    """
    planes = []
    low = 0
    for width in side.planes:
        bits = codes.T[:, :, None] >> np.arange(low, low + width) & 1  # [lane][row][bit]
        stream = bits.reshape(LANES, -1).astype(np.uint8)
        stream = np.pad(stream, ((0, 0), (0, -stream.shape[1] % 32)))
        octets = np.packbits(stream, axis=1, bitorder="little")
        words = np.ascontiguousarray(octets).view("<u4")
        planes.append(words.T.ravel())
        low += width
    return np.concatenate(planes).astype(np.uint32)


def unpack(words: NDArray[np.uint32], side: Side) -> NDArray[np.int64]:
    """Codes [rows][32] of a strip of words."""
    codes = np.zeros((side.rows, LANES), np.int64)
    low = at = 0
    for width in side.planes:
        count = -(-side.rows * width // 32)
        plane = words[at : at + count * LANES].reshape(count, LANES).T
        stream = np.unpackbits(
            np.ascontiguousarray(plane.astype("<u4")).view(np.uint8), axis=1, bitorder="little"
        )
        bits = stream[:, : side.rows * width].reshape(LANES, side.rows, width).astype(np.int64)
        codes += (bits << np.arange(low, low + width)).sum(axis=2).T
        at += count * LANES
        low += width
    return codes
