"""Every case of the CPU kernels (tests/kernels), by the Vulkan shaders on a device.

A software device will do: Mesa's lavapipe.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
from kernels import lib

from .test_kernels import MODULES, kernel_tests
from .vulkan import started, vulkan

pytestmark = pytest.mark.slow

for _module in MODULES:
    globals().update(kernel_tests(_module))
for _module in ("edges", "pages"):
    globals().update(kernel_tests(_module, "gpu"))
from .test_threads import test_spans  # noqa: E402, F401


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return started(vulkan(tmp_path_factory.mktemp("vulkan")))


@pytest.fixture
def impl(library: ctypes.CDLL) -> Iterator[str]:
    lib.others["vulkan"] = library
    yield "vulkan"
    del lib.others["vulkan"]


@pytest.fixture
def strip_impl(impl: str) -> str:
    return impl
