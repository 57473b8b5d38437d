"""``python -m xquant_gguf.plan`` and the estimates behind it: what is said is what is allocated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import write

from xquant_gguf.config import PRESETS, resolve_kv
from xquant_gguf.errors import ConfigError, ModelFileError
from xquant_gguf.estimate import Estimator, MemoryUse, Room, memory_use
from xquant_gguf.eval.contexts import Context, Model
from xquant_gguf.plan import cli
from xquant_gguf.plan.rows import Row, advice
from xquant_gguf.stock import StockKV

pytestmark = pytest.mark.usefixtures("packed_library")
ARCHS = ["qwen35", "lfm2", "gpt-oss", "gemma4-d256-shared", "llama4"]


def allocated(model: Model, kv: str, n_ctx: int) -> tuple[MemoryUse, int]:
    """What a context of a loaded model has, and what the cache's own figures say."""
    known = resolve_kv(kv)
    flash = not isinstance(known, StockKV) or known.quantised
    context = Context(model, known, n_ctx=n_ctx, threads=2, batch=512, flash_attn=flash)
    try:
        return memory_use(model.native, context.handle), context.snapshot().bytes_total
    finally:
        context.close()


@pytest.mark.model
@pytest.mark.parametrize("name", ["smollm2", "qwen", "gemma"])
def test_an_estimate_is_what_is_allocated(request: pytest.FixtureRequest, name: str) -> None:
    check(request.getfixturevalue(name), [*PRESETS, "q8_0"], (512, 4096, 9000))


@pytest.mark.parametrize("arch", ARCHS)
def test_of_every_kind_of_model(tmp_path: Path, arch: str) -> None:
    path = write(tmp_path, "model", arch)
    found = check(path, ["f16", "q8_0", "balanced", "xquant"], (512, 8192))
    assert (found.recurrent > 0) == (arch in ("qwen35", "lfm2"))


def check(path: Path, kvs: list[str], contexts: tuple[int, ...]) -> MemoryUse:
    model = Model(str(path))
    with Estimator(str(path)) as estimator:
        for n_ctx in contexts:
            for kv in kvs:
                use = estimator.use(resolve_kv(kv), n_ctx, threads=2)
                real, counted = allocated(model, kv, n_ctx)
                assert (use.kv, use.recurrent) == (real.kv, real.recurrent)
                assert use.kv == counted or kv in ("f16", "q8_0")
                assert abs(use.compute / real.compute - 1) < 0.01
                assert abs(use.weights / real.weights - 1) < 0.06  # a mapped file has gaps
    model.close()
    return use


def test_nothing_is_allocated(tmp_path: Path) -> None:
    """A cache of many gigabytes is reckoned in moments, and the longest that fits is found."""
    with Estimator(str(write(tmp_path, "model", "llama"))) as estimator:
        kv = resolve_kv("balanced")
        assert estimator.use(resolve_kv("f16"), 2**22, flash_attn=True).kv == 2**34
        room = Room(budget=2**28)
        longest = estimator.largest_ctx(kv, room, most=2**21)
        assert estimator.use(kv, longest).fits(room)
        assert not estimator.use(kv, longest + 256).fits(room)
        assert estimator.largest_ctx(kv, room, most=5000) == 5000
        assert estimator.largest_ctx(kv, Room(host=1000), most=5000) == 0
        assert estimator.largest_ctx(kv, Room(), most=5000) == 5000


def test_the_command_writes_every_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write(tmp_path, "model", "gpt-oss"), tmp_path / "plan.json"
    assert cli.main([str(path), "--json", str(out), "--budget", "64 MiB"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 100
    found = json.loads(out.read_text())
    assert found["model"] == str(path)
    by = {(row["kv"], row["n_ctx"]): row for row in found["rows"]}
    assert {4096, 8192, 32768} <= {n for _, n in by}
    row = by["balanced", 8192]
    model = Model(str(path))
    use, _ = allocated(model, "balanced", 8192)
    model.close()
    assert row["bytes_kv"] == use.kv
    assert abs(row["bytes_total"] / use.total - 1) < 0.01
    assert found["longest"]["tiny"] > found["longest"]["f16"]
    assert found["advice"] in said


def test_a_cache_that_the_model_cannot_have_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "model", "deepseek32")
    assert cli.main([str(path), "--kv", "f16,balanced", "--ctx", "4096"]) == 0
    said = capsys.readouterr().out
    assert "balanced: every layer's attention must have a packed form" in said
    assert "`f16`: all 32,768 tokens fit" in said


@pytest.mark.parametrize(
    ("text", "count"),
    [("4GiB", 2**32), ("1.5g", 3 * 2**29), ("900 MB", 900 * 2**20), ("77", 77), ("2kib", 2048)],
)
def test_sizes(text: str, count: int) -> None:
    assert cli.bytes_of(text) == count


@pytest.mark.parametrize("text", ["", "4x", "-1GiB", "0", "1e9", "9999999999T", "GiB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="a size is a number with a unit"):
        cli.bytes_of(text)


@pytest.mark.parametrize(
    "arguments",
    [["--ctx", "0"], ["--ctx", "4k"], ["--ctx", str(2**31)], ["--threads", "0"]]
    + [["--sequences", "0"], ["--gpu-layers", "-2"], ["--kv", "nonsense"], ["--budget", "much"]],
)
def test_bad_arguments_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert cli.main([str(write(tmp_path, "model")), *arguments]) == ConfigError.exit_code
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_that_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(40))
    for path in (tmp_path / "none.gguf", tmp_path / "x.gguf"):
        assert cli.main([str(path)]) == ModelFileError.exit_code
        assert capsys.readouterr().err.count("\n") == 1


def test_advice() -> None:
    def rows(**longest: int | None) -> list[Row]:
        return [Row(kv, {}, tokens) for kv, tokens in longest.items()]

    assert advice(rows(f16=9000, balanced=40000, quality=30000), 40000).startswith(
        "`balanced`: all 40,000 tokens fit that the model was made for; with f16 9,000"
    )
    assert advice(rows(f16=40000, balanced=40000), 40000).startswith("`f16`: all 40,000")
    assert advice(rows(f16=256, balanced=2560, tiny=5120), 40000).startswith(
        "`balanced`: 2,560 tokens fit, of the 40,000"
    )
    assert advice(rows(f16=0, balanced=0), 40000) == "None of these caches fits."
