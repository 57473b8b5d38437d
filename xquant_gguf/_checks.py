"""Limits of single cache settings; a check that fails raises a ConfigError."""

from __future__ import annotations

from collections.abc import Callable

from .errors import ConfigError

TILE = 32
"""Cache cells in one tile (tokens)."""

_LONGEST = 256  # rows of the longest strip of keys

_LARGE = 2**31  # beyond what any setting can be, and still exact as a float


def key_strips(head_dim: int) -> tuple[int, int]:
    """Rows of a strip of keys, and strips of a head (cpp/format/xq_format.h)."""
    strips = max(1, -(-head_dim // _LONGEST))
    return -(-head_dim // (8 * strips)) * 8, strips


def is_int(value: object) -> bool:
    """Whether it is an ``int`` and not a ``bool``."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_bits(name: str, value: object) -> None:
    """Whole bits, the same in every group."""
    if not is_int(value) or value not in (1, 2, 3, 4):
        raise ConfigError(f"{name} is 1, 2, 3 or 4", repr(value), "use 2, or 3 for higher quality")


def check_threshold(name: str, value: object, *, even: bool) -> None:
    if value is None:
        return
    if isinstance(value, float):
        if not 0.0 <= value < 1.0:
            raise ConfigError(
                f"{name} as a fraction of depth lies in [0, 1)",
                repr(value),
                "use 0.5 for the upper half, or an int for a layer index",
            )
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(
            f"{name} is a layer index, a fraction of depth in [0, 1), or None for never",
            repr(value),
            "use an int of 0 or more, a float below 1, or None",
        )
    if even and value % 2:
        raise ConfigError(
            f"{name} must be even, because layers share codes in pairs",
            repr(value),
            f"use {value - 1} or {value + 1}",
        )


def check_eta(name: str, value: object) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0.0 <= value <= 0.5:  # type: ignore[operator]
        raise ConfigError(f"{name} lies in [0, 0.5]", repr(value), "use 0 to switch relaxation off")


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(
            f"{name} is one of {', '.join(allowed)}", repr(value), f"use {allowed[0]}"
        )


def check_tiles(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < TILE or value % TILE:
        near = TILE
        if isinstance(value, (int, float)) and -_LARGE < value < _LARGE:
            near = max(TILE, round(value / TILE) * TILE)
        raise ConfigError(f"{name} is a positive multiple of {TILE}", repr(value), f"use {near}")


def check_key_bits(name: str, value: object) -> None:
    """An average number of bits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.5 <= value <= 8:
        raise ConfigError(f"{name} is a number of bits from 0.5 to 8", repr(value), "try 2")


def check_layers(name: str, value: object, check: Callable[[str, object], None]) -> None:
    """Bits by layer as text, ``2/1.5/3``, a repeating pattern, ``2/1*``, or None."""
    if value is None:
        return
    if not isinstance(value, str) or value in ("", "*"):
        raise ConfigError(f"{name} is text such as 2/2/3, or None", repr(value), "leave it out")
    for item in value.removesuffix("*").split("/"):
        try:
            bits = float(item)
        except ValueError:
            raise ConfigError(f"{name} is text such as 2/2/3", repr(item), "correct it") from None
        check(name, int(bits) if bits.is_integer() else bits)
