"""The emulator itself: emulator_check.cpp."""

from __future__ import annotations

from pathlib import Path

from .build import CPP, FLAGS, GPU, HERE, compiler, run


def test_emulator(tmp_path: Path) -> None:
    program = tmp_path / "check"
    folders = (CPP, HERE.parent / "cpp", HERE.parent / "neon" / "stub")
    sources = (HERE / "emulator_check.cpp", CPP / GPU / "emulated" / "emulator.cpp")
    run(compiler(), *FLAGS, *(f"-I{folder}" for folder in folders), *sources, "-o", program)
    assert "all checks passed" in run(program)
