"""The checks that pass see every deliberate defect (mutants.txt)."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from .build import HERE, SOURCES, run
from .mutants import build, mutants

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("impl", list(SOURCES))
def test_every_mutant_is_seen(impl: str, tmp_path: Path) -> None:
    library = build(tmp_path, impl)
    path = os.pathsep.join([str(HERE.parent), str(HERE.parents[1])])
    output = run(sys.executable, "-m", "gpu.run_mutants", impl, library, env={"PYTHONPATH": path})
    print(output)
    wanted = sum(mutant.impl == impl for mutant in mutants())
    assert re.search(rf"^{wanted} mutants, 0 not seen$", output, re.MULTILINE), output
