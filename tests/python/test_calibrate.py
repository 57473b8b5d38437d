"""Calibration without a model: the choice, its arithmetic, curves, sharing, text and errors."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xquant_gguf.calibrate import cli, lanes, options, verify
from xquant_gguf.calibrate.budget import Budget, choose_bits, parse_budget
from xquant_gguf.calibrate.choose import Option, Table
from xquant_gguf.calibrate.picture import bar, figures, layers_plot, print_picture
from xquant_gguf.calibrate.sensitivity import HIGH, Curve, fit, lanes_of, measure_layers
from xquant_gguf.calibrate.shapes import SIDES, Shape, true_bits, units_within
from xquant_gguf.calibrate.sharing import measure_sharing, trials
from xquant_gguf.config import XQuantConfig
from xquant_gguf.errors import ConfigError
from xquant_gguf.eval.resume import Pieces

SHAPES = [Shape(i, 3, 64, 64) for i in range(4)]


def problem(seed: int) -> list[list[Option]]:
    pick = random.Random(seed)
    scale = pick.choice([1, 3])
    return [
        [Option(scale * pick.randint(1, 9), pick.random()) for _ in range(pick.randint(1, 4))]
        for _ in range(5)
    ]


def all_sums(slots: list[list[Option]]) -> list[tuple[int, float]]:
    return [
        (sum(option.cost for option in each), sum(option.loss for option in each))
        for each in itertools.product(*slots)
    ]


@pytest.mark.parametrize("seed", range(25))
def test_the_choice_is_the_best_there_is(seed: int) -> None:
    slots = problem(seed)
    sums = all_sums(slots)
    limit = random.Random(seed).randint(min(sums)[0], max(sums)[0])
    picks = Table(slots, limit).least_loss()
    assert picks is not None
    assert sum(each[i].cost for each, i in zip(slots, picks)) <= limit
    found = sum(each[i].loss for each, i in zip(slots, picks))
    assert found == pytest.approx(min(loss for cost, loss in sums if cost <= limit))

    budget = random.Random(seed).uniform(min(loss for _, loss in sums), 4)
    picks = Table(slots, max(sums)[0]).least_cost(budget)
    assert picks is not None
    assert sum(each[i].loss for each, i in zip(slots, picks)) <= budget + 1e-12
    found_cost = sum(each[i].cost for each, i in zip(slots, picks))
    assert found_cost == min(cost for cost, loss in sums if loss <= budget)


def test_a_choice_that_cannot_be_had() -> None:
    slots = problem(0)
    assert Table(slots, min(all_sums(slots))[0] - 1).least_loss() is None
    assert Table(slots, 100).least_cost(-1.0) is None


def test_bits_of_the_format() -> None:
    """docs/format.md: k_bits + 0.48 and B + 0.14 at head dim 64."""
    one = [Shape(0, 3, 64, 64)]
    units = one[0].cost("k", 2) + one[0].cost("v", 2)
    keys, values = 2 + 8 * (20 + 1.75 * 64) / (32 * 64), 2 + 8 * 36 / (32 * 64)
    assert true_bits(one, units) == pytest.approx((keys + values) / 2)
    assert units_within(one, true_bits(one, units)) == units
    assert units_within(one, true_bits(one, units) - 1e-3) == units - 1
    assert Shape(0, 1, 128, 80).cost("v", 2) == 6  # three strips, the last one padded
    assert Shape(0, 1, 80, 80).widths("k") == (1.2, 1.6, 2.0, 2.4, 3.2, 4.4)
    wide = Shape(0, 2, 512, 512)  # keys of two strips of 256 rows
    assert (wide.cost("k", 2), wide.meta_bytes("k")) == (64, 4 * (20 + 1.75 * 256))
    padded = Shape(0, 1, 264, 64)  # of two strips of 136 rows
    assert (padded.cost("k", 2), padded.meta_bytes("k")) == (18, 2 * (20 + 1.75 * 136))


def curves(seed: int = 0) -> dict[Any, Curve]:
    pick = random.Random(seed)
    return {
        (i, side): Curve(math.log(pick.uniform(0.001, 0.1)), pick.uniform(0.8, 2.0), {})
        for i in range(len(SHAPES))
        for side in SIDES
    }


@pytest.mark.parametrize("bits", [1.4, 1.8, 2.313, 3.0, 9.0])
def test_a_budget_of_bits_is_kept_and_used(bits: float) -> None:
    found = choose_bits(SHAPES, curves(), 0.001, Budget(bits, None))
    assert found.true_bits <= bits
    assert found.true_bits > min(bits, 4.5) - 0.2
    total = sum(curves()[i, "k"].kl(b) for i, b in enumerate(found.k))
    total += sum(curves()[i, "v"].kl(b) for i, b in enumerate(found.v))
    assert found.kl == pytest.approx(0.001 + total)
    assert found.config.k_layers == "/".join(f"{b:g}" for b in found.k)


def test_equal_layers_get_equal_bits_and_a_sensitive_one_more() -> None:
    same = {key: Curve(math.log(0.01), 1.5, {}) for key in curves()}
    even = choose_bits(SHAPES, same, 0.0, Budget(true_bits(SHAPES, 4 * 3 * 8), None))
    assert set(even.k) == {2} and set(even.v) == {2}
    same[1, "v"] = Curve(math.log(1.0), 1.5, {})
    uneven = choose_bits(SHAPES, same, 0.0, Budget(true_bits(SHAPES, 4 * 3 * 8), None))
    assert uneven.v[1] > 2


def test_a_budget_of_kl_takes_the_fewest_bits() -> None:
    loose = choose_bits(SHAPES, curves(), 0.0, Budget(None, 0.1))
    tight = choose_bits(SHAPES, curves(), 0.0, Budget(None, 0.02))
    assert loose.kl <= 0.1 and tight.kl <= 0.02
    assert loose.true_bits < tight.true_bits
    again = choose_bits(SHAPES, curves(), 0.0, Budget(loose.true_bits - 1e-3, None))
    assert again.kl > 0.1


def test_budgets_out_of_reach_say_what_is_in_reach() -> None:
    with pytest.raises(ConfigError, match="--bits 1; use 1.329 or more"):
        choose_bits(SHAPES, curves(), 0.0, Budget(1.0, None))
    with pytest.raises(ConfigError, match="--kl 0.001; use 0.0"):
        choose_bits(SHAPES, curves(), 0.002, Budget(None, 0.001))


def test_budgets_of_the_command_line() -> None:
    assert parse_budget(None, None, bits_of) == Budget(2.2, None)
    assert parse_budget("quality", None, bits_of) == Budget(2.7, None)
    assert parse_budget("2.5", None, bits_of) == Budget(2.5, None)
    assert parse_budget(None, 0.05, bits_of) == Budget(None, 0.05)
    for bits, kl in (("2", 0.1), ("f16", None), ("nan", None), ("-1", None), (None, 0.0)):
        with pytest.raises(ConfigError, match="--bits|--kl"):
            parse_budget(bits, kl, bits_of)


def test_curves_have_one_slope_and_levels_of_their_own() -> None:
    two = fit({0: {1.0: 0.04, 2.0: 0.01}, 1: {1.0: 0.4, 2.0: 0.1}})
    assert two[0].kl(1) == pytest.approx(0.04)
    assert two[1].kl(2) == pytest.approx(0.1)
    assert two[1].kl(3) == pytest.approx(0.025)
    noisy = fit({0: {1.0: 0.04, 2.0: 0.012}, 1: {1.0: 0.04, 2.0: 0.008}})
    assert noisy[0].slope == noisy[1].slope == pytest.approx(math.log(4))
    assert 0.04 < noisy[0].kl(1) < 0.041
    assert noisy[0].kl(1) / noisy[1].kl(1) < 1.03


def test_noise_does_not_make_layers_free() -> None:
    found = fit({0: {1.0: 0.04, 2.0: 0.01}, 1: {1.0: -0.001, 2.0: 0.0}})
    assert found[1].kl(1) == pytest.approx(found[0].kl(1) / 20, rel=0.05)
    rising = fit({0: {1.0: 0.04, 2.0: 0.05}})[0]
    assert rising.kl(1) / rising.kl(2) == pytest.approx(2)  # more bits never cost KL
    for nothing in fit({0: {1.0: -0.1, 2.0: -0.1}, 1: {1.0: 0.0, 2.0: 0.0}}).values():
        assert 0 < nothing.kl(2) < nothing.kl(1) < 1e-6


def made_up(lanes_: Any) -> dict[str, float]:
    """KL adds up over layers; keys of layer 2 cost ten times as much as all else."""
    found = {}
    for name, config in lanes_.items():
        kl = 0.001
        for side in SIDES:
            for i, bits in enumerate((getattr(config, f"{side}_layers") or "4/4/4/4").split("/")):
                weight = 0.1 if (side, i) == ("k", 2) else 0.01
                kl += weight * 4 ** -float(bits) if float(bits) < 4 else 0.0
        found[name] = kl
    return found


def test_layers_are_measured_one_at_a_time() -> None:
    floor, found = measure_layers(SHAPES, [0, 1, 2, 3], made_up)
    assert floor == pytest.approx(0.001)
    assert found[2, "k"].kl(1) == pytest.approx(0.1 / 4)
    assert found[0, "v"].kl(2) == pytest.approx(0.01 / 16)
    all_lanes = lanes_of(SHAPES, [0, 1, 2, 3])
    assert len(all_lanes) == 16
    assert all_lanes[1, "k", 1].k_layers == "4.5/1/4.5/4.5"
    assert all_lanes[3, "v", 2].v_layers == "4/4/4/2"
    assert all_lanes[3, "v", 2].k_layers is None


def test_layers_between_are_interpolated() -> None:
    _, found = measure_layers(SHAPES, [0, 2, 3], made_up)
    assert found[1, "k"].kl(1) == pytest.approx(math.sqrt(0.1 / 4 * 0.01 / 4))
    assert found[1, "k"].measured == {}


def test_sharing_is_compared_at_no_more_bits() -> None:
    for trial in trials(SHAPES):
        assert getattr(trial.shared, f"{trial.side}_share_from") == trial.share_from
        assert trial.unshared.k_share_from is None and trial.unshared.v_share_from is None
    assert trials(SHAPES)[1].unshared.k_layers == "2/2/1/1"
    assert trials(SHAPES[:1]) == []

    def kl(lanes_: Any) -> dict[str, float]:
        return {
            name: 0.2 if name.startswith("k") == ("unshared" in name) else 0.1 for name in lanes_
        }

    rows = measure_sharing(SHAPES, kl, lambda config: 2.0)
    assert [(row["side"], row["share"]) for row in rows] == [
        ("k", True), ("k", True), ("v", False), ("v", False),
    ]  # fmt: skip
    assert (
        "0.1000 of unshared layers at 2.00 true bits is lower than 0.2000" in rows[2]["decided_by"]
    )
    assert measure_sharing(SHAPES[:1], kl, lambda config: 2.0) == []


def bits_of(config: XQuantConfig) -> float:
    if config.k_layers:
        return 2.0
    return {1.5: 1.8, 2: 2.2, 3: 2.7, 4.5: 4.6}[config.k_bits] + (0.3 if config.v_layers else 0)


def test_a_preset_that_is_better_is_written() -> None:
    plan = XQuantConfig(k_layers="2/2", v_layers="1/2")
    asked: list[str] = []

    def kl(low: float) -> Any:
        def measure(lanes_: Any) -> dict[str, float]:
            asked.extend(lanes_)
            assert {config.window for config in lanes_.values()} == {32}
            return {name: low if config.k_layers else 0.1 for name, config in lanes_.items()}

        return measure

    rows = verify.verify(plan, kl(0.01), bits_of)
    assert asked == ["plan", "balanced", "tiny", "xquant"]
    written, why = verify.best(rows)
    assert written.name == "plan"
    assert "best preset with no more bits: tiny" in why
    written, why = verify.best(verify.verify(plan, kl(0.5), bits_of))
    assert written.name == "tiny"
    assert "tiny is written in place of the plan" in why

    rows = verify.verify(plan, kl(0.5), bits_of, allowed=2.2)
    rows = [r if r.name != "balanced" else replace(r, kl=0.05) for r in rows]
    assert verify.best(rows)[0].name == "tiny"  # balanced has more bits than the plan
    assert verify.best(rows, allowed=2.2)[0].name == "balanced"


def test_a_kl_budget_is_one_of_measured_kl() -> None:
    wanted: list[float] = []

    def choose(budget: Budget) -> Any:
        assert budget.kl is not None
        wanted.append(budget.kl)
        if budget.kl < 0.01:
            raise ConfigError("out of reach")
        return SimpleNamespace(config=HIGH, kl=budget.kl)

    def measure(factor: float) -> Any:
        return lambda lanes_: dict.fromkeys(lanes_, factor * wanted[-1])

    assert verify.choose(choose, Budget(None, 0.1), measure(2.0)).kl == pytest.approx(0.05)
    assert verify.choose(choose, Budget(None, 0.1), measure(0.9)).kl == 0.1
    assert verify.choose(choose, Budget(None, 0.02), measure(3.0)).kl == 0.02  # no lower one is
    with pytest.raises(ConfigError, match="out of reach"):
        verify.choose(choose, Budget(None, 0.001), measure(1.0))


def test_lanes_are_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import numpy as np

    fed: list[list[str]] = []

    def measure(reference: Any, caches: Any, text: Any, **kwargs: Any) -> Any:
        fed.append(list(caches))
        kwargs["progress"](len(text) - 1)
        return {name: SimpleNamespace(kl=np.float32([len(text), 1])) for name in caches}

    monkeypatch.setattr(lanes, "measure", measure)
    monkeypatch.setattr(lanes.Bench, "_open", lambda self, stack, kv: None)
    monkeypatch.setattr(lanes, "_MOST", 2)
    monkeypatch.setattr(lanes, "available_bytes", lambda: 1 << 40)
    monkeypatch.setattr(lanes, "cache_bytes", lambda *args: 1)
    seen: list[int] = []
    pieces = Pieces(str(tmp_path / "p"), {})
    model: Any = SimpleNamespace(n_vocab=8, info=None)
    bench = lanes.Bench(model, 8, 1, 1, pieces, seen.append)
    many = {f"k{bits}": HIGH.replace(k_bits=bits) for bits in (1, 2, 3)}
    texts = {0: list(range(8)), 1: list(range(4))}
    assert bench.kl(many, texts) == dict.fromkeys(many, (4.5 + 2.5) / 2)
    assert [len(names) for names in fed] == [2, 2, 1, 1]
    assert sum(seen) == 3 * (7 + 3)
    bench = lanes.Bench(model, 8, 1, 1, Pieces(str(tmp_path / "p"), {}), seen.append)
    assert bench.kl({**many, "k4": HIGH.replace(k_bits=4)}, texts)["k4"] == 3.5
    assert [len(names) for names in fed[4:]] == [1, 1]


def test_a_text_is_cut_or_refused() -> None:
    first, second = options.cut(range(1000), 300, 1)
    assert [list(part)[0] for part in first.values()] == [0]
    assert [list(part)[0] for part in second.values()] == [300, 600]
    with pytest.raises(ConfigError, match="must have 1050 tokens.*got 1000 tokens; use --ctx 333"):
        options.cut(range(1000), 350, 1)
    with pytest.raises(ConfigError, match="give a longer --text"):
        options.cut(range(100), 350, 1)


def made_up_plan() -> dict[str, Any]:
    kl = {"measured": {"1": 0.02}, "predicted": {"1": 0.02, "2": 0.005}}
    return {
        "model": {"name": "m.gguf"},
        "chosen": "plan", "why": "because", "true_bits": 2.3, "kl_measured": 0.1,
        "kl_predicted": 0.2, "tokens": 800, "kl_high": 0.001,
        "layers": [
            {"il": i, "k_bits": 1.5, "v_bits": 2, "k_kl": kl, "v_kl": kl} for i in (5, 11)
        ],
        "pairs": [{"layers": [5, 11], **{s: {"above_chance": 0.02} for s in "kv"}}],
        "sharing": [{"side": "k", "share_from": 0.5, "decided_by": "KL"}],
    }  # fmt: skip


def test_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bar(0.5, 4) == "██"
    assert bar(7, 2) == "██"
    assert bar(0.0) == ""
    print_picture(made_up_plan())
    printed = capsys.readouterr().out
    assert "1.5" in printed and "0.0200" in printed and "11" in printed
    assert max(len(line) for line in printed.splitlines() if "│" in line) <= 80
    assert "keys 2 to 2 %" in figures(made_up_plan())[0]
    pytest.importorskip("matplotlib")
    layers_plot(made_up_plan(), str(tmp_path / "layers.png"))
    assert (tmp_path / "layers.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ctx", "64"], "--ctx must be 128 or more"),
        (["--contexts", "0"], "--contexts"),
        (["--every", "0"], "--every"),
        (["--threads", "0"], "--threads"),
        (["--out", "no/such/folder/x.json"], "--out"),
        (["--text", "no-such-file.txt"], "--text"),
        ([], "missing.gguf"),
    ],
)
def test_errors_take_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["missing.gguf", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert words in error
