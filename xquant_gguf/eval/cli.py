"""Command line of ``python -m xquant_gguf.eval``: what is read, measured and written."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._measuring import exit_code, parse_kvs, progress_bar, read_text, write_json
from .._tables import show
from ..config import XQuantConfig
from ..stock import StockKV
from . import data, options, retrieval, truthfulqa, windows
from .contexts import Context, Model, settings_of
from .identity import file_identity, library_identity, model_identity
from .report import frontier_plot, markdown
from .resume import Pieces


def main(argv: Sequence[str] | None = None) -> int:
    """Run the evaluation; returns the exit code."""
    return exit_code(lambda: _run(options.parse(argv)))


@dataclass(frozen=True)
class Job:
    """Everything that is read before the model; a part that was not asked for is empty.

    Attributes:
        files: data files by part.
    """

    args: argparse.Namespace
    kvs: Mapping[str, XQuantConfig | StockKV]
    pairs: list[int]
    files: dict[str, str]
    text: str
    rows: list[retrieval.Row]
    examples: list[truthfulqa.Question]
    questions: list[truthfulqa.Question]

    @classmethod
    def read(cls, args: argparse.Namespace) -> Job:
        """Check the options and read the data.

        Raises:
            ConfigError: an option or a data file that cannot be used.
        """
        kvs, pairs = parse_kvs(args.kv, args.model), options.parse_pairs(args.retrieval_pairs)
        options.check(args)
        files, text, rows = {}, "", []
        shown: list[truthfulqa.Question] = []
        asked: list[truthfulqa.Question] = []
        if args.tokens:
            files["text"] = data.text_file(args.text, args.data)
            text = read_text(files["text"])
        if args.retrieval:
            path = data.find(args.data, data.RETRIEVAL, "--retrieval")
            files["retrieval"] = str(path)
            rows = retrieval.read_rows(path, args.retrieval, pairs[-1])
        if args.truthfulqa:
            path = data.find(args.data, data.TRUTHFULQA, "--truthfulqa")
            files["truthfulqa"] = str(path)
            shown, asked = truthfulqa.read_questions(path, args.truthfulqa)
        return cls(args, kvs, pairs, files, text, rows, shown, asked)

    def identity(self, model: Model) -> dict[str, Any]:
        """What the numbers depend on."""
        args = self.args
        return {
            "model": model_identity(args.model),
            "library": library_identity(model.native.directory),
            "kv": {name: settings_of(kv) for name, kv in self.kvs.items()},
            "data": {part: file_identity(path) for part, path in self.files.items()},
            **{name: getattr(args, name) for name in ("tokens", "ctx", "skip")},
            "retrieval": [args.retrieval, self.pairs] if args.retrieval else 0,
            "truthfulqa": args.truthfulqa,
        }


def _run(args: argparse.Namespace) -> int:
    job = Job.read(args)
    with closing(Model(args.model)) as model:
        pieces = Pieces(f"{args.json}.partial" if args.json else None, job.identity(model))
        if len(pieces):
            print(
                f"continuing with {len(pieces)} finished pieces of {pieces.path}", file=sys.stderr
            )
        try:
            result = _measure(job, model, pieces)
        except KeyboardInterrupt:
            print(pieces.notice(), file=sys.stderr)
            return 130
    show(markdown(result))
    if args.json:
        write_json(args.json, result)
        pieces.drop()
    if args.plot:
        frontier_plot(result, args.plot)
    return 0


def _measure(job: Job, model: Model, pieces: Pieces) -> dict[str, Any]:
    args, kvs = job.args, job.kvs
    texts = (
        windows.cut_text(model, job.text, args.ctx, args.skip, args.tokens) if args.tokens else []
    )
    # also tells before hours of work whether each cache can be had
    rows = {name: _describe(model, name, kv, args) for name, kv in kvs.items()}
    common = {"threads": args.threads, "pieces": pieces}
    with progress_bar("") as bar:
        if args.tokens:
            task = bar.add_task("KL tokens", total=sum(len(text) - 1 for text in texts))
            found = windows.run(
                model, kvs, texts, n_ctx=args.ctx, skip=args.skip, **common,
                progress=lambda n: bar.advance(task, n),
            )  # fmt: skip
            for name, row in rows.items():
                row.update(found[name])
        if args.retrieval:
            total = len(kvs) * len(job.rows) * len(job.pairs)
            task = bar.add_task("retrieval prompts", total=total)
            found = retrieval.run(
                model, kvs, job.rows, job.pairs, **common,
                progress=lambda n: bar.advance(task, n),
            )  # fmt: skip
            for name, row in rows.items():
                row["retrieval"] = found[name]
        if args.truthfulqa:
            task = bar.add_task("TruthfulQA questions", total=len(kvs) * len(job.questions))
            found = truthfulqa.run(
                model, kvs, job.examples, job.questions, **common,
                progress=lambda n: bar.advance(task, n),
            )  # fmt: skip
            for name, row in rows.items():
                row["truthfulqa"] = found[name]
    return {
        "model": Path(args.model).name,
        "text": Path(job.files["text"]).name if args.tokens else None,
        "tokens": args.tokens,
        "ctx": args.ctx,
        "skip": args.skip,
        "rows": list(rows.values()),
    }


def _describe(
    model: Model, name: str, kv: XQuantConfig | StockKV, args: argparse.Namespace
) -> dict[str, Any]:
    """Bits and bytes of an empty cache of ``--ctx`` tokens: it allocates all it will ever use."""
    with closing(
        Context(model, kv, n_ctx=args.ctx, threads=args.threads, swa_full=False)
    ) as context:
        now = context.snapshot()
        return {
            "kv": name,
            "true_bits": now.true_bits,
            "code_bits": now.code_bits,
            "allocated_bits": now.allocated_bits,
            "bytes": now.bytes_total,
            "tokens": 0,
            "settings": context.settings(),
        }
