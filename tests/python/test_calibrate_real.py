"""Calibration on a real model, with the fewest tokens there can be: from command line to chat."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from xquant_gguf.calibrate import cli, lanes
from xquant_gguf.plan_file import resolve_auto

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("packed_library")]

QUICK = ["--every", "29", "--ctx", "128", "--bits", "tiny"]


@pytest.mark.slow
def test_from_measuring_to_auto(
    smollm2: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tmp_path / "smol.gguf"
    model.symlink_to(smollm2)
    real, calls = lanes.measure, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(args[1]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(lanes, "measure", interrupted)
    assert cli.main([str(model), *QUICK]) == 130
    assert f"{calls[0]} finished pieces" in capsys.readouterr().err
    assert cli.main([str(model), "--ctx", "160", *QUICK[:2]]) == 2
    assert "another --out" in capsys.readouterr().err

    assert cli.main([str(model), *QUICK]) == 0
    printed = capsys.readouterr()
    assert f"continuing with {calls[0]} measurements" in printed.err
    assert "bits by layer" in printed.out
    assert not Path(f"{model}.xquant.json.partial").exists()
    plan = json.loads(Path(f"{model}.xquant.json").read_text())
    assert len(plan["layers"]) == 30 and len(plan["pairs"]) == 15
    assert plan["layers"][0]["k_kl"]["measured"] and not plan["layers"][1]["k_kl"]["measured"]
    allowed = plan["compared"]["tiny"]["true_bits"] + 1e-4
    assert plan["true_bits"] <= allowed
    within = [row for row in plan["compared"].values() if row["true_bits"] <= allowed]
    assert plan["kl_measured"] == min(row["kl"] for row in within)
    assert all(not row["share"] for row in plan["sharing"])

    from xquant_gguf.llama import Llama

    with closing(Llama(model, kv="auto", n_ctx=256, verbose=False)) as llm:
        assert llm.kv_config == resolve_auto("auto", model)
        assert llm.kv_cache.true_bits == pytest.approx(plan["true_bits"], abs=1e-3)
