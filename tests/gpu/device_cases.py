"""Every case of the CPU kernels on a device; pytest takes this file only where it is named.

XQUANT_KERNELS names the library: cuda_host/calls.cu, built by python/gpu/bundle.py for CUDA, or
by tests for the emulator. Nothing of it needs a compiler.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

import pytest
from kernels import lib

from .build import DEVICE
from .test_batch import batch
from .test_kernels import MODULES, kernel_tests
from .test_threads import test_spans  # noqa: F401

for _module in MODULES:
    globals().update(kernel_tests(_module))
for _module in ("edges", "pages"):
    globals().update(kernel_tests(_module, "gpu"))


@pytest.fixture
def device() -> ctypes.CDLL:
    return ctypes.CDLL(os.environ["XQUANT_KERNELS"])


@pytest.fixture
def impl(device: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(lib.others, DEVICE, device)
    return DEVICE


@pytest.fixture
def strip_impl(impl: str) -> str:
    return impl


class TestBatch:
    """Attention on the batch body, whatever the number of rows."""

    @pytest.fixture
    def impl(self, device: ctypes.CDLL) -> Iterator[str]:
        with batch(DEVICE, device) as name:
            yield name


for _name, _test in kernel_tests("batch", "gpu").items():
    setattr(TestBatch, _name, staticmethod(_test))
