"""Every case of attention (tests/kernels) on the batch body, also those for the other body.

The batch body multiplies in f16. So it is held against the oracle for queries, keys and
values rounded to f16, within the budgets of the other body: what is left is the rounding of
weights (seen: 5e-8).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from kernels import lib, test_attend, test_attend_ranked, test_not_finite, test_seal_layer
from kernels.budgets import ATTENTION, assert_near
from kernels.case import Case, Shape
from numpy.typing import NDArray
from oracle.layer import Store, attend_layer

from . import test_edges
from .build import SOURCES
from .test_kernels import kernel_tests

for _module in ("attend", "attend_ranked", "not_finite"):
    globals().update(kernel_tests(_module))

MODULES = (test_attend, test_attend_ranked, test_not_finite, test_seal_layer, test_edges)
"""That make cases."""

FORM = {"k_ranked": 2.3, "v_bits": 2, "v_unbiased": True, "v_rotate": True}


def half(x: NDArray[np.floating]) -> NDArray[np.float64]:
    return x.astype(np.float16).astype(np.float64)


class HalfStore(Store):
    """A layer whose codes are read as f16."""

    def sealed(self, stream: int, at: int, head: int) -> tuple[NDArray[np.float64], ...]:
        keys, values = super().sealed(stream, at, head)
        return half(keys), half(values)


class HalfCase(Case):
    """A case whose answer is that of f16 queries, keys and values.

    Head dims beyond 256 are the other body's, here and on a device.
    """

    def recompute(self) -> None:
        if max(self.shape.dk, self.shape.dv) > 256:
            super().recompute()
            return
        logits = self.logits
        scale = np.float32(logits.scale / logits.softcap if logits.softcap else logits.scale)
        q = half(self.q * scale) / float(scale)
        store = HalfStore(**vars(self.store))
        self.want = attend_layer(store, self.table, q, self.mask, logits)


build = functools.lru_cache(maxsize=256)(HalfCase)


@contextmanager
def batch(impl: str, library: ctypes.CDLL) -> Iterator[str]:
    """The implementation that takes any number of rows with its batch body; cases expect f16."""
    name = f"{impl}-batch"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lib.others, name, library)
        for module in MODULES:
            patch.setattr(module, "Case", HalfCase)
            patch.setattr(module, "build", build, raising=False)
        yield name


@pytest.fixture(params=list(SOURCES))
def impl(request: pytest.FixtureRequest, libraries: dict[str, Path]) -> Iterator[str]:
    library = ctypes.CDLL(str(libraries[request.param]))
    library.xq_emulated_seed(1)
    with batch(request.param, library) as name:
        yield name


@pytest.mark.parametrize("d", (64, 72, 128, 256))
def test_many_rows(impl: str, d: int) -> None:
    """Blocks of 4, 2 and 1 warps with rows, the last of them not full; parts of several chunks."""
    form = {"dk": d, "dv": d, "heads": 1, "group": 3, "tokens": 50, "sinks": True, **FORM}
    case = build(Shape(n_kv=290 if d > 64 else 1300, holes=True, **form))
    assert_near(case.run(impl), case.want, ATTENTION)


@pytest.mark.parametrize("softcap", (0.0, 20.0))
def test_logits_that_grow(impl: str, softcap: float) -> None:
    """The reference of the weights moves several times, at other tiles for other rows."""
    case = HalfCase(Shape(tokens=20, n_kv=600, layout="pages", softcap=softcap, sinks=True))
    k = case.store.k_pages
    for (stream, tile), page in case.page_of.items():
        k[stream, 32 * page : 32 * page + 32] *= np.float16(0.25 * (1 + tile))
    case.recompute()
    assert_near(case.run(impl), case.want, ATTENTION)


def test_hidden_cells_may_hold_anything(impl: str) -> None:
    test_edges.test_hidden_cells_may_hold_anything(impl)
