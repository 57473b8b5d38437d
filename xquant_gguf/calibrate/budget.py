"""What the plan may cost: true bits, as a number or as those of a preset, or mean KL."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..config import PRESETS, XQuantConfig
from ..errors import ConfigError
from .choose import Option, Table
from .sensitivity import Key, as_text
from .shapes import SIDES, Shape, true_bits, units_within

DEFAULT_BITS = "balanced"


class Loss(Protocol):
    """What one layer's keys or values lose at each width."""

    def kl(self, bits: float) -> float:
        """In nats, or in whatever orders choices as nats do."""


@dataclass(frozen=True)
class Budget:
    """Either the most true bits an element, or the most KL in nats."""

    bits: float | None
    kl: float | None


@dataclass(frozen=True)
class Choice:
    """Bits by layer and what they are predicted to cost: true bits, KL in nats."""

    config: XQuantConfig
    k: tuple[float, ...]
    v: tuple[float, ...]
    true_bits: float
    kl: float


def parse_budget(
    bits: str | None, kl: float | None, bits_of: Callable[[XQuantConfig], float]
) -> Budget:
    """The budget of a command line.

    Args:
        bits: a number, the name of a packed preset, or None.
        bits_of: true bits of a cache on this model.

    Raises:
        ConfigError: both or neither a number nor a preset, or a number out of range.
    """
    if bits is not None and kl is not None:
        raise ConfigError("there is one budget, of bits or of KL", "--bits and --kl", "drop one")
    if kl is not None:
        if not (math.isfinite(kl) and kl > 0):
            raise ConfigError("--kl is a mean KL above 0, in nats", kl, "try 0.05")
        return Budget(None, kl)
    name = bits or DEFAULT_BITS
    preset = PRESETS.get(name)
    if isinstance(preset, XQuantConfig):
        return Budget(bits_of(preset), None)
    try:
        number = float(name)
    except ValueError:
        number = math.nan
    if not 0 < number <= 16:
        raise ConfigError(
            "--bits is a number of true bits or a packed preset", repr(bits), "try 2.3 or balanced"
        )
    return Budget(number, None)


def check_reachable(shapes: Sequence[Shape], budget: Budget) -> None:
    """Refuse a budget of bits that the fewest bits of every layer exceed.

    Raises:
        ConfigError: says what is enough.
    """
    least = sum(
        min(shape.cost(side, bits) for bits in shape.widths(side))
        for shape in shapes
        for side in SIDES
    )
    if budget.bits is not None and units_within(shapes, budget.bits) < least:
        raise ConfigError(
            "the budget must be enough for the fewest bits of every layer",
            f"--bits {budget.bits:g}",
            f"use {math.ceil(1000 * true_bits(shapes, least)) / 1000:g} or more",
        )


def choose_bits(
    shapes: Sequence[Shape], curves: Mapping[Key, Loss], floor: float, budget: Budget
) -> Choice:
    """Bits for every layer's keys and values: the least KL, or the fewest bits for a KL.

    Args:
        floor: KL of all layers at high precision, which the layers' own come on top of.

    Raises:
        ConfigError: the budget cannot be met; says what can.
    """
    check_reachable(shapes, budget)
    slots = [(i, side) for side in SIDES for i in range(len(shapes))]
    options = [
        [
            Option(shapes[i].cost(side, bits), curves[i, side].kl(bits))
            for bits in shapes[i].widths(side)
        ]
        for i, side in slots
    ]
    if budget.bits is not None:
        picks = Table(options, units_within(shapes, budget.bits)).least_loss()
        assert picks is not None
    else:
        assert budget.kl is not None
        picks = _within_kl(options, floor, budget.kl)
    units = sum(each[pick].cost for each, pick in zip(options, picks))
    widths = {slot: shapes[slot[0]].widths(slot[1])[pick] for slot, pick in zip(slots, picks)}
    k, v = (tuple(widths[i, side] for i in range(len(shapes))) for side in SIDES)
    return Choice(
        XQuantConfig(k_layers=as_text(k), v_layers=as_text(v)),
        k,
        v,
        true_bits(shapes, units),
        floor + sum(each[pick].loss for each, pick in zip(options, picks)),
    )


def _within_kl(options: Sequence[Sequence[Option]], floor: float, kl: float) -> list[int]:
    most = sum(max(option.cost for option in each) for each in options)
    picks = Table(options, most).least_cost(kl - floor)
    if picks is None:
        least = floor + sum(min(option.loss for option in each) for each in options)
        raise ConfigError(
            "the KL budget must be one that this cache can reach",
            f"--kl {kl:g}",
            f"use {math.ceil(1e5 * least) / 1e5:g} or more",
        )
    return picks
