"""The evaluation without a model: windows, KL arithmetic, resuming, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from xquant_gguf.config import resolve_kv
from xquant_gguf.errors import ConfigError, SessionFileError
from xquant_gguf.eval import cli, identity, options, windows
from xquant_gguf.eval.divergence import Baseline, TokenScores, summary
from xquant_gguf.eval.report import frontier_plot, markdown
from xquant_gguf.eval.resume import Pieces

VOCAB = 50


class FakeContext:
    """Logits that depend on the token, its place and the cache's noise; counts what it is fed."""

    BATCH = windows.Context.BATCH

    def __init__(self, model: Any, kv: Any, *, n_ctx: int, threads: int, swa_full: bool) -> None:
        self.noise = 0.0 if kv == resolve_kv("f16") else 0.3
        self.model, self.held, self.fed = model, 0, 0

    def clear(self) -> None:
        self.held = 0

    def close(self) -> None:
        self.model.closed += 1

    def feed(self, tokens: Any, *, logits: str = "all", copy: bool = True) -> Any:
        rows = []
        for token in tokens:
            random = np.random.default_rng([token, self.held])
            rows.append(4 * random.normal(size=VOCAB) + self.noise * random.normal(size=VOCAB))
            self.held += 1
        self.model.fed += len(tokens)
        found = np.array(rows, np.float32)
        return found if logits == "all" else found[-1:]


@pytest.fixture
def fake_model(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(windows, "Context", FakeContext)
    return SimpleNamespace(fed=0, closed=0, tokenize=lambda text: [ord(c) % VOCAB for c in text])


def logits(rows: int, seed: int, spread: float = 5.0) -> Any:
    return (spread * np.random.default_rng(seed).normal(size=(rows, VOCAB))).astype(np.float32)


def test_windows_score_what_is_wanted() -> None:
    tokens = list(range(100))
    assert windows.windows(tokens, 40, 10, 1000) == [tokens[:40], tokens[40:80], tokens[80:]]
    assert windows.windows(tokens, 40, 10, 29) == [tokens[:40]]
    assert windows.windows(tokens, 40, 10, 31) == [tokens[:40], tokens[40:53]]
    assert windows.windows(tokens[:11], 40, 10, 5) == []


def test_a_short_text_is_refused(fake_model: Any) -> None:
    assert len(windows.cut_text(fake_model, "x" * 100, 40, 10, 58)) == 2
    with pytest.raises(ConfigError, match="a text that gives 67 .*use --tokens 67"):
        windows.cut_text(fake_model, "x" * 100, 40, 10, 80)
    with pytest.raises(ConfigError, match="longer text or a smaller --skip"):
        windows.cut_text(fake_model, "", 40, 10, 1)
    with pytest.raises(ConfigError, match="--ctx must be larger than --skip"):
        windows.cut_text(fake_model, "x" * 100, 11, 10, 1)


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_kl_against_double_precision(offset: float) -> None:
    base, mine = logits(7, 1), logits(7, 1) + logits(7, 2, 0.05) + np.float32(offset)
    following = [3, 1, 4, 1, 5, 9, 2]
    untouched = mine.copy()
    found = Baseline(base).compare(mine, following)
    p, q = (
        np.log(np.exp(x) / np.exp(x).sum(-1, keepdims=True)) for x in map(np.float64, (base, mine))
    )
    expected = (np.exp(p) * (p - q)).sum(-1)
    assert expected.max() < 0.01
    assert found.kl == pytest.approx(expected, abs=1e-6 if not offset else 2e-4)
    assert found.nll == pytest.approx(-q[range(7), following], rel=1e-5, abs=1e-4)
    assert list(found.same_top) == list(base.argmax(-1) == mine.argmax(-1))
    assert (mine == untouched).all()


def test_a_cache_like_the_baseline_diverges_by_exactly_nothing() -> None:
    base = logits(5, 3)
    assert not Baseline(base).compare(base.copy(), [0] * 5).kl.any()


def test_scores_survive_json() -> None:
    scores = TokenScores(
        np.array([0.1, 1e-9], "f4"), np.array([True, False]), np.array([3.3, 0.0], "f4")
    )
    back = TokenScores.from_json(json.loads(json.dumps(scores.to_json())))
    for name in ("kl", "same_top", "nll"):
        assert (getattr(back, name) == getattr(scores, name)).all()
        assert getattr(back, name).dtype == getattr(scores, name).dtype


def test_summary() -> None:
    kl, top, nll = np.array([1, 3], "f4"), np.array([True, False]), np.array([0, 2], "f4")
    found = summary([TokenScores(kl[:1], top[:1], nll[:1]), TokenScores(kl[1:], top[1:], nll[1:])])
    assert found["tokens"] == 2
    assert (found["kl_mean"], found["same_top"]) == (2, 50)
    assert found["kl_se"] == pytest.approx(1 / np.sqrt(2))
    assert found["perplexity"] == pytest.approx(np.e)
    assert found["perplexity_se"] == pytest.approx(np.e / np.sqrt(2))


def test_standard_errors_are_those_of_repeated_samples() -> None:
    """200 samples of 2000 tokens: how far the figures scatter is what each of them says."""
    rng = np.random.default_rng(3)

    def sample() -> dict[str, float]:
        kl, nll = rng.exponential(0.1, 2000), rng.normal(3, 0.5, 2000)
        return summary([TokenScores(kl.astype("f4"), nll < 3, nll.astype("f4"))])

    found = [sample() for _ in range(200)]
    errors = {"kl_mean": "kl_se", "kl_p99": "kl_p99_se", "perplexity": "perplexity_se"}
    for name, error in errors.items():
        scatter = np.std([row[name] for row in found])
        assert np.mean([row[error] for row in found]) == pytest.approx(scatter, rel=0.2), name


def run_kl(model: Any, pieces: Pieces, progress: Any = lambda n: None) -> Any:
    texts = [[(7 * i + j) % VOCAB for i in range(150)] for j in range(3)]
    kvs = {"f16": resolve_kv("f16"), "q4_0": resolve_kv("q4_0")}
    return windows.run(
        model, kvs, texts, n_ctx=150, skip=20, threads=1, pieces=pieces, progress=progress
    )


def test_a_run_that_was_killed_goes_on(fake_model: Any, tmp_path: Path) -> None:
    whole = run_kl(fake_model, Pieces(None, {}))
    assert whole["f16"]["kl_mean"] == 0 < whole["q4_0"]["kl_mean"]
    assert fake_model.fed == 3 * 149 * 2  # f16 is the reference itself
    path, seen = str(tmp_path / "x.partial"), []

    def stop(n: int) -> None:
        seen.append(n)
        if sum(seen) > 149:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_kl(fake_model, Pieces(path, {"run": 1}), stop)
    assert fake_model.closed == 4
    pieces = Pieces(path, {"run": 1})
    assert len(pieces) == 1
    assert f"1 finished pieces are in {path}" in pieces.notice()
    fake_model.fed, fake_model.closed, counted = 0, 0, []
    assert run_kl(fake_model, pieces, counted.append) == whole
    assert fake_model.fed == 2 * 149 * 2
    assert sum(counted) == 3 * 149
    fake_model.fed = 0
    assert run_kl(fake_model, Pieces(path, {"run": 1})) == whole
    assert (fake_model.fed, fake_model.closed) == (0, 2)  # all kept: no context is made
    pieces.drop()
    pieces.drop()
    assert not Path(path).exists()


def test_damaged_partial_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.partial"
    kept = Pieces(str(path), {"a": 1, "b": [2]})
    assert "no piece" in kept.notice()
    for i in range(2):
        kept.put({"n": i}, "kl", i)
    good = path.read_bytes()

    path.write_bytes(good[:-4])  # killed while it wrote the last line
    again = Pieces(str(path), {"a": 1, "b": [2]})
    assert (again.get("kl", 0), again.get("kl", 1)) == ({"n": 0}, None)
    assert capsys.readouterr().err.count("\n") == 1
    again.put({"n": 1}, "kl", 1)
    assert path.read_bytes() == good

    with pytest.raises(SessionFileError, match="another b;.* delete the file"):
        Pieces(str(path), {"a": 1, "b": [3]})
    lines = good.split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"{nonsense", *lines[2:]]))
    with pytest.raises(SessionFileError, match="a damaged line 2"):
        Pieces(str(path), {"a": 1, "b": [2]})
    path.write_bytes(b"my diary\n")
    with pytest.raises(SessionFileError, match="without partial results"):
        Pieces(str(path), {})
    path.write_text('{"format": 99, "identity": {}}\n')
    with pytest.raises(SessionFileError, match="another version"):
        Pieces(str(path), {})
    assert "without --json" in Pieces(None, {}).notice()
    with pytest.raises(SessionFileError, match="writable"):
        Pieces(str(tmp_path / "no" / "x"), {}).put(1, "kl", 0)


def test_identity_follows_the_files(tmp_path: Path) -> None:
    model, library = tmp_path / "m.gguf", tmp_path / "lib"
    library.mkdir()
    (library / "libllama.so").write_bytes(b"one")
    model.write_bytes(b"x" * 10)
    before = identity.model_identity(str(model)), identity.library_identity(library)
    assert before[0]["bytes"] == 10
    model.write_bytes(b"y" * 10)
    (library / "libllama.so").write_bytes(b"two")
    assert identity.model_identity(str(model)) != before[0]
    assert identity.library_identity(library) != before[1]


def test_pairs() -> None:
    assert options.parse_pairs("20, 5,20") == [5, 20]
    for text in ("", "0,5", "many"):
        with pytest.raises(ConfigError, match="--retrieval-pairs"):
            options.parse_pairs(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kv", ","], "--kv needs"),
        (["--kv", "f17"], "did you mean f16"),
        (["--tokens", "-1"], "--tokens must be 0 or more"),
        (["--threads", "0"], "--threads"),
        (["--tokens", "0"], "something to measure"),
        (["--tokens", "0", "--truthfulqa", "1", "--plot", "x.png"], "--plot draws KL"),
        (["--json", "no/such/folder/x.json"], "--json"),
        ([], "KL needs a text; got neither --text nor --data"),
        (["--data", "nowhere"], f"no file {Path('nowhere/wikitext-2/wiki.test.raw')}"),
        (["--text", "nowhere.txt"], "--text must be readable"),
        (["--tokens", "0", "--retrieval", "1"], "--retrieval needs the data folder"),
        (["--tokens", "0", "--retrieval", "1", "--data", "x"], "kv-retrieval/*.jsonl.gz below"),
        (["--tokens", "0", "--truthfulqa", "1", "--data", "x"], "TruthfulQA.csv below --data"),
        (["--text", __file__], "the model file must exist"),
    ],
)
def test_errors_take_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["missing.gguf", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error


def result() -> dict[str, Any]:
    def row(kv: str, kl: float, settings: str) -> dict[str, Any]:
        return {
            "kv": kv, "code_bits": 2.0, "true_bits": 2.5, "bytes": 3 << 20, "settings": settings,
            "kl_mean": kl, "kl_se": 0.01, "kl_p99": 1.0, "kl_p99_se": 0.1, "same_top": 80.0,
            "same_top_se": 1.0, "perplexity": 20.0, "perplexity_se": 0.5,
            "retrieval": {"5": {"prompt_tokens": 494.4, "hits": 60.0, "se": 21.9, "n": 5}},
            "truthfulqa": {
                "prompt_tokens": 748, "n": 9, "mc1": 33.33, "mc1_se": 5.0, "mc2": 40.0,
                "mc2_se": 1.0, "greedy": 50.0, "greedy_se": 2.0,
            },
        }  # fmt: skip

    rows = [row("f16", 0.0, '"f16"'), row("balanced", 0.1, "k_bits=2")]
    return {"model": "m", "text": "t", "tokens": 9, "ctx": 64, "skip": 8, "rows": rows}


def test_tables() -> None:
    tables = markdown(result())
    row = "| balanced | 2.00 | 2.50 | 3.0 | 0.1000 ± 0.0100 | 1.000 ± 0.100 | 80.0 ± 1.0 "
    assert row + "| 20.00 ± 0.50 |" in tables
    assert "| kv | true bits | 5 pairs (494) |" in tables
    assert "| balanced | 2.50 | 60 ± 22 |" in tables
    assert "| balanced | 2.50 | 33.3 ± 5.0 | 40.0 ± 1.0 | 50.0 ± 2.0 |" in tables
    assert "perplexity" not in markdown({**result(), "tokens": 0})


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    frontier_plot(result(), str(tmp_path / "kl.png"))
    assert (tmp_path / "kl.png").stat().st_size > 5000
