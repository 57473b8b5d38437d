"""Deep stock caches from the rows of a shallow one."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from test_calibrate_agreement import CELLS, LAYERS, WIDTH, state

from xquant_gguf.bench import cli
from xquant_gguf.bench.repeat import repeat_to, repeated
from xquant_gguf.calibrate.kv_rows import parse, read_rows
from xquant_gguf.errors import UnsupportedModelError
from xquant_gguf.eval.contexts import Context, Model
from xquant_gguf.stock import STOCK


def test_rows_come_again_at_positions_of_their_own() -> None:
    depth = 2 * CELLS + 7
    longer = bytes(repeated(state(), CELLS, depth))
    found = parse(longer, depth)
    once = parse(state(), CELLS)
    assert len(found) == LAYERS
    for cell in (0, CELLS - 1, CELLS, depth - 1):
        assert struct.unpack_from("<iIi", longer, 16 + 12 * cell) == (cell, 1, 0)
        assert (found[1].v[cell] == once[1].v[cell % CELLS]).all()
    assert found[0].k.shape == (depth, WIDTH)


@pytest.mark.parametrize(
    "data", [b"", state()[:-1], state(streams=2), state(transposed=1), state() + b"windows"]
)
def test_states_of_other_caches_are_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedModelError, match="plain cache"):
        repeated(data, CELLS, 2 * CELLS)


@pytest.mark.model
@pytest.mark.parametrize("kv", ["f16", "q8_0"])
def test_llama_cpp_takes_it_back(smollm2: Path, kv: str) -> None:
    model = Model(str(smollm2))
    context = Context(model, STOCK[kv], n_ctx=512, threads=1)
    try:
        context.feed(model.tokenize("The sea is salty because rivers carry salt into it."))
        held = context.held[0]
        rows = read_rows(context) if kv == "f16" else []
        repeat_to(context, 300)
        assert context.held == [300]
        for before, after in zip(rows, read_rows(context) if rows else []):
            assert (after.k[:held] == before.k).all()
            assert (after.v[299] == before.v[299 % held]).all()
        assert np.isfinite(context.feed([1])).all()
        assert context.held == [301]
    finally:
        context.close()
        model.close()


@pytest.mark.model
@pytest.mark.usefixtures("packed_library")
def test_a_run_that_repeats(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--kv", "f16,balanced", "--depth", "64,256", "--repeat", "64", "--threads", "1"]
    assert cli.main([str(smollm2), *args, "--rounds", "1", "--steps", "2"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if "|" in line]
    deepest = {row[1].strip(): row[4].strip() for row in rows if row[0].strip() == "256"}
    assert deepest["f16"] == "–"
    assert float(deepest["balanced"]) > 0


def test_a_negative_number_is_refused(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([str(smollm2), "--repeat", "-1"]) == 2
    assert "--repeat must be 0 or more" in capsys.readouterr().err
