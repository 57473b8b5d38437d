"""The evaluation with SmolLM2: all parts, with made-up data and tiny counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_eval_tasks import write_questions, write_rows

from xquant_gguf.bench.filler import make_text
from xquant_gguf.eval import cli

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("packed_library")]

KEYS = {
    "kv", "true_bits", "code_bits", "allocated_bits", "bytes", "tokens", "settings", "kl_mean",
    "kl_se", "kl_p99", "kl_p99_se", "same_top", "same_top_se", "perplexity", "perplexity_se",
    "retrieval", "truthfulqa",
}  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "wikitext-2").mkdir()
    (tmp_path / "wikitext-2" / "wiki.test.raw").write_text(make_text(500), encoding="utf-8")
    write_rows(tmp_path, 2, 5)
    write_questions(tmp_path, 30)
    return tmp_path


def command(model: Path, data: Path, out: Path) -> list[str]:
    return [
        str(model), "--data", str(data), "--kv", "f16,balanced", "--threads", "2",
        "--tokens", "90", "--ctx", "240", "--skip", "180", "--json", str(out),
        "--retrieval", "2", "--retrieval-pairs", "2,5", "--truthfulqa", "1",
    ]  # fmt: skip


def test_all_parts_and_going_on_after_ctrl_c(
    smollm2: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = data / "rows.json"
    hit, asked = cli.retrieval.hit, []

    def stop(context: Any, prompt: Any) -> bool:
        asked.append(prompt)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return hit(context, prompt)

    monkeypatch.setattr(cli.retrieval, "hit", stop)
    assert cli.main(command(smollm2, data, out)) == 130
    assert f"4 finished pieces are in {out}.partial" in capsys.readouterr().err
    assert not out.exists()

    assert cli.main(command(smollm2, data, out)) == 0
    assert len(asked) == 3 + 6
    printed = capsys.readouterr()
    assert "continuing with 4 finished pieces" in printed.err
    assert not Path(f"{out}.partial").exists()
    found = json.loads(out.read_text())
    assert found["tokens"] == 90
    f16, balanced = found["rows"]
    assert (f16["kv"], balanced["kv"]) == ("f16", "balanced")
    assert set(f16) == set(balanced) == KEYS
    assert f16["kl_mean"] == f16["kl_p99"] == 0 < balanced["kl_mean"] < 1
    assert f16["same_top"] == 100
    assert f16["tokens"] == balanced["tokens"] == 90
    assert balanced["bytes"] > 0
    for row in (f16, balanced):
        assert list(row["retrieval"]) == ["2", "5"]
        assert row["retrieval"]["5"]["prompt_tokens"] > row["retrieval"]["2"]["prompt_tokens"]
        assert all(row["retrieval"][n]["n"] == 2 for n in ("2", "5"))
        assert row["truthfulqa"]["n"] == 1
        assert row["truthfulqa"]["prompt_tokens"] > 400
        assert 0 < row["truthfulqa"]["mc2"] < 100
    assert "TruthfulQA: 1 questions" in printed.out


def test_tasks_alone_need_no_text(
    smollm2: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(data), "--kv", "q8_0", "--tokens", "0", "--retrieval", "1"]
    assert cli.main([str(smollm2), *arguments, "--retrieval-pairs", "2", "--threads", "2"]) == 0
    printed = capsys.readouterr().out
    assert "| q8_0 | 8.50 |" in printed
    assert "perplexity" not in printed


def test_undoing_questions_changes_nothing(smollm2: Path, data: Path) -> None:
    """An answer scored after many others has the log-probability of a fresh cache."""
    from xquant_gguf.config import resolve_kv
    from xquant_gguf.eval import truthfulqa
    from xquant_gguf.eval.contexts import Context, Model

    model = Model(str(smollm2))
    shown, asked = truthfulqa.read_questions(data / "truthfulqa" / "TruthfulQA.csv", 2)
    prompt = model.tokenize(truthfulqa.prompt_text(shown))
    sheets = [truthfulqa.Sheet.of(model, question) for question in asked]
    found = []
    for order in (sheets, sheets[1:]):
        context = Context(model, resolve_kv("balanced"), n_ctx=1024, threads=2)
        context.feed(prompt, logits="last")
        found.append([truthfulqa.ask(context, len(prompt), sheet) for sheet in order][-1])
        context.close()
    model.close()
    assert found[0] == found[1]
