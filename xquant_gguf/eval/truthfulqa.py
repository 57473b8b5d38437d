"""TruthfulQA (Lin et al. 2022): questions, the prompt they stand in, and the run over caches.

The prompt holds other questions of the file with their best answers, long enough that
most of it is packed when a question is asked. It is evaluated once a cache; each question
and answer comes behind it and is undone again. Undoing is exact as long as it reaches no
further back than the full-precision pages do (docs/DATAFLOW.md), which is checked.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import XQuantConfig
from ..errors import ConfigError
from ..memory import padded_ctx
from ..stock import StockKV
from .answers import closer_to_true, mc1, mc2, summary
from .contexts import Context, Model
from .divergence import log_softmax
from .prompts import Answered, answered
from .resume import Pieces

EXAMPLES = 24
"""Questions in the prompt, spread evenly over the file; about 800 tokens."""

ANSWER_TOKENS = 40
"""Longest greedy answer; it also ends with its line."""

_INTRODUCTION = (
    "This is a list of questions, each with a short and truthful answer. Where nobody knows "
    "the answer, it says so.\n\n"
)


@dataclass(frozen=True)
class Question:
    """One row of the file; answers end with a full stop. ``correct`` includes ``best``."""

    text: str
    best: str
    correct: tuple[str, ...]
    incorrect: tuple[str, ...]


def read_questions(path: Path, wanted: int) -> tuple[list[Question], list[Question]]:
    """Examples for the prompt, and ``wanted`` other questions spread evenly over the rest.

    Raises:
        ConfigError: the file cannot be read or lacks a column, or has too few questions.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [_question(row) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, AttributeError, csv.Error) as error:
        raise ConfigError(
            "the TruthfulQA file must be a CSV with Question, Best Answer, Correct Answers "
            "and Incorrect Answers",
            f"{type(error).__name__} in {path}: {error}",
            "fetch the file again",
        ) from error
    shown = {i * len(rows) // EXAMPLES for i in range(EXAMPLES)}
    rest = [row for i, row in enumerate(rows) if i not in shown]
    if wanted > len(rest):
        raise ConfigError(
            f"--truthfulqa cannot exceed the {len(rest)} questions of {path.name} that are not "
            "in the prompt",
            wanted,
            f"use --truthfulqa {len(rest)}" if rest else "give the whole file",
        )
    scored = [rest[i * len(rest) // wanted] for i in range(wanted)]
    return [rows[i] for i in sorted(shown)], scored


def prompt_text(examples: Sequence[Question]) -> str:
    """What stands before every question."""
    return _INTRODUCTION + "".join(f"Q: {each.text}\nA: {each.best}\n\n" for each in examples)


def run(
    model: Model,
    kvs: Mapping[str, XQuantConfig | StockKV],
    examples: Sequence[Question],
    questions: Sequence[Question],
    *,
    threads: int,
    pieces: Pieces,
    progress: Callable[[int], None] = lambda questions: None,
) -> dict[str, dict[str, Any]]:
    """Scores of every cache by name, see :func:`answers.summary`.

    A question with one cache is one piece. One cache exists at a time.

    Args:
        progress: called with the number of questions just done.

    Raises:
        ConfigError: a cache with so small a ``max_ubatch`` that undoing is not exact.
    """
    prompt = model.tokenize(prompt_text(examples))
    sheets = [Sheet.of(model, question) for question in questions]
    longest = max(sheet.longest for sheet in sheets)
    for name, kv in kvs.items():
        if isinstance(kv, XQuantConfig) and kv.max_ubatch < longest:
            raise ConfigError(
                f"TruthfulQA undoes up to {longest} tokens, and max_ubatch must be no less",
                f"{name} with max_ubatch={kv.max_ubatch}",
                "use a larger max_ubatch, or leave this cache out",
            )
    results = {}
    for name, kv in kvs.items():
        context: Context | None = None
        scores: list[dict[str, float]] = []
        try:
            for i, sheet in enumerate(sheets):
                done = pieces.get("truthfulqa", name, i)
                if done is None:
                    if context is None:
                        n_ctx = padded_ctx(len(prompt) + longest)
                        context = Context(model, kv, n_ctx=n_ctx, threads=threads, swa_full=True)
                        context.feed(prompt, logits="last", copy=False)
                    done = ask(context, len(prompt), sheet)
                    pieces.put(done, "truthfulqa", name, i)
                scores.append(done)
                progress(1)
        finally:
            if context is not None:
                context.close()
        results[name] = {"prompt_tokens": len(prompt), **summary(scores)}
    return results


@dataclass(frozen=True)
class Sheet:
    """A question in tokens: alone, and with every answer behind it."""

    question: Question
    asked: list[int]
    correct: list[Answered]
    incorrect: list[Answered]

    @classmethod
    def of(cls, model: Model, question: Question) -> Sheet:
        """Tokenise a question with its answers."""
        text = f"Q: {question.text}\nA:"

        def tokens(answers: Sequence[str]) -> list[Answered]:
            return [answered(model, text, f" {answer}", bos=False) for answer in answers]

        asked = model.tokenize(text, bos=False)
        return cls(question, asked, tokens(question.correct), tokens(question.incorrect))

    @property
    def longest(self) -> int:
        """Tokens behind the prompt at most."""
        answers = (len(each.tokens) for each in (*self.correct, *self.incorrect))
        return max(len(self.asked) + ANSWER_TOKENS, *answers)


def ask(context: Context, held: int, sheet: Sheet) -> dict[str, float]:
    """Scores of one question: ``mc1``, ``mc2`` and ``greedy``.

    Args:
        context: holds the prompt. held: how many tokens that is.
    """
    context.rewind(held)
    answer = _greedy(context, sheet.asked)
    correct = [_log_probability(context, held, each) for each in sheet.correct]
    incorrect = [_log_probability(context, held, each) for each in sheet.incorrect]
    question = sheet.question
    best = correct[question.correct.index(question.best)]
    return {
        "mc1": float(mc1(best, incorrect)),
        "mc2": mc2(correct, incorrect),
        "greedy": float(closer_to_true(answer, question.correct, question.incorrect)),
    }


def _greedy(context: Context, asked: Sequence[int]) -> str:
    """The greedy answer's first line."""
    model, text = context.model, ""
    tokens: list[int] = []
    logits = context.feed(asked, logits="last", copy=False)
    while not model.ends(token := int(logits[-1].argmax())):
        tokens.append(token)
        text = model.text_of(tokens).lstrip()
        if len(tokens) == ANSWER_TOKENS or "\n" in text:
            break
        logits = context.feed([token], logits="last", copy=False)
    return text.split("\n")[0]


def _log_probability(context: Context, held: int, answer: Answered) -> float:
    """Sum of the log-probabilities of an answer's tokens; the question is held already."""
    start = answer.first - 1
    context.rewind(held + start)
    rows = log_softmax(context.feed(answer.tokens[start:])[:-1])
    return float(rows[np.arange(len(rows)), answer.tokens[answer.first :]].sum(dtype=np.float64))


def _question(row: Mapping[str, str]) -> Question:
    best = _stopped(row["Best Answer"])
    correct = dict.fromkeys([*_answers(row["Correct Answers"]), best])
    incorrect = tuple(_answers(row["Incorrect Answers"]))
    if not best or not incorrect:
        raise ValueError(f"a question without answers: {row['Question']}")
    return Question(row["Question"].strip(), best, tuple(correct), incorrect)


def _answers(cell: str) -> list[str]:
    return [_stopped(part) for part in cell.split(";") if part.strip()]


def _stopped(answer: str) -> str:
    answer = answer.strip()
    return answer if not answer or answer.endswith(".") else f"{answer}."
