"""Does sharing codes between the layers of a pair pay? KL against unshared layers at no more bits.

Thresholds share all pairs from some depth on, so sharing is measured for all pairs and for
the upper half of them, each side alone, the other side at high precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import XQuantConfig
from .sensitivity import HIGH, Measure, as_text
from .shapes import SIDES, Shape, Side

_FROM = 0.0, 0.5


@dataclass(frozen=True)
class Trial:
    """Two caches that differ in one side: codes shared in pairs, or fewer bits for each layer."""

    side: Side
    share_from: float
    shared: XQuantConfig
    unshared: XQuantConfig


def trials(shapes: Sequence[Shape]) -> list[Trial]:
    """All comparisons, for two packed layers or more."""
    if len(shapes) < 2:
        return []
    return [_trial(shapes, side, share_from) for side in SIDES for share_from in _FROM]


def measure_sharing(
    shapes: Sequence[Shape],
    measure: Measure,
    bits_of: Callable[[XQuantConfig], float],
) -> list[dict[str, Any]]:
    """Every trial with the KL (nats) and true bits of both caches, and what they decide.

    Args:
        measure: mean KL of named caches. bits_of: true bits of a cache.
    """
    found = trials(shapes)
    names = [f"{trial.side} from {trial.share_from:g}" for trial in found]
    lanes = {
        f"{name} {kind}": getattr(trial, kind)
        for name, trial in zip(names, found)
        for kind in ("shared", "unshared")
    }
    kl = measure(lanes) if lanes else {}
    rows = []
    for name, trial in zip(names, found):
        row: dict[str, Any] = {"side": trial.side, "share_from": trial.share_from}
        for kind in ("shared", "unshared"):
            config: XQuantConfig = getattr(trial, kind)
            row[kind] = {"true_bits": bits_of(config), "kl": kl[f"{name} {kind}"]}
        rows.append({**row, **_decide(row["shared"], row["unshared"])})
    return rows


def _trial(shapes: Sequence[Shape], side: Side, share_from: float) -> Trial:
    first = int(share_from * len(shapes)) // 2 * 2
    plain = {"k_alloc": "uniform"} if side == "k" else {"v_fit": "minmax", "v_rot": "none"}
    two_bits: dict[str, Any] = {**plain, f"{side}_bits": 2, "follower": "ls"}
    # a shared pair has half the code bits, which unshared layers get as 1 bit each
    low = [
        shape.widths(side)[0 if i >= first else _two(shape, side)] for i, shape in enumerate(shapes)
    ]
    return Trial(
        side,
        share_from,
        HIGH.replace(**two_bits, **{f"{side}_share_from": share_from}),
        HIGH.replace(**{f"{side}_layers": as_text(low)}),
    )


def _two(shape: Shape, side: Side) -> int:
    widths = shape.widths(side)
    return min(range(len(widths)), key=lambda i: abs(widths[i] - 2))


def _decide(shared: Mapping[str, float], unshared: Mapping[str, float]) -> dict[str, Any]:
    better = unshared["kl"] <= shared["kl"] and unshared["true_bits"] <= shared["true_bits"]
    word = "lower" if better else "not lower"
    return {
        "share": not better,
        "decided_by": f"KL {unshared['kl']:.4f} of unshared layers at {unshared['true_bits']:.2f} "
        f"true bits is {word} than {shared['kl']:.4f} of shared ones at "
        f"{shared['true_bits']:.2f}",
    }
