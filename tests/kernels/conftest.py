"""Every kernel test runs once for each implementation."""

from __future__ import annotations

import pytest

from .lib import implementations

KNOWN = ("avx512", "avx-vnni", "avx2", "neon-dotprod", "neon", "generic")


@pytest.fixture(params=KNOWN)
def impl(request: pytest.FixtureRequest) -> str:
    """A CPU implementation; skipped where this machine or build lacks it."""
    if request.param not in implementations():
        pytest.skip(f"this machine or build has no {request.param} kernels")
    return str(request.param)


@pytest.fixture(params=("reference", *KNOWN))
def strip_impl(request: pytest.FixtureRequest) -> str:
    """An implementation of sealing and unpacking, the reference among them."""
    if request.param != "reference" and request.param not in implementations():
        pytest.skip(f"this machine or build has no {request.param} kernels")
    return str(request.param)
