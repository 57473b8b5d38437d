"""Sizes as people write them."""

from __future__ import annotations

import re

from .errors import ConfigError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def bytes_of(text: str) -> int:
    """``4GiB``, ``900MB``, ``1.5 g`` or a number of bytes, to bytes; units are powers of 1024.

    Raises:
        ConfigError: it is none of these.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if not found or not 1 <= float(found[1]) * _UNITS[found[2].upper()] < 2**60:
        raise ConfigError("a size is a number with a unit", repr(text), "try 4GiB or 900MiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])
