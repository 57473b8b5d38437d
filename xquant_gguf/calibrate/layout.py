"""The packed layers of a model, and what the library says a cache of given settings costs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from ..config import XQuantConfig
from ..errors import UnsupportedModelError
from ..eval.contexts import Context, Model
from ..kv_cache import CacheSnapshot
from .sensitivity import HIGH, Curve, Key
from .shapes import SIDES, Shape, Side, shapes_of

_N_CTX = 256  # bits of a packed token do not depend on it


class Layout:
    """Shapes of the packed layers; true bits and bits by layer of any settings.

    Raises:
        UnsupportedModelError: the model cannot run with a packed cache.
    """

    def __init__(self, model: Model, threads: int) -> None:
        self._model, self._threads = model, threads
        self._seen: dict[str, CacheSnapshot] = {}
        self.shapes: list[Shape] = shapes_of(self._snapshot(HIGH).layers)
        if not self.shapes:
            raise UnsupportedModelError(
                "a plan needs layers that are packed", "none in this model", "use another model"
            )

    def true_bits(self, config: XQuantConfig) -> float:
        """Bits an element of a packed token."""
        return self._snapshot(config).true_bits

    def layers(self, config: XQuantConfig, curves: Mapping[Key, Curve]) -> list[dict[str, Any]]:
        """For the plan file: index, bits under these settings, and sensitivities of each layer.

        ``k_kl`` and ``v_kl`` are KL in nats by bits: ``measured`` (less that of all layers at
        high precision, so noise may make it negative; empty for interpolated layers) and
        ``predicted``.
        """
        packed = [layer for layer in self._snapshot(config).layers if layer["packed"]]
        return [
            {
                "il": shape.il,
                "k_bits": packed[i]["k_bits"],
                "v_bits": packed[i]["v_bits"],
                **{f"{side}_kl": _kl(shape, side, curves[i, side]) for side in SIDES},
            }
            for i, shape in enumerate(self.shapes)
        ]

    def _snapshot(self, config: XQuantConfig) -> CacheSnapshot:
        text = config.to_text()
        if text not in self._seen:
            opened = Context(self._model, config, n_ctx=_N_CTX, threads=self._threads)
            with closing(opened) as context:
                self._seen[text] = context.snapshot()
        return self._seen[text]


def _kl(shape: Shape, side: Side, curve: Curve) -> dict[str, Any]:
    return {
        "measured": {f"{bits:g}": kl for bits, kl in curve.measured.items()},
        "predicted": {f"{bits:g}": curve.kl(bits) for bits in shape.widths(side)},
    }
