"""Keywords for ``llama_cpp.Llama``: what is passed on, what is only warned about, what is refused.

``llama_cpp.Llama`` swallows every keyword that it does not know, and integrations rely on it.
The rule here: an unknown keyword that is about the packed cache is an error, because a cache with
other settings than those asked for goes unnoticed. It is about the cache if it begins as a cache
setting does (``k_``, ``v_``, ``kv``), or resembles one and no keyword of ``llama_cpp`` more.
Any other one gets a warning and is left out.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Collection
from typing import Any

from .config import FLAGS, XQuantConfig
from .errors import ConfigError, XQuantWarning
from .stock import StockKV

_OURS = ("kv", "progress", "prompt_progress", *FLAGS)
_BEGINNINGS = ("k_", "v_", "kv")
_ALIKE = 0.7  # difflib's ratio: "bits" and "k_bits" 0.8, "n_parts" and "v_layers" 0.53
_CALLER = 4  # frames from warnings.warn to the code that creates a Llama


def checked_keywords(
    kv: XQuantConfig | StockKV, given: dict[str, Any], stock: Collection[str]
) -> dict[str, Any]:
    """The keywords that go on to ``llama_cpp.Llama``.

    Args:
        kv: the cache that they are for.
        given: keywords that are no cache settings.
        stock: those that ``llama_cpp.Llama`` names.

    Raises:
        ConfigError: a misspelt cache setting, or a cache type set twice.
    """
    for name in given:
        if name not in stock:
            _refuse_or_warn(name, stock)
    kept = {name: value for name, value in given.items() if name in stock}
    _check_cache_keywords(kv, kept)
    return kept


def _refuse_or_warn(name: str, stock: Collection[str]) -> None:
    plain = name.lower().replace("-", "_")
    ours, alike = _closest(plain, _OURS)
    theirs, alike_theirs = _closest(plain, stock)
    if plain.startswith(_BEGINNINGS) or (alike >= _ALIKE and alike >= alike_theirs):
        near = ours if alike >= _ALIKE else f"one of {', '.join(_OURS)}"
        raise ConfigError("a cache setting must exist", name, f"did you mean {near}?")
    hint = f"did you mean {theirs}?" if alike_theirs >= _ALIKE else "leave it out"
    warnings.warn(
        XQuantWarning.from_rule("llama_cpp.Llama ignores keywords it does not know", name, hint),
        stacklevel=_CALLER,
    )


def _closest(name: str, known: Collection[str]) -> tuple[str, float]:
    """The known name most like this one, and how much alike they are, 0 to 1."""
    matcher = difflib.SequenceMatcher(b=name)
    best, most = "", 0.0
    for other in known:
        matcher.set_seq1(other)
        if matcher.ratio() > most:
            best, most = other, matcher.ratio()
    return best, most


def _check_cache_keywords(kv: XQuantConfig | StockKV, kwargs: dict[str, Any]) -> None:
    types = [name for name in ("type_k", "type_v") if kwargs.get(name) is not None]
    named = "a packed kv" if isinstance(kv, XQuantConfig) else f"kv={kv.name!r}"
    if types and not (isinstance(kv, StockKV) and kv.name == "f16"):
        raise ConfigError(
            "the cache type is set once, by kv or by type_k and type_v",
            f"{named} with {' and '.join(types)}",
            'leave type_k and type_v out, or use kv="f16"',
        )
    needs_flash = isinstance(kv, XQuantConfig) or kv.quantised
    if needs_flash and kwargs.get("flash_attn") is False:
        warnings.warn(
            XQuantWarning.from_rule(
                "this cache needs flash attention, which is switched on",
                f"flash_attn=False with {named}",
                'leave flash_attn out, or use kv="f16"',
            ),
            stacklevel=_CALLER,
        )
