"""What packing each layer costs, from one forward pass over 512 tokens (cpp/graph/one_pass.h)."""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import XQuantConfig
from ..errors import ConfigError, UnsupportedModelError
from ..eval.contexts import Context, Model
from .sensitivity import WINDOW
from .shapes import WIDTHS, Shape, Side, shapes_of

TOKENS = 512
_SCORED = 4
"""One token in so many has logits: llama.cpp keeps only those rows of the last layer."""

_PASS = XQuantConfig(window=TOKENS, max_ubatch=TOKENS)  # nothing is sealed
_TO_BE = XQuantConfig(window=WINDOW)


@dataclass(frozen=True)
class LayerCost:
    """One packed layer.

    Attributes:
        k, v: by bits, the energy of the change that packing makes in the residual stream
            over the energy of that stream. Empty where it could not be measured.
        why_none: why not, or "".
    """

    shape: Shape
    k: dict[float, float]
    v: dict[float, float]
    why_none: str = ""


@dataclass(frozen=True)
class Measured:
    """All packed layers, and how long it took."""

    layers: tuple[LayerCost, ...]
    seconds: float


def measure(model_path: str, *, threads: int | None = None, text: str | None = None) -> Measured:
    """Run the pass over the built-in text, on the CPU.

    Args:
        text: another one.

    Raises:
        UnsupportedModelError: the model cannot run with a packed cache, or packs no layer.
        ConfigError: a text of fewer tokens.
    """
    started = time.monotonic()
    if text is None:
        text = Path(__file__).with_name("text.txt").read_text(encoding="utf-8")
    with closing(Model(model_path)) as model:
        tokens = model.tokenize(text)[:TOKENS]
        if len(tokens) < TOKENS:
            raise ConfigError(
                f"the text must have {TOKENS} tokens", len(tokens), "use a longer one"
            )
        layers = run(model, tokens, threads or os.cpu_count() or 1)
    return Measured(layers, time.monotonic() - started)


def run(model: Model, tokens: list[int], threads: int) -> tuple[LayerCost, ...]:
    """The pass itself, over :data:`TOKENS` tokens."""
    native = model.native
    native.require_packed()
    with native.one_pass(_TO_BE.to_text(), WIDTHS["k"], WIDTHS["v"]) as one:
        opened = Context(
            model, _PASS, n_ctx=TOKENS, threads=threads, batch=TOKENS, eval_callback=one.callback
        )
        with closing(opened) as context:
            one.begin(context.handle)
            _decode(context, tokens)
            costs = {layer["il"]: layer for layer in one.costs()}
            shapes = shapes_of(context.snapshot().layers)
    if not shapes:
        raise UnsupportedModelError(
            "a plan needs layers that are packed", "none in this model", 'use kv="f16"'
        )
    return tuple(_cost(shape, costs.get(shape.il)) for shape in shapes)


def _decode(context: Context, tokens: list[int]) -> None:
    batch = context.batch
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i] = token, i
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        batch.logits[i] = i % _SCORED == _SCORED - 1
    if context.model.api.llama_decode(context.handle, batch) != 0:
        raise UnsupportedModelError(
            f"the model must be able to read {TOKENS} tokens at once", context.model.path
        )


def _cost(shape: Shape, found: dict[str, Any] | None) -> LayerCost:
    if found is None:
        return LayerCost(shape, {}, {}, "it was not seen in the graph")
    if found["why_none"]:
        return LayerCost(shape, {}, {}, found["why_none"])
    stream = found["stream"]
    if not stream > 0:
        return LayerCost(shape, {}, {}, "the residual stream behind it is 0 or not finite")

    def of(side: Side) -> dict[float, float]:
        # Of the asked widths that come to the same one, any: their codes are the same.
        return {
            shape.nearest(side, bits): energy / stream
            for bits, energy in zip(WIDTHS[side], found[side])
        }

    return LayerCost(shape, of("k"), of("v"))
