"""All groups of cases, in the order in which they run.

The budgets of floats are near what the least exact implementation was seen to need.
"""

from __future__ import annotations

from . import layers, products, sealing
from .checks import BYTES, NMSE, Group

EXACT = 1e-12
"""Dequantising and rotating: a few roundings of f32."""

FITTED = 1e-4
"""Scales by least squares: sums in any order may move a scale or midpoint by a step of its grid."""

PRODUCT = 3e-8
ATTENTION = 3e-7
"""Of the worst query head."""

ATTENTION_WIDE = 1e-5

ATTENTION_GPU = 1e-6
"""Prompts are multiplied in f16 there (seen on the emulator: 5e-7)."""

GROUPS = (
    Group("seal: equal widths", BYTES, 0, sealing.seal_uniform),
    Group("seal: followers, min and max", BYTES, 0, sealing.seal_followers),
    Group("seal: followers, least squares", NMSE, FITTED, sealing.fit_followers),
    Group("seal: ranked keys", BYTES, 0, sealing.seal_ranked),
    Group("seal: unbiased values", BYTES, 0, sealing.seal_unbiased),
    Group("unpack", NMSE, EXACT, products.unpack),
    Group("multiply", NMSE, PRODUCT, products.multiply),
    Group("rotate", NMSE, EXACT, products.rotate),
    Group("seal a layer", BYTES, 0, layers.seal, 0),
    Group("seal a layer of followers", BYTES, 0, layers.seal_followers, 0),
    Group("attention", NMSE, ATTENTION, layers.attention, ATTENTION_GPU),
    Group("attention: window boundary", NMSE, ATTENTION, layers.boundary, ATTENTION_GPU),
    Group("attention: followers", NMSE, ATTENTION, layers.followers, ATTENTION_GPU),
    Group("attention: wide ranges", NMSE, ATTENTION_WIDE, layers.wide_ranges, ATTENTION_WIDE),
)
