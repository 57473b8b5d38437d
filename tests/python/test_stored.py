"""Costs of a pass in the user's cache folder, and the choices that ``auto`` makes from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xquant_gguf._measuring import parse_kv
from xquant_gguf.calibrate import one_pass, stored
from xquant_gguf.calibrate.one_pass import LayerCost, Measured
from xquant_gguf.calibrate.shapes import Shape
from xquant_gguf.config import PRESETS, XQuantConfig
from xquant_gguf.errors import ConfigError
from xquant_gguf.plan_file import fingerprint, resolve_auto


def layer(il: int, scale: float, why: str = "") -> LayerCost:
    shape = Shape(il, 2, 64, 64)
    k, v = ({b: scale * 4**-b for b in shape.widths(side)} for side in ("k", "v"))  # type: ignore[arg-type]
    return LayerCost(shape, {}, {}, why) if why else LayerCost(shape, k, v)


LAYERS = tuple(layer(il, scale) for il, scale in enumerate((1, 1, 100, 1)))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XQUANT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    return path


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were measured."""
    seen: list[str] = []

    def measure(path: str) -> Measured:
        seen.append(path)
        return Measured(LAYERS, 9.0)

    monkeypatch.setattr(one_pass, "measure", measure)
    return seen


def widths(config: Any, side: str) -> list[float]:
    return [float(bits) for bits in getattr(config, f"{side}_layers").split("/")]


def test_measured_once_then_read(model: Path, runs: list[str]) -> None:
    told: list[str] = []
    first = resolve_auto("auto", model, told.append)
    assert isinstance(first, XQuantConfig)
    assert told[-1] == "measured which layers need bits: 9 s, once"
    assert resolve_auto("auto", model, told.append) == first
    assert parse_kv("auto:tiny:sink=0", str(model)) != first
    assert len(runs) == 1
    assert len(told) == 2
    assert stored.read(stored.path_of(fingerprint(model)), fingerprint(model)) == LAYERS


def test_the_sensitive_layer_has_the_bits(model: Path, runs: list[str]) -> None:
    shapes = [each.shape for each in LAYERS]
    for budget in ("", ":tiny", ":balanced", ":2.6", ":quality"):
        config = resolve_auto(f"auto{budget}", model)
        assert isinstance(config, XQuantConfig)
        for side in ("k", "v"):
            found = widths(config, side)
            assert found[2] == max(found) > min(found)
        name = budget[1:] or "balanced"
        preset = PRESETS.get(name)
        most = stored.bits_of(preset, shapes) if isinstance(preset, XQuantConfig) else 2.6
        assert most - 0.15 < stored.bits_of(config, shapes) <= most + 1e-9


def test_a_plan_beside_the_model_comes_first(model: Path, runs: list[str]) -> None:
    from test_plan_file import CONFIG, plan_of, write

    write(model, plan_of(model))
    assert resolve_auto("auto", model) == CONFIG
    assert resolve_auto("auto:balanced", model) != CONFIG
    assert len(runs) == 1


def test_a_file_that_is_not_ours_is_measured_again(model: Path, runs: list[str]) -> None:
    mark = fingerprint(model)
    resolve_auto("auto", model)
    place = stored.path_of(mark)
    good = json.loads(place.read_text())
    broken: list[Any] = ["", "[]", "{}", json.dumps({**good, "version": 0})]
    for path, value in (
        (("model", "fingerprint"), "other"),
        (("layers",), []),
        (("layers", 0, "dk"), 0),
        (("layers", 0, "k"), {}),
        (("layers", 1, "v", "2"), -1),
        (("layers", 1, "v", "2"), "x"),
        (("layers", 1, "why_none"), 3),
    ):
        data = json.loads(json.dumps(good))
        at = data
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        broken.append(json.dumps(data))
    for text in broken:
        place.write_text(text)
        with pytest.raises(ConfigError, match="must be sensitivities of this model"):
            stored.read(place, mark)
        before = len(runs)
        resolve_auto("auto", model)
        assert len(runs) == before + 1
        assert json.loads(place.read_text()) == good


def test_a_folder_that_cannot_be_written_is_told(
    model: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XQUANT_CACHE", str(model))
    told: list[str] = []
    assert isinstance(resolve_auto("auto", model, told.append), XQuantConfig)
    assert "could not be kept" in told[-1]


def test_layers_without_costs() -> None:
    told: list[str] = []
    mixed = (*LAYERS[:3], layer(3, 0, "another stream"))
    assert widths(stored.choose(mixed, "balanced", told.append), "k")[2] == 3
    assert told == ["1 of 4 layers could not be measured (another stream)"]
    none = tuple(layer(il, 0, "another stream") for il in range(4))
    assert stored.choose(none, "balanced", told.append) == PRESETS["balanced"]
    assert told[-1] == "every layer has the bits of balanced"
    with pytest.raises(ConfigError, match="bits by layer need layers that can be measured"):
        stored.choose(none, "2.6", told.append)


def test_only_presets_in_the_formats_of_a_plan_are_budgets(model: Path) -> None:
    assert stored.names() == ["lossless", "quality", "balanced", "small", "tiny"]
    for name in ("xquant", "kivi2", "f16", "17", "nan", "-1"):
        with pytest.raises(ConfigError, match="needs a plan for the model"):
            resolve_auto(f"auto:{name}", model)
    with pytest.raises(ConfigError, match="fewest bits of every layer"):
        stored.choose(LAYERS, "0.3", lambda text: None)
