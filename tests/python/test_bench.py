"""The benchmark: order of the work, arithmetic of the rows, errors, and one small real run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xquant_gguf.bench import cli, speed
from xquant_gguf.bench.filler import make_text
from xquant_gguf.bench.report import markdown_table, speed_plot
from xquant_gguf.config import resolve_kv
from xquant_gguf.errors import ConfigError, OutOfMemoryError
from xquant_gguf.gguf_header import ModelInfo

TOKENS = list(range(1000, 2000))
KEYS = {
    "kv", "depth", "decode_tok_s", "prefill_tok_s", "attention_ms", "kv_bytes",
    "decode_tok_s_q1", "decode_tok_s_q3", "attention_ms_q1", "attention_ms_q3",
}  # fmt: skip


class FakeContext:
    """Takes 1 ms a token and ``slope`` ms more for every token held, on a clock of its own."""

    def __init__(self, name: str, slope: float, clock: list[float], calls: list[Any]) -> None:
        self.name, self.slope, self.clock, self.calls = name, slope, clock, calls
        self.held: list[int] = []

    def feed(self, tokens: list[int], *, logits: str) -> None:
        assert logits == "last"
        self.calls.append((self.name, len(self.held), len(tokens)))
        self.clock[0] += 1e-3 * len(tokens) * (1 + self.slope * len(self.held))
        self.held += tokens

    def rewind(self, n_past: int) -> None:
        self.clock[0] += 5.0  # undoing a step is not part of its time
        del self.held[n_past:]

    def clear(self) -> None:
        self.held = []

    def snapshot(self) -> Any:
        return SimpleNamespace(bytes_total=int(1000 * self.slope))


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Any:
    clock, calls = [0.0], []
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    caches: Any = {
        "f16": FakeContext("f16", 0.02, clock, calls),
        "balanced": FakeContext("balanced", 0.01, clock, calls),
    }
    return SimpleNamespace(caches=caches, calls=calls)


def run(fakes: Any, depths: list[int], **kwargs: Any) -> list[speed.Row]:
    kwargs = {"batch": 40, "rounds": 2, "steps": 3, **kwargs}
    return [row for rows in speed.measure(fakes.caches, TOKENS, depths, **kwargs) for row in rows]


def test_rows_follow_from_the_times(fakes: Any) -> None:
    rows = {(row.kv, row.depth): row for row in run(fakes, [0, 100])}
    assert list(rows) == [("f16", 0), ("balanced", 0), ("f16", 100), ("balanced", 100)]
    empty, deep = rows["f16", 0], rows["f16", 100]
    assert empty.decode_tok_s == pytest.approx(1000)
    assert (empty.prefill_tok_s, empty.attention_ms, empty.attention_ms_q1) == (None, None, None)
    assert deep.decode_tok_s == pytest.approx(1000 / 3)
    assert deep.attention_ms == pytest.approx(2)
    assert deep.decode_tok_s_q1 == pytest.approx(deep.decode_tok_s_q3)
    assert deep.prefill_tok_s == pytest.approx(100 / (0.040 + 0.040 * 1.8 + 0.020 * 2.6))
    assert rows["balanced", 100].attention_ms == pytest.approx(1)
    assert deep.kv_bytes == 20


def test_caches_take_turns_and_depth_stays(fakes: Any) -> None:
    run(fakes, [0, 60, 100])
    expected: list[Any] = [("f16", 0, 40), ("balanced", 0, 40)]  # warm-up
    for depth, fills in ((0, []), (60, [(0, 40), (40, 20)]), (100, [(60, 40)])):
        expected += [(kv, *fill) for fill in fills for kv in ("f16", "balanced")]
        expected += [
            (kv, depth, 1) for _ in range(2) for kv in ("f16", "balanced") for _ in range(4)
        ]
    assert fakes.calls == expected
    for context in fakes.caches.values():
        assert context.held == TOKENS[:100]  # what a real prompt would have left


def test_quartiles_are_the_spread() -> None:
    row = speed._row("f16", 8, [1.0, 2.0, 4.0, 8.0, 10.0], 1.0, 5.0, 7)
    assert (row.decode_tok_s_q1, row.decode_tok_s, row.decode_tok_s_q3) == (125, 250, 500)
    assert (row.attention_ms_q1, row.attention_ms, row.attention_ms_q3) == (1, 3, 7)


def test_progress_adds_up(fakes: Any) -> None:
    seen: list[int] = []
    run(fakes, [0, 100], progress=lambda what, n: seen.append(n))
    assert sum(seen) == 2 * (100 + 2 * 2 * 3)


def test_depths() -> None:
    assert cli.parse_depths("8192, 2048,2048") == [0, 2048, 8192]
    for text in ("", "2k", "-1", "1,,x"):
        with pytest.raises(ConfigError, match="--depth"):
            cli.parse_depths(text)


def test_made_up_text() -> None:
    text = make_text(500)
    assert text == make_text(500)
    assert len(text.split()) == 500
    assert len(set(text.split())) > 100
    assert text.endswith(".")
    assert text.isascii()


def test_a_short_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("one two three")
    model: Any = SimpleNamespace(tokenize=lambda text: text.split())
    assert len(cli.fill_tokens(model, 50, None)) == 50
    assert cli.fill_tokens(model, 2, str(tmp_path / "short.txt")) == ["one", "two"]
    with pytest.raises(ConfigError, match="must have 9 tokens"):
        cli.fill_tokens(model, 9, str(tmp_path / "short.txt"))


def test_memory_is_for_all_caches_at_once() -> None:
    info = ModelInfo("m", 0, "llama", 2, 0, (1, 1), 64, 64, True)
    kvs = {"f16": resolve_kv("f16"), "q8_0": resolve_kv("q8_0")}
    one = 256 * 2 * 2 * 64 * 2
    cli.check_memory(info, kvs, 256, 2 * one)
    cli.check_memory(info, kvs, 256, None)
    with pytest.raises(OutOfMemoryError, match="all caches together"):
        cli.check_memory(info, kvs, 256, one + 1)


def result(*, f16: bool = True) -> dict[str, Any]:
    def row(kv: str, depth: int, speed_: float, ms: float | None, size: int) -> dict[str, Any]:
        return {
            "kv": kv, "depth": depth, "kv_bytes": size << 20,
            "decode_tok_s": speed_, "decode_tok_s_q1": speed_ - 1, "decode_tok_s_q3": speed_ + 1,
            "prefill_tok_s": 3 * speed_ if depth else None,
            "attention_ms": ms, "attention_ms_q1": ms, "attention_ms_q3": ms,
        }  # fmt: skip

    rows = [row("balanced", 0, 99, None, 8), row("balanced", 64, 60, 2.0, 8)]
    if f16:
        rows = [row("f16", 0, 100, None, 32), row("f16", 64, 20, 8.0, 32), *rows]
    return {"model": "m.gguf", "threads": 2, "rows": rows}


def test_table_has_ratios_to_f16() -> None:
    table = markdown_table(result(), rounds=3, steps=16, n_ctx=256)
    assert "| 64 | balanced | 60.0 [59.0, 61.0] | 3.00 | 180.0 | 3.00 | 2.00 | 0.25 |" in table
    assert "| 0 | balanced | 99.0 [98.0, 100.0] | 0.99 | – | – | – | – | 8.0 | 0.25 |" in table
    assert "minus the one at depth 0" in table
    alone = markdown_table(result(f16=False), rounds=3, steps=16, n_ctx=256)
    assert "| 64 | balanced | 60.0 [59.0, 61.0] | – | 180.0 | – | 2.00 | – | 8.0 | – |" in alone


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    speed_plot(result(), str(tmp_path / "speed.png"))
    assert (tmp_path / "speed.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kv", ","], "--kv needs"),
        (["--kv", "f17"], "did you mean f16"),
        (["--depth", "many"], "--depth"),
        (["--threads", "0"], "--threads"),
        (["--steps", "0"], "--steps"),
        (["--json", "no/such/folder/x.json"], "--json"),
        ([], "no such file"),
    ],
)
def test_errors_take_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["missing.gguf", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    if arguments:
        assert words in error


@pytest.mark.model
@pytest.mark.usefixtures("packed_library")
def test_a_real_run(smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "speed.json"
    arguments = ["--kv", "f16,balanced", "--depth", "0,64", "--threads", "2", "--steps", "2"]
    assert cli.main([str(smollm2), *arguments, "--rounds", "1", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert set(found) == {"model", "threads", "rows"}
    assert [(row["depth"], row["kv"]) for row in found["rows"]] == [
        (0, "f16"), (0, "balanced"), (64, "f16"), (64, "balanced"),
    ]  # fmt: skip
    assert all(set(row) == KEYS for row in found["rows"])
    assert all(row["decode_tok_s"] > 0 and row["kv_bytes"] > 0 for row in found["rows"])
    assert all((row["prefill_tok_s"] is None) == (row["depth"] == 0) for row in found["rows"])
    assert "| 64 | balanced |" in capsys.readouterr().out


@pytest.mark.model
def test_ctrl_c_keeps_finished_depths(
    smollm2: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*args: Any, **kwargs: Any) -> Any:
        yield next(measure(*args, **kwargs))
        raise KeyboardInterrupt

    measure = speed.measure
    monkeypatch.setattr(cli, "measure", stop)
    out = tmp_path / "speed.json"
    arguments = ["--kv", "f16", "--depth", "64", "--steps", "1", "--rounds", "1"]
    assert cli.main([str(smollm2), *arguments, "--threads", "2", "--json", str(out)]) == 130
    assert [row["depth"] for row in json.loads(out.read_text())["rows"]] == [0]
    printed = capsys.readouterr()
    assert "| 0 | f16 |" in printed.out
    assert "1 of 2 depths" in printed.err
