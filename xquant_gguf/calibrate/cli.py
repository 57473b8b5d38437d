"""Command line of ``python -m xquant_gguf.calibrate``: what is read, written and printed."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from contextlib import closing

from .._measuring import exit_code, write_json
from ..errors import SessionFileError
from ..eval.contexts import Model
from ..eval.identity import library_identity
from ..eval.resume import Pieces
from ..plan_file import AUTO, fingerprint, plan_path
from . import options
from .budget import check_reachable, parse_budget
from .layout import Layout
from .make import make_plan
from .picture import layers_plot, print_picture


def main(argv: Sequence[str] | None = None) -> int:
    """Run the calibration; returns the exit code."""
    return exit_code(lambda: _run(options.parse(argv)))


def _run(args: argparse.Namespace) -> int:
    options.check(args)
    text = options.text_of(args)
    out = options.out_path(args)
    with closing(Model(args.model)) as model:
        layout = Layout(model, args.threads)
        budget = parse_budget(args.bits, args.kl, layout.true_bits)
        check_reachable(layout.shapes, budget)
        texts = options.cut(model.tokenize(text), args.ctx, args.contexts)
        pieces = _pieces(args, model, text, out)
        if len(pieces):
            print(f"continuing with {len(pieces)} measurements of {pieces.path}", file=sys.stderr)
        try:
            plan = make_plan(args, model, layout, texts, budget, pieces)
        except KeyboardInterrupt:
            print(pieces.notice(), file=sys.stderr)
            return 130
    write_json(out, plan)
    pieces.drop()
    print_picture(plan)
    name = AUTO if out == plan_path(args.model) else f"{AUTO}:{out}"
    print(f'written to {out}; use it with kv="{name}"')
    if args.plot:
        layers_plot(plan, args.plot)
    return 0


def _pieces(args: argparse.Namespace, model: Model, text: str, out: str) -> Pieces:
    """What an interrupted run has measured already."""
    identity = {
        "model": fingerprint(args.model),
        "library": library_identity(model.native.directory),
        "text": hashlib.sha256(text.encode()).hexdigest()[:16],
        "ctx": args.ctx,
    }
    try:
        return Pieces(f"{out}.partial", identity)
    except SessionFileError as error:
        remedy = "delete the file to start afresh, or give another --out"
        raise SessionFileError(error.rule, error.value, remedy) from error
