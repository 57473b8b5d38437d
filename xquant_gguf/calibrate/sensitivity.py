"""How much KL each layer's keys and values cost at each width, with all else at high precision.

Two widths are measured. KL goes with the square of a small error, and the error of a
quantiser with 2^-bits, so the logarithm of KL is close to a straight line over bits. A single
layer's KL at 2 bits is little more than the noise of a short text. So all layers of a side
share one slope, that of their sums, and each has a level of its own, which fits both points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..config import XQuantConfig
from .shapes import SIDES, Shape, Side

WINDOW = 32
"""Tokens in full precision while measuring: the fewest there can be, so that a short text has
as large a part of it packed as a long chat with the usual window."""

HIGH = XQuantConfig(k_bits=4.5, v_bits=4, window=WINDOW)
"""Everything that is not being measured."""

_MEASURED = 1, 2  # bits
_SLOPES = math.log(2), math.log(8)  # fall of ln KL a bit: least, most
_LEAST = 0.1  # of the mean level: noise makes some layers look cheaper still, even negative
_NOTHING = 1e-7  # nats, where no layer of a side costs anything

Key = tuple[int, Side]
Measure = Callable[[Mapping[str, XQuantConfig]], Mapping[str, float]]


@dataclass(frozen=True)
class Curve:
    """KL in nats of one layer's keys or values: ``exp(log_kl - slope * (bits - 1))``.

    Attributes:
        measured: KL by bits as measured, less that of all layers at high precision; empty
            where the curve is interpolated between layers.
    """

    log_kl: float
    slope: float
    measured: Mapping[float, float]

    def kl(self, bits: float) -> float:
        """Predicted KL at a width, in nats."""
        return math.exp(self.log_kl - self.slope * (bits - 1))


def fit(points: Mapping[int, Mapping[float, float]]) -> dict[int, Curve]:
    """The curves of one side.

    Args:
        points: KL in nats at two widths (bits: KL) of each layer.
    """
    slope = _common_slope(list(points.values()))
    levels = {layer: _level(each, slope) for layer, each in points.items()}
    least = max(_LEAST * sum(levels.values()) / len(levels), _NOTHING)
    return {
        layer: Curve(math.log(max(levels[layer], least)), slope, dict(each))
        for layer, each in points.items()
    }


def _common_slope(points: Sequence[Mapping[float, float]]) -> float:
    """Fall of ln KL a bit, of the layers' sums."""
    lows, highs = (sum(pick(each) for each in points) / len(points) for pick in (min, max))
    low, high = (sum(each[pick(each)] for each in points) for pick in (min, max))
    if low <= 0 or high <= 0:
        return _SLOPES[1]
    return min(max(math.log(low / high) / (highs - lows), _SLOPES[0]), _SLOPES[1])


def _level(points: Mapping[float, float], slope: float) -> float:
    """KL at 1 bit of the curve with this slope: least squares."""
    falls = {bits: math.exp(-slope * (bits - 1)) for bits in points}
    fitted = sum(falls[bits] * kl for bits, kl in points.items())
    return fitted / sum(fall * fall for fall in falls.values())


def measure_layers(
    shapes: Sequence[Shape], layers: Sequence[int], measure: Measure
) -> tuple[float, dict[Key, Curve]]:
    """KL of all layers at high precision, and the curve of every layer and side.

    Args:
        layers: packed layers (counted from 0) to measure, ascending; the others are
            interpolated between their neighbours.
        measure: mean KL of named caches.
    """
    lanes = lanes_of(shapes, layers)
    found = measure({"high": HIGH, **{_name(key): kv for key, kv in lanes.items()}})
    floor = found["high"]
    curves: dict[Key, Curve] = {}
    for side in SIDES:
        points = {
            layer: {
                bits: found[_name((layer, side, bits))] - floor
                for bits in _widths(shapes[layer], side)
            }
            for layer in layers
        }
        curves.update(((layer, side), curve) for layer, curve in fit(points).items())
        for layer in range(len(shapes)):
            if layer not in layers:
                curves[layer, side] = _between(curves, layers, layer, side)
    return floor, curves


def lanes_of(
    shapes: Sequence[Shape], layers: Sequence[int]
) -> dict[tuple[int, Side, float], XQuantConfig]:
    """The caches to measure: one layer's keys or values at few bits, all else at many."""
    return {
        (layer, side, bits): HIGH.replace(**{f"{side}_layers": _one_low(shapes, side, layer, bits)})
        for layer in layers
        for side in SIDES
        for bits in _widths(shapes[layer], side)
    }


def as_text(widths: Sequence[float]) -> str:
    """Bits by layer as the settings ``k_layers`` and ``v_layers`` take them."""
    return "/".join(f"{bits:.9g}" for bits in widths)


def _widths(shape: Shape, side: Side) -> list[float]:
    """Of the widths there are, those closest to the ones to measure."""
    return [min(shape.widths(side), key=lambda bits: abs(bits - wish)) for wish in _MEASURED]


def _one_low(shapes: Sequence[Shape], side: Side, layer: int, bits: float) -> str:
    widths = [shape.widths(side)[-1] for shape in shapes]
    widths[layer] = bits
    return as_text(widths)


def _name(key: tuple[int, Side, float]) -> str:
    layer, side, bits = key
    return f"{layer}{side}{bits:g}"


def _between(curves: Mapping[Key, Curve], layers: Sequence[int], layer: int, side: Side) -> Curve:
    below = max((i for i in layers if i < layer), default=layers[0])
    above = min((i for i in layers if i > layer), default=layers[-1])
    part = (layer - below) / (above - below) if above > below else 0.0
    a, b = curves[below, side], curves[above, side]
    return Curve(a.log_kl + part * (b.log_kl - a.log_kl), a.slope + part * (b.slope - a.slope), {})
