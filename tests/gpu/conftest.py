"""The emulated GPU implementations, built once and known to the kernel tests by name."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernels import lib

from .build import SOURCES, emulated


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("emulated")
    return {name: emulated(name, out) for name in SOURCES}


@pytest.fixture(scope="session")
def known(libraries: dict[str, Path]) -> Iterator[None]:
    """``lib.call`` finds the emulated implementations."""
    lib.others.update({name: ctypes.CDLL(str(path)) for name, path in libraries.items()})
    yield
    for name in libraries:
        del lib.others[name]


@pytest.fixture(params=list(SOURCES))
def impl(request: pytest.FixtureRequest, known: None) -> str:
    """An emulated implementation; its threads run in the same order every time."""
    lib.others[request.param].xq_emulated_seed(1)
    return str(request.param)


@pytest.fixture
def strip_impl(impl: str) -> str:
    return impl
