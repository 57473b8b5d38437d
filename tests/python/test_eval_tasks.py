"""Key-value retrieval and TruthfulQA without a model: prompts, scores, what is refused."""

from __future__ import annotations

import csv
import gzip
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from xquant_gguf.config import resolve_kv
from xquant_gguf.errors import ConfigError, UnsupportedModelError
from xquant_gguf.eval import retrieval, truthfulqa
from xquant_gguf.eval.answers import closer_to_true, mc1, mc2, summary, word_f1
from xquant_gguf.eval.prompts import Answered, answered
from xquant_gguf.eval.resume import Pieces


def write_rows(folder: Path, rows: int, pairs: int) -> Path:
    path = folder / "kv-retrieval" / "kv.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for row in range(rows):
            records = [[f"k{row}-{i}", f"v{row}-{i}"] for i in range(pairs)]
            key, value = records[row % pairs]
            item = {"ordered_kv_records": records, "key": key, "value": value}
            file.write(json.dumps(item) + "\n")
    return path


def write_questions(folder: Path, rows: int) -> Path:
    path = folder / "truthfulqa" / "TruthfulQA.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["Question", "Best Answer", "Correct Answers", "Incorrect Answers"])
        for i in range(rows):
            out.writerow([f"What is {i}, really?", f"A number {i}", "It is odd; One.", "A dog;Sea"])
    return path


class FakeModel:
    """One token a character; no chat template; trained for 220 tokens."""

    handle = None
    api = SimpleNamespace(llama_model_chat_template=lambda handle, name: None)
    info = SimpleNamespace(n_ctx_train=220)

    def tokenize(self, text: str, *, bos: bool = True) -> list[int]:
        return [1] * bos + [ord(char) for char in text]

    def text_of(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens))

    def ends(self, token: int) -> bool:
        return token == 0


class Parrot:
    """Predicts a script's characters by position; ``n`` places hold what was fed."""

    def __init__(self, script: list[int]) -> None:
        self.model: Any = FakeModel()
        self.script, self.held = script, 0

    def clear(self) -> None:
        self.held = 0

    def rewind(self, n_past: int) -> None:
        assert n_past <= self.held
        self.held = n_past

    def feed(self, tokens: list[int], *, logits: str = "all", copy: bool = True) -> Any:
        out = np.zeros((len(tokens), 256), np.float32)
        for i in range(len(tokens)):
            self.held += 1
            out[i, self.script[self.held] if self.held < len(self.script) else 0] = 5.0
        return out if logits == "all" else out[-1:]


def test_rows_are_checked(tmp_path: Path) -> None:
    path = write_rows(tmp_path, 4, 6)
    rows = retrieval.read_rows(path, 3, 6)
    assert [(row.key, row.value) for row in rows] == [(f"k{i}-{i}", f"v{i}-{i}") for i in range(3)]
    with pytest.raises(ConfigError, match="cannot exceed the 4 rows .*use --retrieval 4"):
        retrieval.read_rows(path, 5, 6)
    with pytest.raises(ConfigError, match="cannot exceed the 6 pairs .*got 7"):
        retrieval.read_rows(path, 3, 7)
    path.write_bytes(gzip.compress(b'{"key": 1}\n'))
    with pytest.raises(ConfigError, match="KeyError"):
        retrieval.read_rows(path, 1, 1)
    path.write_bytes(b"no gzip")
    with pytest.raises(ConfigError, match="fetch the file again"):
        retrieval.read_rows(path, 1, 1)


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_the_right_pair_stands_at_its_depth(n: int, tmp_path: Path) -> None:
    for row in retrieval.read_rows(write_rows(tmp_path, 6, 6), 6, 6):
        for depth in retrieval.DEPTHS:
            pairs = retrieval.cut(row, n, depth)
            assert len(set(pairs)) == len(pairs) == n
            assert pairs[round((n - 1) * depth / 100)] == (row.key, row.value)
            others = [pair for pair in pairs if pair[0] != row.key]
            assert others == [pair for pair in row.pairs if pair in others]


def test_the_question_holds_json_and_ends_before_the_value(tmp_path: Path) -> None:
    row = retrieval.read_rows(write_rows(tmp_path, 1, 6), 1, 6)[0]
    user, reply = retrieval.question(retrieval.cut(row, 4, 50), row.key)
    held = json.loads(user[user.index("{") : user.index("}") + 1])
    assert len(held) == 4
    assert held[row.key] == row.value
    assert reply == f'"{row.key}": "'
    (prompts,) = retrieval.make_prompts(FakeModel(), [row], [2])  # type: ignore[arg-type]
    tokens, first = prompts[0].tokens, prompts[0].first
    assert FakeModel().text_of(tokens[first:]) == row.value
    assert FakeModel().text_of(tokens[1:first]).endswith(reply)
    with pytest.raises(UnsupportedModelError, match="model's 220 tokens.*give fewer"):
        retrieval.make_prompts(FakeModel(), [row], [2, 6])  # type: ignore[arg-type]


def test_an_answer_begins_where_its_tokens_differ() -> None:
    class Merging(FakeModel):
        def tokenize(self, text: str, *, bos: bool = True) -> list[int]:
            return super().tokenize(text.replace('"a', "\x02"), bos=bos)

    plain: Any = FakeModel()
    assert answered(plain, "ab", "c", bos=True) == Answered([1, 97, 98, 99], 3)
    merging: Any = Merging()
    assert answered(merging, 'x"', "ab", bos=False) == Answered([120, 2, 98], 1)


def test_hits_are_what_greedy_decoding_finds() -> None:
    prompt = Answered([1, 5, 6, 7, 8], 3)
    assert retrieval.hit(Parrot([0, 0, 0, 7, 8]), prompt)  # type: ignore[arg-type]
    assert not retrieval.hit(Parrot([0, 0, 0, 7, 9]), prompt)  # type: ignore[arg-type]
    assert not retrieval.hit(Parrot([0, 0, 0, 6, 8]), prompt)  # type: ignore[arg-type]
    assert retrieval.hit(Parrot([0, 5, 6, 7, 8]), Answered([1, 5, 6, 7, 8], 1))  # type: ignore[arg-type]


def test_hits_in_percent() -> None:
    found = retrieval.summary([True, False, True, True, False, True, True])
    assert (found["n"], found["hits"]) == (7, pytest.approx(500 / 7))
    assert found["se"] == pytest.approx(100 * math.sqrt(5 / 7 * 2 / 7 / 7))
    assert list(found["depths"]) == ["0", "25", "50", "75", "100"]
    assert found["depths"]["25"] == {"hits": 50, "n": 2}
    assert list(retrieval.summary([True])["depths"]) == ["0"]


def test_questions_are_spread_and_not_in_the_prompt(tmp_path: Path) -> None:
    path = write_questions(tmp_path, 60)
    shown, asked = truthfulqa.read_questions(path, 12)
    assert (len(shown), len(asked)) == (truthfulqa.EXAMPLES, 12)
    assert not {each.text for each in shown} & {each.text for each in asked}
    numbers = [int(each.text.split()[2].rstrip(",")) for each in asked]
    assert numbers == sorted(numbers)
    assert numbers[-1] > 50
    question = asked[0]
    assert question.correct == ("It is odd.", "One.", question.best)
    assert question.incorrect == ("A dog.", "Sea.")
    text = truthfulqa.prompt_text(shown)
    assert text.endswith(f"Q: {shown[-1].text}\nA: {shown[-1].best}\n\n")
    with pytest.raises(ConfigError, match="cannot exceed the 36 questions.*--truthfulqa 36"):
        truthfulqa.read_questions(path, 37)
    path.write_text("Question,Best Answer\nWhy?,So\n")
    with pytest.raises(ConfigError, match="must be a CSV"):
        truthfulqa.read_questions(path, 1)


def test_multiple_choice_scores() -> None:
    half, quarter = math.log(0.5), math.log(0.25)
    assert mc1(half, [quarter, quarter])
    assert not mc1(quarter, [half, quarter])
    assert not mc1(half, [half])
    assert mc2([half, quarter], [quarter]) == pytest.approx(0.75)
    assert mc2([-2000.0], [-2000.0]) == pytest.approx(0.5)
    assert mc2([-1.0], [-9999.0]) == 1


def test_words_in_common() -> None:
    assert word_f1("The cat sat", "the CAT, sat.") == 1
    assert word_f1("cat", "dog") == word_f1("", "dog") == 0
    assert word_f1("a a b", "a c") == pytest.approx(2 / 5)
    assert closer_to_true("nothing happens", ["Nothing happens."], ["You get sick."])
    assert not closer_to_true("you get sick", ["Nothing happens."], ["You get sick."])
    assert not closer_to_true("", ["Nothing happens."], ["You get sick."])  # a tie is no hit


def test_means_and_errors() -> None:
    zero, one = ({"mc1": x, "mc2": x / 2, "greedy": 1 - x} for x in (0.0, 1.0))
    found = summary([zero, one, one, one])
    assert (found["n"], found["mc1"], found["mc2"], found["greedy"]) == (4, 75, 37.5, 25)
    assert found["mc1_se"] == pytest.approx(100 * math.sqrt(0.75 * 0.25 / 4))


def test_a_question_is_asked_behind_the_prompt(tmp_path: Path) -> None:
    question = truthfulqa.Question("Why?", "So.", ("No.", "So."), ("Dog.",))
    sheet = truthfulqa.Sheet.of(FakeModel(), question)  # type: ignore[arg-type]
    held = 10
    script = [0] * held + sheet.asked + [ord(char) for char in " So.\nQ: more"]
    context: Any = Parrot(script)
    context.feed([1] * held)
    found = truthfulqa.ask(context, held, sheet)
    assert (found["mc1"], found["greedy"]) == (1, 1)
    # 4 of 4 characters agree, and of the others the space, or the space and the stop
    z = math.log(math.exp(5) + 255)
    same = {"So.": 4, "No.": 3, "Dog.": 2}
    log_p = {answer: 5 * n - (len(answer) + 1) * z for answer, n in same.items()}
    assert found["mc2"] == pytest.approx(mc2([log_p["No."], log_p["So."]], [log_p["Dog."]]))
    assert truthfulqa.ask(context, held, sheet) == found
    assert sheet.longest == len(sheet.asked) + truthfulqa.ANSWER_TOKENS


def test_a_cache_that_cannot_undo_exactly_is_refused() -> None:
    question = truthfulqa.Question("Why?" * 9, "So.", ("So.",), ("Dog.",))
    kvs = {"narrow": resolve_kv("balanced", max_ubatch=32)}
    with pytest.raises(ConfigError, match="undoes up to .* narrow with max_ubatch=32"):
        truthfulqa.run(
            FakeModel(),
            kvs,
            [],
            [question],
            threads=1,
            pieces=Pieces(None, {}),  # type: ignore[arg-type]
        )
