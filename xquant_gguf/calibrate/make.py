"""The whole calibration of one model: measure, choose, verify, and what the plan file says."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._measuring import progress_bar
from ..config import XQuantConfig
from ..eval.contexts import Model
from ..eval.resume import Pieces
from ..plan_file import FORMAT, VERSION, fingerprint, settings_of
from . import options, verify
from .agreement import read_agreement
from .budget import Budget, choose_bits
from .lanes import Bench
from .layout import Layout
from .sensitivity import WINDOW, Measure, measure_layers
from .sharing import measure_sharing

Texts = Mapping[int, Sequence[int]]


def make_plan(
    args: argparse.Namespace,
    model: Model,
    layout: Layout,
    texts: tuple[Texts, Texts],
    budget: Budget,
    pieces: Pieces,
) -> dict[str, Any]:
    """The plan file's contents, see :mod:`xquant_gguf.plan_file` for what reads it.

    Args:
        args: see :mod:`.options`. texts: contexts to measure on, contexts to verify on.
        pieces: what is measured already; everything new is added.

    All KL are means in nats; ``kl_high`` is that of all layers at high precision.

    Raises:
        ConfigError: the KL budget cannot be met.
    """
    shapes = layout.shapes
    layers = sorted({*range(0, len(shapes), args.every), len(shapes) - 1})
    chooses, verifies = texts
    with progress_bar("tokens") as bar:

        def measure_on(part: Texts, what: str) -> Measure:
            def measure(lanes: Mapping[str, XQuantConfig]) -> dict[str, float]:
                task = bar.add_task(what, total=len(lanes) * len(part) * (args.ctx - 1))
                bench = Bench(
                    model, args.ctx, options.SKIP, args.threads, pieces,
                    lambda n: bar.advance(task, n),
                )  # fmt: skip
                return bench.kl(lanes, part)

            return measure

        floor, curves = measure_layers(shapes, layers, measure_on(chooses, "layers"))
        sharing = measure_sharing(shapes, measure_on(chooses, "sharing"), layout.true_bits)
        pairs = read_agreement(model, shapes, chooses[0], args.threads)
        measure = measure_on(verifies, "verifying")
        choice = verify.choose(
            lambda asked: choose_bits(shapes, curves, floor, asked), budget, measure
        )
        allowed = budget.bits or 0.0
        rows = verify.verify(choice.config, measure, layout.true_bits, allowed)
    written, why = verify.best(rows, allowed)
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": {"name": Path(args.model).name, "fingerprint": fingerprint(args.model)},
        "settings": settings_of(written.config),
        "true_bits": written.true_bits,
        "kl_predicted": choice.kl,
        "kl_measured": written.kl,
        "budget": {"true_bits": budget.bits, "kl": budget.kl},
        "chosen": written.name,
        "why": why,
        "text": Path(args.text).name if args.text else "built-in",
        "tokens": len(verifies) * (args.ctx - options.SKIP - 1),
        "window": WINDOW,
        "kl_high": floor,
        "layers": layout.layers(written.config, curves),
        "pairs": pairs,
        "sharing": sharing,
        "compared": verify.by_name(rows),
    }
