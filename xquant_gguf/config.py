"""Settings of the packed cache: one frozen dataclass, the presets, and how a name becomes one."""

from __future__ import annotations

import dataclasses
import difflib
import enum
from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Any, Literal, Union

from ._checks import (
    check_bits,
    check_choice,
    check_eta,
    check_key_bits,
    check_layers,
    check_threshold,
    check_tiles,
    is_int,
)
from .errors import ConfigError
from .stock import STOCK, StockKV

Threshold = Union[int, float, None]
"""Layer threshold: an index, a fraction of depth in [0, 1), or None for never."""

_ETA1 = 1 / 6
_ETA1_KEYS = 0.28
_ETA2 = 0.045


class Unset(enum.Enum):
    """Type of :data:`UNSET`, which marks a keyword that was not given (None means "never")."""

    UNSET = "unset"


UNSET = Unset.UNSET


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclasses.dataclass(frozen=True)
class XQuantConfig:
    """How keys (``k_``) and values (``v_``) are packed. The defaults are the preset ``balanced``.

    Layers are counted over the layers that the packed cache holds. Thresholds
    are an ``int`` index, a ``float`` fraction of depth in [0, 1) that is rounded
    down to an even index, or ``None`` for never.

    Attributes:
        k_bits, v_bits: code bits an element (2, 2). Values: 1 to 4. Keys: 1 to 4 with
            ``k_alloc="uniform"``; with ``"range"`` an average from 0.5 to 8 in steps of
            32 / head dim, as 1.5 or 4.5.
        k_layers, v_layers: bits of every packed layer, as in ``"2/2/1.5"``, or a pattern
            that repeats, ``"2/1*"``, in place of k_bits and v_bits; what
            ``python -m xquant_gguf.calibrate`` finds (None, None).
        k_alloc: ``"range"`` gives 0, 1, 2 or 4 bits to a key channel (1, 2, 4 or 8 from
            4 bits on average) by its range within a tile; ``"uniform"`` k_bits to each.
        k_metric: ``"queries"`` keeps key channels in the size that queries give them, read
            off the model's weights at load; scores stay what they are. ``"none"``: as they are.
        v_fit: ``"unbiased"``, symmetric levels under a scale that keeps ``<x, x>``, 64
            channels a group; ``"minmax"``, 32 channels between minimum and maximum.
        v_rot: ``"hadamard"`` rotates values before they are packed, or ``"none"``.
        k_1bit_from, v_1bit_from: first layer with 1-bit codes (None, None).
        k_share_from, v_share_from: even index; from here layers go in pairs, and
            the second of a pair reads the first one's codes (None, None). Needs
            uniform keys, and values with v_fit ``"minmax"``.
        window: newest tokens kept in full precision, a multiple of 32 (128).
        sink: first tokens kept in full precision, in whole tiles of 32 (4).
        k_eta1 .. k_eta4, v_eta1 .. v_eta4: by how much of the range the minimum and
            maximum are pulled in at that bit-width, in [0, 0.5]; v_fit "unbiased" has none.
        k_meta, v_meta: scales and zero points of uniform keys and minmax values as
            ``"f16"`` or ``"q8"`` ("q8", "q8"); the other forms have their own.
        follower: how a layer that shares codes fits its scales, ``"minmax"`` as in
            the paper or ``"ls"``, least squares ("minmax").
        max_ubatch: largest micro-batch the cache takes, a multiple of 32; memory for
            full-precision tokens grows with it (256). Contexts with pooling or without causal
            attention take their whole ``n_ubatch`` instead, where that is more.
        swa: caches of sliding-window layers stay in ``"f16"``, or are ``"packed"`` where that
            takes less memory ("f16"). Layers that settings count are then counted apart, those
            with a window and those without.

    Raises:
        ConfigError: a value outside these limits, or settings that exclude each other.

    Source: XQuant (arXiv 2510.11236) for relaxed calibration (eta 1/6 at 1 bit,
    0.045 at 2 bits) and for sharing codes between layers; docs/quality.md for the rest.
    """

    k_bits: float = field(default=2, metadata=_help("code bits of keys, as 2 or 1.5"))
    v_bits: int = field(default=2, metadata=_help("code bits of values, 1 to 4"))
    k_layers: str | None = field(default=None, metadata=_help("key bits by layer, as 2/1.5/3"))
    v_layers: str | None = field(default=None, metadata=_help("value bits by layer, as 2/1/3"))
    k_alloc: Literal["uniform", "range"] = field(
        default="range", metadata=_help("key channels: all the same bits, or by range")
    )
    k_metric: Literal["none", "queries"] = field(
        default="queries", metadata=_help("keys in the metric of queries, or none")
    )
    v_fit: Literal["minmax", "unbiased"] = field(
        default="unbiased", metadata=_help("levels of values: minmax or unbiased")
    )
    v_rot: Literal["none", "hadamard"] = field(
        default="hadamard", metadata=_help("rotation of values: none or hadamard")
    )
    k_1bit_from: Threshold = field(default=None, metadata=_help("first layer with 1-bit keys"))
    v_1bit_from: Threshold = field(default=None, metadata=_help("first layer with 1-bit values"))
    k_share_from: Threshold = field(
        default=None, metadata=_help("first layer whose keys share codes in pairs (even)")
    )
    v_share_from: Threshold = field(
        default=None, metadata=_help("first layer whose values share codes in pairs (even)")
    )
    window: int = field(
        default=128, metadata=_help("newest tokens in full precision, a multiple of 32")
    )
    sink: int = field(default=4, metadata=_help("first tokens in full precision"))
    k_eta1: float = field(default=_ETA1_KEYS, metadata=_help("relaxation of 1-bit keys, 0 to 0.5"))
    k_eta2: float = field(default=_ETA2, metadata=_help("relaxation of 2-bit keys, 0 to 0.5"))
    k_eta3: float = field(default=0.0, metadata=_help("relaxation of 3-bit keys, 0 to 0.5"))
    k_eta4: float = field(default=0.0, metadata=_help("relaxation of 4-bit keys, 0 to 0.5"))
    v_eta1: float = field(default=_ETA1, metadata=_help("relaxation of 1-bit values, 0 to 0.5"))
    v_eta2: float = field(default=_ETA2, metadata=_help("relaxation of 2-bit values, 0 to 0.5"))
    v_eta3: float = field(default=0.0, metadata=_help("relaxation of 3-bit values, 0 to 0.5"))
    v_eta4: float = field(default=0.0, metadata=_help("relaxation of 4-bit values, 0 to 0.5"))
    k_meta: Literal["f16", "q8"] = field(
        default="q8", metadata=_help("scales and zero points of keys: f16 or q8")
    )
    v_meta: Literal["f16", "q8"] = field(
        default="q8", metadata=_help("scales and zero points of values: f16 or q8")
    )
    follower: Literal["minmax", "ls"] = field(
        default="minmax", metadata=_help("scales of sharing layers: minmax or ls")
    )
    max_ubatch: int = field(default=256, metadata=_help("largest micro-batch, a multiple of 32"))
    swa: Literal["f16", "packed"] = field(
        default="f16", metadata=_help("caches of sliding windows: f16, or packed where that saves")
    )

    def __post_init__(self) -> None:
        check_choice("k_alloc", self.k_alloc, ("uniform", "range"))
        check_choice("k_metric", self.k_metric, ("none", "queries"))
        check_choice("v_fit", self.v_fit, ("minmax", "unbiased"))
        check_choice("v_rot", self.v_rot, ("none", "hadamard"))
        check_key = check_bits if self.k_alloc == "uniform" else check_key_bits
        check_key("k_bits", self.k_bits)
        check_layers("k_layers", self.k_layers, check_key)
        check_bits("v_bits", self.v_bits)
        check_layers("v_layers", self.v_layers, check_bits)
        for side in ("k", "v"):
            check_threshold(f"{side}_1bit_from", getattr(self, f"{side}_1bit_from"), even=False)
            check_threshold(f"{side}_share_from", getattr(self, f"{side}_share_from"), even=True)
            for bits in range(1, 5):
                check_eta(f"{side}_eta{bits}", getattr(self, f"{side}_eta{bits}"))
            check_choice(f"{side}_meta", getattr(self, f"{side}_meta"), ("f16", "q8"))
        check_choice("swa", self.swa, ("f16", "packed"))
        check_choice("follower", self.follower, ("minmax", "ls"))
        check_tiles("window", self.window)
        check_tiles("max_ubatch", self.max_ubatch)
        if not is_int(self.sink) or self.sink < 0:
            raise ConfigError("sink is a number of tokens, 0 or more", repr(self.sink), "try 4")
        self._check_together()

    def _check_together(self) -> None:
        """Settings that exclude each other; the native library refuses the same."""
        for name in ("k_share_from", "k_1bit_from"):
            if self.k_alloc == "range" and getattr(self, name) is not None:
                raise ConfigError(
                    f"{name} needs keys with the same bits in every channel",
                    f"k_alloc='range' with {name}={getattr(self, name)!r}",
                    "add k_alloc='uniform', or start from a preset that shares, such as xquant",
                )
        for name in ("k_layers", "v_layers"):
            bits = getattr(self, name)
            if self.swa == "packed" and bits is not None and not bits.endswith("*"):
                raise ConfigError(
                    f"{name} with swa='packed' is a pattern that repeats",
                    f"{name}={bits!r}",
                    "end the pattern with *, or leave window layers in f16 with swa='f16'",
                )
        if self.v_fit == "unbiased" and self.v_share_from is not None:
            raise ConfigError(
                "v_share_from needs values between minimum and maximum",
                f"v_fit='unbiased' with v_share_from={self.v_share_from!r}",
                "add v_fit='minmax', or start from a preset that shares, such as xquant",
            )

    def to_text(self) -> str:
        """The settings as ``key=value,key=value``, the form that the C API and XQUANT_KV read."""
        return ",".join(
            f"{item.name}={_format(item.name, getattr(self, item.name))}"
            for item in dataclasses.fields(self)
        )

    def replace(self, **changes: Any) -> XQuantConfig:
        """A copy with some settings changed.

        Raises:
            ConfigError: an unknown setting, or a value outside its limits.
        """
        for name in changes:
            if name not in FLAGS:
                raise ConfigError(
                    "a cache setting must exist", name, f"use one of {', '.join(FLAGS)}"
                )
        return dataclasses.replace(self, **changes)


FLAGS: tuple[str, ...] = tuple(item.name for item in dataclasses.fields(XQuantConfig))
"""Names of all settings, in the order of :meth:`XQuantConfig.to_text`."""

_PAPER = XQuantConfig(
    k_alloc="uniform",
    k_metric="none",
    v_fit="minmax",
    v_rot="none",
    k_eta1=_ETA1,
    sink=0,
    k_meta="f16",
    v_meta="f16",
)
_PLAIN = _PAPER.replace(k_eta1=0.0, k_eta2=0.0, v_eta1=0.0, v_eta2=0.0)
_XQUANT = _PAPER.replace(v_bits=1, v_share_from=0.5)

PRESETS: Mapping[str, XQuantConfig | StockKV] = MappingProxyType(
    {
        "f16": STOCK["f16"],
        "lossless": XQuantConfig(k_bits=4.5, v_bits=4, window=512),
        "quality": XQuantConfig(k_bits=3, v_bits=2, window=256),
        "balanced": XQuantConfig(),
        "small": XQuantConfig(k_bits=1.5, v_layers="2/1/2/2/1/2/1/2*"),
        "tiny": XQuantConfig(k_bits=1.5, v_bits=1),
        "xquant": _XQUANT.replace(sink=4, follower="ls"),
        "xquant-paper": _XQUANT,
        "kivi2": _PLAIN,
        "asymkv1.5": _PLAIN.replace(v_bits=1),
    }
)
"""Presets by name. ``f16`` is llama.cpp's own cache; ``balanced`` is the default."""

KV = Union[str, XQuantConfig, StockKV]
"""What ``kv=`` accepts: a preset name, a stock ggml type name, or a configuration."""


def resolve_kv(kv: KV, **overrides: Any) -> XQuantConfig | StockKV:
    """Turn a preset name, a stock type name or a configuration, plus flags, into one cache.

    Args:
        kv: see :data:`KV`.
        **overrides: settings of :class:`XQuantConfig` that replace the preset's;
            those that are :data:`UNSET` are ignored.

    Raises:
        ConfigError: unknown name (the message lists the known ones), a setting outside
            its limits, or a setting given together with a stock type.
    """
    given = {name: value for name, value in overrides.items() if value is not UNSET}
    base = _lookup(kv) if isinstance(kv, str) else kv
    if isinstance(base, StockKV):
        if given:
            raise ConfigError(
                f"packing settings need a packed cache, and kv={base.name!r} is a stock one",
                ", ".join(f"{name}={value!r}" for name, value in given.items()),
                f"leave them out, or use kv as one of {', '.join(_packed_names())}",
            )
        return base
    if not isinstance(base, XQuantConfig):
        raise ConfigError(
            "kv is a preset name, a ggml type name or an XQuantConfig",
            repr(kv),
            f"use one of {', '.join(kv_names())}",
        )
    return base.replace(**given) if given else base


def kv_names() -> list[str]:
    """All names that ``kv=`` accepts: presets first, then stock types."""
    return [*PRESETS, *(name for name in STOCK if name not in PRESETS)]


def parse_threshold(text: str) -> Threshold:
    """Read a threshold from a command line: ``never``, ``16`` or ``0.5``.

    Raises:
        ConfigError: none of the three forms.
    """
    lowered = text.strip().lower()
    if lowered in ("never", "none", "-1"):
        return None
    try:
        return int(lowered)
    except ValueError:
        pass
    try:
        return float(lowered)
    except ValueError:
        raise ConfigError(
            "a layer threshold is an index, a fraction of depth, or never",
            repr(text),
            "try 16, 0.5 or never",
        ) from None


def parse_setting(name: str, text: str) -> int | float | str | None:
    """Read one setting from a command line: a number, a word, or ``never`` where that is allowed.

    Whether the value may be had is left to :class:`XQuantConfig`.

    Args:
        name: one of :data:`FLAGS`.
    """
    value = text.strip()
    default = XQuantConfig.__dataclass_fields__[name].default
    if default is None and value.lower() in ("never", "none", "-1"):
        return None
    if name.endswith("_from"):
        return parse_threshold(value)
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _lookup(name: str) -> XQuantConfig | StockKV:
    found = PRESETS.get(name) or STOCK.get(name)
    if found is None:
        close = difflib.get_close_matches(name, kv_names(), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(
            "kv must name a preset or a ggml cache type",
            repr(name),
            f"{hint}use one of {', '.join(kv_names())}",
        )
    return found


def _packed_names() -> list[str]:
    return [name for name, kv in PRESETS.items() if isinstance(kv, XQuantConfig)]


def _format(name: str, value: object) -> str:
    if value is None:
        return "-1"
    if isinstance(value, float) and name.endswith("_from"):
        return f"{value:.9f}"
    if isinstance(value, float):
        return f"{value:.9g}"
    return str(value)
