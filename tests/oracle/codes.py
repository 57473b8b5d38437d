"""Codes to words and back, as streams of bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .side import LANES, Side

Words = NDArray[np.uint32]


def pack(codes: NDArray[np.integer], side: Side) -> Words:
    """Words of a strip of ``codes`` [rows][32], plane after plane."""
    planes = []
    low = 0
    for width in side.planes:
        planes.append(pack_plane(codes >> low & (2**width - 1), width))
        low += width
    return np.concatenate(planes)


def unpack(words: Words, side: Side) -> NDArray[np.int64]:
    """Codes [rows][32] of a strip of words."""
    codes = np.zeros((side.rows, LANES), np.int64)
    low = at = 0
    for width in side.planes:
        codes += unpack_plane(words[at:], side.rows, width) << low
        at += plane_words(side.rows, width)
        low += width
    return codes


def plane_words(rows: int, width: int) -> int:
    """u32 words of a plane, all lanes: every lane rounds up to whole words."""
    return -(-rows * width // 32) * LANES


def pack_plane(codes: NDArray[np.integer], width: int) -> Words:
    """Words of a plane of ``codes`` [rows][32].

    Every lane is one stream of bits, row after row, lowest bit first, cut into
    words; the words of all lanes alternate.
    """
    bits = codes.T[:, :, None] >> np.arange(width) & 1  # [lane][row][bit]
    stream = bits.reshape(LANES, -1).astype(np.uint8)
    stream = np.pad(stream, ((0, 0), (0, -stream.shape[1] % 32)))
    octets = np.packbits(stream, axis=1, bitorder="little")
    words = np.ascontiguousarray(octets).view("<u4")
    return words.T.ravel().astype(np.uint32)


def unpack_plane(words: Words, rows: int, width: int) -> NDArray[np.int64]:
    """Codes [rows][32] of the plane that starts with ``words``."""
    plane = words[: plane_words(rows, width)].reshape(-1, LANES).T
    stream = np.unpackbits(
        np.ascontiguousarray(plane.astype("<u4")).view(np.uint8), axis=1, bitorder="little"
    )
    bits = stream[:, : rows * width].reshape(LANES, rows, width).astype(np.int64)
    return (bits << np.arange(width)).sum(axis=2).T
