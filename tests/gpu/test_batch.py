"""Every case of attention (tests/kernels) on the batch body, also those for the other body.

The batch body multiplies in f16. So it is held against the oracle for queries, keys and
values rounded to f16, within the budgets of the other body: what is left is the rounding of
weights (seen: 5e-8).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from kernels import lib, test_attend, test_attend_ranked
from kernels.case import Case
from numpy.typing import NDArray
from oracle.layer import Store, attend_layer

from .build import SOURCES
from .test_kernels import kernel_tests

for _module in ("attend", "attend_ranked"):
    globals().update(kernel_tests(_module))


def half(x: NDArray[np.floating]) -> NDArray[np.float64]:
    return x.astype(np.float16).astype(np.float64)


class HalfStore(Store):
    """A layer whose codes are read as f16."""

    def sealed(self, stream: int, at: int, head: int) -> tuple[NDArray[np.float64], ...]:
        keys, values = super().sealed(stream, at, head)
        return half(keys), half(values)


class HalfCase(Case):
    """A case whose answer is that of f16 queries, keys and values."""

    def recompute(self) -> None:
        logits = self.logits
        scale = np.float32(logits.scale / logits.softcap if logits.softcap else logits.scale)
        q = half(self.q * scale) / float(scale)
        store = HalfStore(**vars(self.store))
        self.want = attend_layer(store, self.table, q, self.mask, logits)


@pytest.fixture(params=list(SOURCES))
def impl(
    request: pytest.FixtureRequest, libraries: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    library = ctypes.CDLL(str(libraries[request.param]))
    library.xq_emulated_seed(1)
    name = f"{request.param}-batch"
    monkeypatch.setitem(lib.others, name, library)
    for module in (test_attend, test_attend_ranked):
        monkeypatch.setattr(module, "Case", HalfCase)
        monkeypatch.setattr(module, "build", HalfCase)
    yield name
