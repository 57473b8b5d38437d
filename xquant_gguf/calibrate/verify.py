"""Is the plan better than the presets? Both measured on a part of the text that chose nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..config import PRESETS, XQuantConfig
from ..errors import ConfigError
from .budget import Budget, Choice
from .sensitivity import WINDOW, Measure

PLAN = "plan"
_ALWAYS = "balanced", "xquant"
_ROUNDS = 3
_SLACK = 1e-4  # bits: rounding of the report


@dataclass(frozen=True)
class Row:
    """One cache: name, settings, true bits, measured mean KL in nats."""

    name: str
    config: XQuantConfig
    true_bits: float
    kl: float


def choose(choose_for: Callable[[Budget], Choice], budget: Budget, measure: Measure) -> Choice:
    """The choice for a budget; one of KL is held against measured, not predicted, KL.

    Where the measured KL is above the budget, a lower one is asked for in the same proportion,
    as long as there is one.

    Raises:
        ConfigError: the budget cannot be met even as predicted.
    """
    choice = choose_for(budget)
    if budget.kl is None:
        return choice
    target = budget.kl
    for _ in range(_ROUNDS):
        measured = measure({PLAN: _measured(choice.config)})[PLAN]
        if measured <= budget.kl:
            break
        target *= budget.kl / measured
        try:
            choice = choose_for(Budget(None, target))
        except ConfigError:
            break
    return choice


def verify(
    plan: XQuantConfig,
    measure: Measure,
    bits_of: Callable[[XQuantConfig], float],
    allowed: float = 0.0,
) -> list[Row]:
    """The plan measured beside presets: those that have no more bits, and those of ``_ALWAYS``.

    ``allowed``: true bits that the plan might have had; a preset may have them too.
    """
    most = max(bits_of(plan), allowed) + _SLACK
    presets = {name: kv for name, kv in PRESETS.items() if isinstance(kv, XQuantConfig)}
    lanes = {PLAN: plan}
    lanes |= {name: kv for name, kv in presets.items() if name in _ALWAYS or bits_of(kv) <= most}
    kl = measure({name: _measured(config) for name, config in lanes.items()})
    return [Row(name, config, bits_of(config), kl[name]) for name, config in lanes.items()]


def best(rows: list[Row], allowed: float = 0.0) -> tuple[Row, str]:
    """What to write: the plan, unless a preset with no more bits has the lower KL; and why."""
    plan = next(row for row in rows if row.name == PLAN)
    most = max(plan.true_bits, allowed) + _SLACK
    rivals = [row for row in rows if row.true_bits <= most and row is not plan]
    if not rivals:
        return plan, "no preset has as few bits"
    rival = min(rivals, key=lambda row: row.kl)
    figures = (
        f"KL {plan.kl:.4f} at {plan.true_bits:.3f} true bits, "
        f"best preset with no more bits: {rival.name}, KL {rival.kl:.4f} at {rival.true_bits:.3f}"
    )
    if rival.kl < plan.kl:
        return rival, f"the preset {rival.name} is written in place of the plan: {figures}"
    return plan, figures


def by_name(rows: list[Row]) -> Mapping[str, dict[str, float]]:
    """Figures for the plan file."""
    return {row.name: {"true_bits": row.true_bits, "kl": row.kl} for row in rows}


def _measured(config: XQuantConfig) -> XQuantConfig:
    return config.replace(window=WINDOW)
