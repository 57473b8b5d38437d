"""docs/presets.md says what the presets are."""

from __future__ import annotations

import dataclasses
import re

from conftest import ROOT

from xquant_gguf.config import PRESETS, XQuantConfig

PAGE = (ROOT / "docs/presets.md").read_text("utf-8")


def test_settings_are_those_of_the_presets() -> None:
    table = PAGE.split("<!-- presets -->")[1].split("<!-- end -->")[0]
    rows = dict(re.findall(r"^\| `(\S+)` \| ?(.*?) ?\|$", table, re.MULTILINE))
    assert list(rows) == ["lossless", "quality", "balanced", "small", "tiny"]
    default = dataclasses.asdict(XQuantConfig())
    for name, told in rows.items():
        settings = dataclasses.asdict(PRESETS[name])  # type: ignore[call-overload]
        changed = {key: value for key, value in settings.items() if value != default[key]}
        said = dict(part.strip("` ").split("=") for part in told.split(", ") if part)
        assert said == {key: f"{value:g}" if isinstance(value, (int, float)) else value
                        for key, value in changed.items()}  # fmt: skip


def test_every_preset_is_explained() -> None:
    for name in (*PRESETS, "auto"):
        assert f"`{name}`" in PAGE
