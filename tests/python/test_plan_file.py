"""Plan files: round trip, kv="auto", and one clear error for everything that can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xquant_gguf.config import XQuantConfig
from xquant_gguf.errors import ConfigError, ModelFileError
from xquant_gguf.plan_file import (
    check_replaceable,
    fingerprint,
    plan_path,
    read_plan,
    resolve_auto,
    settings_of,
)

CONFIG = XQuantConfig(k_layers="2/1.5/3", v_layers="2/1/2")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    return path


def plan_of(model: Path) -> dict[str, Any]:
    return {
        "format": "xquant-plan",
        "version": 1,
        "model": {"name": model.name, "fingerprint": fingerprint(model)},
        "settings": settings_of(CONFIG),
        "true_bits": 2.3,
        "layers": [{}, {}, {}],
    }


def write(model: Path, text: str | dict[str, Any]) -> str:
    path = plan_path(model)
    Path(path).write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def test_auto_is_the_plan_beside_the_model(model: Path, tmp_path: Path) -> None:
    path = write(model, plan_of(model))
    assert path == str(tmp_path / "model.gguf.xquant.json")
    assert resolve_auto("auto", model) == CONFIG
    assert read_plan(path).true_bits == 2.3
    Path(path).rename(tmp_path / "other.json")
    assert resolve_auto(f"auto:{tmp_path / 'other.json'}", str(model)) == CONFIG


def test_other_caches_pass(model: Path) -> None:
    assert resolve_auto("balanced", model) == "balanced"
    assert resolve_auto("automatic", None) == "automatic"
    assert resolve_auto(CONFIG, None) is CONFIG


def test_a_fingerprint_is_of_size_and_head(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(model.read_bytes())
    assert fingerprint(copy) == fingerprint(model)
    copy.write_bytes(model.read_bytes() + b"x")
    assert fingerprint(copy) != fingerprint(model)
    with pytest.raises(ModelFileError, match="must be readable"):
        fingerprint(tmp_path / "none.gguf")


def test_no_plan_says_how_to_make_one(model: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_auto("auto:none.json", model)
    assert f"make it: python -m xquant_gguf.calibrate {model}" in str(caught.value)
    with pytest.raises(ConfigError, match="needs a model"):
        resolve_auto("auto", None)
    with pytest.raises(ModelFileError):
        resolve_auto("auto", model.with_name("none.gguf"))


def test_a_plan_of_another_model(model: Path) -> None:
    write(model, {**plan_of(model), "model": {"fingerprint": "0" * 64}})
    with pytest.raises(ConfigError, match="the model it was made for; .*make it again"):
        resolve_auto("auto", model)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON"),
        ("[1]", "no object"),
        ("{}", "format None"),
        ({"version": 2}, "version 2"),
        ({"settings": None}, "no settings"),
        ({"model": {}}, "no fingerprint"),
        ({"true_bits": "2"}, "true_bits '2'"),
        ({"settings": {"k_bits": 99}}, "k_bits is a number of bits"),
        ({"settings": {"colour": 1}}, "unknown settings colour"),
        ({"settings": {"k_layers": "2/2"}}, "2 k_layers for 3 layers"),
        ({"layers": None}, "no layers"),
    ],
)
def test_plans_that_cannot_be_used(model: Path, text: str | dict[str, Any], words: str) -> None:
    path = write(model, text if isinstance(text, str) else {**plan_of(model), **text})
    with pytest.raises(ConfigError, match="must be a plan") as caught:
        resolve_auto("auto", model)
    assert words in str(caught.value)
    assert path in str(caught.value)


def test_only_plans_are_replaced(model: Path) -> None:
    check_replaceable(write(model, {**plan_of(model), "version": 7}))
    check_replaceable(str(model.with_name("new.json")))
    with pytest.raises(ConfigError, match="only a plan is replaced.*another --out"):
        check_replaceable(str(model))


def test_a_plan_that_cannot_be_read(model: Path) -> None:
    Path(plan_path(model)).mkdir()
    with pytest.raises(ConfigError, match="must be readable"):
        resolve_auto("auto", model)
