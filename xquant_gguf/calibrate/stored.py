"""Costs of one forward pass, kept in the user's cache folder: made once, chosen from at once."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._demo import cache_dir
from .._files import BadJson, read_json, reason, write_whole
from ..config import PRESETS, XQuantConfig
from ..errors import ConfigError
from ..memory import code_bits
from .budget import DEFAULT_BITS, Budget, choose_bits
from .one_pass import LayerCost, Measured
from .shapes import SIDES, Shape, Side, true_bits

FORMAT = "xquant-sensitivities"
VERSION = 1
_MAX_BYTES = 16 << 20

Tell = Callable[[str], None]


@dataclass(frozen=True)
class _Costs:
    """What one layer's side costs by bits."""

    by_bits: Mapping[float, float]

    def kl(self, bits: float) -> float:
        """Not KL, but the energy that orders choices as KL does."""
        return self.by_bits[bits]


def names() -> list[str]:
    """The presets whose bits ``auto:NAME`` can take: those with the formats of a plan."""
    plain = XQuantConfig()
    return [
        name
        for name, preset in PRESETS.items()
        if isinstance(preset, XQuantConfig)
        and preset.replace(**{key: getattr(plain, key) for key in _OF_BITS}) == plain
    ]


_OF_BITS = ("k_bits", "v_bits", "k_layers", "v_layers", "window")


def is_budget(text: str) -> bool:
    """Whether the text behind ``auto:`` is a budget and no file."""
    return text in names() or _number(text) is not None


def config_for(
    model_path: str, fingerprint: str, budget: str = "", tell: Tell = lambda text: None
) -> XQuantConfig:
    """The settings for a budget: measured at first use, read from the cache folder later.

    Args:
        budget: the name of a preset, a number of true bits, or "" for those of ``balanced``.
        tell: called with what the user should know.

    Raises:
        ConfigError: a budget that cannot be met, or a number for a model without measurements.
        ModelFileError, UnsupportedModelError: the model cannot be measured.
    """
    place = path_of(fingerprint)
    try:
        layers = read(place, fingerprint)
    except (FileNotFoundError, ConfigError):  # never made, or by another version
        layers = _make(model_path, fingerprint, place, tell)
    return choose(layers, budget or DEFAULT_BITS, tell)


def choose(layers: tuple[LayerCost, ...], budget: str, tell: Tell = print) -> XQuantConfig:
    """The exact choice of bits for every layer that a budget allows.

    Raises:
        ConfigError: see :func:`config_for`.
    """
    shapes = [layer.shape for layer in layers]
    known = [layer for layer in layers if not layer.why_none]
    missing = len(layers) - len(known)
    if missing:
        first = next(layer for layer in layers if layer.why_none)
        tell(f"{missing} of {len(layers)} layers could not be measured ({first.why_none})")
    preset = PRESETS.get(budget)
    if not known:
        if not isinstance(preset, XQuantConfig):
            raise ConfigError(
                "bits by layer need layers that can be measured",
                "none in this model",
                f"use one of {', '.join(names())}",
            )
        tell(f"every layer has the bits of {budget}")
        return preset
    costs = {
        (i, side): _Costs(_falling(layer, known, side))
        for i, layer in enumerate(layers)
        for side in SIDES
    }
    bits = _number(budget)
    if bits is None:
        assert isinstance(preset, XQuantConfig)
        bits = bits_of(preset, shapes)
    chosen = choose_bits(shapes, costs, 0.0, Budget(bits, None)).config
    return chosen.replace(window=preset.window) if isinstance(preset, XQuantConfig) else chosen


def bits_of(preset: XQuantConfig, shapes: list[Shape]) -> float:
    """True bits an element of a packed token, of a preset of :func:`names`."""
    units = sum(
        shape.cost(side, code_bits(preset, side, i, len(shapes)))
        for side in SIDES
        for i, shape in enumerate(shapes)
    )
    return true_bits(shapes, units)


def path_of(fingerprint: str) -> Path:
    """Where the costs of a model lie."""
    return cache_dir() / "sensitivities" / f"{fingerprint}.json"


def write(place: Path, measured: Measured, fingerprint: str, name: str) -> None:
    """Keep what was measured.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    data = {
        "format": FORMAT,
        "version": VERSION,
        "model": {"name": name, "fingerprint": fingerprint},
        "seconds": round(measured.seconds, 2),
        "layers": [
            {
                "il": layer.shape.il,
                "heads": layer.shape.heads,
                "dk": layer.shape.dk,
                "dv": layer.shape.dv,
                **{side: {f"{b:.9g}": x for b, x in _of(layer, side).items()} for side in SIDES},
                "why_none": layer.why_none,
            }
            for layer in measured.layers
        ],
    }
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, (json.dumps(data, indent=1) + "\n").encode())


def read(place: Path, fingerprint: str) -> tuple[LayerCost, ...]:
    """Read and check a file of :func:`write`.

    Raises:
        FileNotFoundError: there is none.
        ConfigError: it cannot be read, has another version, or is of another model.
    """
    try:
        data = read_json(place, _MAX_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refused(place, reason(error)) from error
    except BadJson as error:
        raise _refused(place, str(error)) from error
    try:
        head = data["format"], data["version"], data["model"]["fingerprint"]
        layers = tuple(_layer(each) for each in data["layers"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _refused(place, f"{type(error).__name__}: {error}") from error
    if head != (FORMAT, VERSION, fingerprint) or not layers:
        raise _refused(place, f"format {head[0]!r}, version {head[1]!r}, {len(layers)} layers")
    return layers


def _make(model_path: str, fingerprint: str, place: Path, tell: Tell) -> tuple[LayerCost, ...]:
    from . import one_pass

    tell("measuring which layers need bits, once for this model")
    measured = one_pass.measure(model_path)
    tell(f"measured which layers need bits: {measured.seconds:.0f} s, once")
    try:
        write(place, measured, fingerprint, os.path.basename(model_path))
    except OSError as error:
        tell(f"it could not be kept ({place}: {reason(error)}), so the next start measures again")
    return measured.layers


def _layer(data: Mapping[str, Any]) -> LayerCost:
    sizes = [data[name] for name in ("il", "heads", "dk", "dv")]
    if any(type(size) is not int or size < 0 for size in sizes) or 0 in sizes[1:]:
        raise ValueError(f"sizes {sizes}")
    why = data["why_none"]
    if not isinstance(why, str):
        raise ValueError("a reason that is no text")
    layer = LayerCost(
        Shape(*sizes),
        {float(bits): _cost(x) for bits, x in data["k"].items()},
        {float(bits): _cost(x) for bits, x in data["v"].items()},
        why,
    )
    for side in SIDES:
        wanted = set() if why else set(layer.shape.widths(side))
        if {round(b, 6) for b in _of(layer, side)} != {round(b, 6) for b in wanted}:
            raise ValueError(f"other bits than {sorted(wanted)}")
    return layer


def _cost(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ValueError(f"a cost of {value!r}")
    return float(value)


def _of(layer: LayerCost, side: Side) -> Mapping[float, float]:
    return layer.k if side == "k" else layer.v


def _falling(layer: LayerCost, known: list[LayerCost], side: Side) -> dict[float, float]:
    """Costs by the shape's widths, none above that of fewer bits.

    A layer without its own has the mean of the others, at the share of bits closest to its own.
    """
    like = [layer] if not layer.why_none else known
    found: dict[float, float] = {}
    least = math.inf
    for bits in layer.shape.widths(side):
        each = [_of(one, side)[min(_of(one, side), key=lambda b: abs(b - bits))] for one in like]
        least = min(least, sum(each) / len(each))
        found[bits] = least
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value <= 16 else None


def _refused(place: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{place} must be sensitivities of this model and version of xquant_gguf", what, "delete it"
    )
