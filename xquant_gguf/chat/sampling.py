"""How replies are sampled: the values, their limits, and their names in a saved chat."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Sampling of one chat.

    Attributes:
        temperature: 0 is greedy (0.7).
        top_p: mass of the most likely tokens to draw from, in [0, 1] (0.95).
        top_k: number of tokens to draw from, 0 for all (40).
        min_p: least probability relative to the best token, in [0, 1] (0.05).
        repeat_penalty: above 1 discourages repetition (1.1).
        max_tokens: longest reply in tokens, 0 for no limit but the context (1024).
        seed: start of the random numbers, None for another one each time (None).

    Raises:
        ConfigError: a value outside its limits.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    repeat_penalty: float = 1.1
    max_tokens: int = 1024
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, 0.0, 100.0)
        _check_number("top_p", self.top_p, 0.0, 1.0)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("repeat_penalty", self.repeat_penalty, 0.0, 100.0)
        _check_count("top_k", self.top_k, 2**31 - 1)
        _check_count("max_tokens", self.max_tokens, 2**31 - 1)
        if self.seed is not None:
            _check_count("seed", self.seed, 2**32 - 1)

    def keywords(self, turn: int) -> dict[str, Any]:
        """Arguments for ``create_chat_completion``; ``turn`` makes each reply's seed its own."""
        values = dataclasses.asdict(self)
        seed = values.pop("seed")
        # llama_cpp without a seed starts from the same one in every process
        values["seed"] = secrets.randbits(32) if seed is None else (seed + turn) % 2**32
        values["max_tokens"] = self.max_tokens or None
        return values

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Sampling:
        """Read what ``dataclasses.asdict`` wrote; unknown names are ignored.

        Raises:
            ConfigError: a value outside its limits.
        """
        names = {item.name for item in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})


def _check_number(name: str, value: object, low: float, high: float) -> None:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not fits or not low <= value <= high:  # type: ignore[operator]
        raise ConfigError(
            f"{name} lies in [{low:g}, {high:g}]", repr(value), "leave it out for the default"
        )


def _check_count(name: str, value: object, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= high:
        raise ConfigError(f"{name} is a whole number from 0 to {high}", repr(value), "leave it out")
